import hashlib
import json
import multiprocessing
import os
import time

import pytest

from recbole_tslrec.store import files
from recbole_tslrec.store.files import file_hash, fingerprint, write_atomically
from recbole_tslrec.store.store import MANIFEST, WORK, Store


def write_text(text):
    return lambda folder: (folder / "result.txt").write_text(text) and {"length": len(text)}


def test_a_stage_is_made_once_and_found_again(tmp_path):
    first = Store(tmp_path).get("stage", {"k": 1}, write_text("one"))
    again = Store(tmp_path).get("stage", {"k": 1}, write_text("two"))
    other = Store(tmp_path).get("stage", {"k": 2}, write_text("three"))
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert (again.folder / "result.txt").read_text() == "one"
    assert again.notes == {"length": 3} and again.folder == first.folder != other.folder


def test_a_stage_that_fails_does_not_count_and_goes_on_from_what_it_left(tmp_path, caplog):
    def fail(folder):
        (folder / WORK).mkdir()
        (folder / WORK / "half").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        Store(tmp_path).get("stage", {}, fail)
    found = []
    with caplog.at_level("INFO"):
        stage = Store(tmp_path).get(
            "stage", {}, lambda f: found.append((f / WORK / "half").read_text())
        )
    assert f"Stage stage: goes on from [{stage.folder}.partial/{WORK}]" in caplog.text
    assert found == ["half"] and not stage.reused
    assert not list(tmp_path.glob("*.partial"))


def test_the_seconds_of_a_stage_are_those_of_all_runs_as_far_as_they_were_of_use(tmp_path):
    store, worked = Store(tmp_path), iter([100, 7, None])

    def make(folder):
        seconds = next(worked)
        if seconds is None:
            return {"said": 1}
        (folder / WORK).mkdir(exist_ok=True)
        shard = folder / WORK / f"shard-{seconds}"
        shard.write_text("half")
        os.utime(shard, (time.time() + seconds, time.time() + seconds))
        raise RuntimeError("killed")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            store.get("stage", {}, make)
    # The second run left nothing later than the first: time that it lost is not counted.
    stage = store.get("stage", {}, make)
    assert 198 <= stage.seconds < 203
    assert stage.notes["said"] == 1 and 198 <= stage.notes["seconds_before"] < 203
    assert store.seconds("stage", {}) == pytest.approx(stage.seconds, abs=0.01)


@pytest.mark.parametrize("damage", ["alter", "remove", "manifest", "swap"])
def test_a_damaged_stage_is_refused_by_name(tmp_path, damage):
    stage = Store(tmp_path).get("stage", {"k": 1}, write_text("one"))
    file, manifest = stage.folder / "result.txt", stage.folder / MANIFEST
    if damage == "alter":
        file.write_text("onf")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-10])
    else:
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(content | {"fingerprint": "another"}))
    with pytest.raises(ValueError, match=str(stage.folder)):
        Store(tmp_path).get("stage", {"k": 1}, write_text("one"))


def test_atomic_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("new, but")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_fingerprints_know_values_not_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def _slow_stage(root, queue):
    def make(folder):
        time.sleep(0.5)
        (folder / "result.txt").write_text("made")

    queue.put(Store(root).get("stage", {}, make).reused)


def test_two_processes_make_a_stage_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_slow_stage, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=30) for _ in processes) == [False, True]
    for process in processes:
        process.join()


def test_a_large_file_is_read_once_until_it_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LONG_TO_READ", 4)
    path, read = tmp_path / "weights", []
    content = files._hash_of_content
    monkeypatch.setattr(
        files, "_hash_of_content", lambda path, *told: read.append(path) or content(path, *told)
    )
    for n_read, words in enumerate((b"as it was", b"now so"), start=1):
        path.write_bytes(words)
        os.utime(path, ns=(n_read, n_read))  # the clock of a disk may be coarse
        for _ in range(2):
            assert file_hash(path) == hashlib.sha256(words).hexdigest()
        assert len(read) == n_read
