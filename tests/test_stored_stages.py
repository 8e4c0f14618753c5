"""What ``stages`` tells and what ``clean`` removes."""

import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from recbole_tslrec import __main__ as command_line
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.inventory import explain, stage_folders, stored_stages, table
from recbole_tslrec.stages.prune import leftovers, remove
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.locks import is_held, lock_files
from recbole_tslrec.store.store import MANIFEST, Store

BACKBONE = {"backbone": "SASRec", "settings": {"learning_rate": "0.001", "seed": "1"}}
DAY = 86400


def chain(n_categories=4, epochs=2, backbone=BACKBONE):
    """The stages of an experiment as the pipeline would ask for them."""
    categories = {
        "settings": {"n_categories": n_categories},
        "seed": 1,
        "backbone": fingerprint(backbone),
    }
    tuning = {
        "settings": {"sft_epochs": epochs, "lora_r": 2},
        "language_model": {"hub": "some/model", "revision": "1"},
        "categories": fingerprint(categories),
    }
    return {
        "backbone": backbone,
        "categories": categories,
        "fine_tuning": tuning,
        "augmentation": {"fine_tuning": fingerprint(tuning)},
    }


def make(folder):
    (folder / "items.safetensors").write_text("numbers")
    (folder / "adapters").mkdir(exist_ok=True)
    (folder / "adapters" / "a").write_text("more")


def stop(folder):
    (folder / "half").write_text("half")
    raise KeyboardInterrupt


@pytest.fixture
def root(tmp_path):
    """A folder of the four stages of one experiment."""
    for name, made_from in chain().items():
        Store(tmp_path / "store" / "data").get(name, made_from, make)
    return tmp_path / "store"


def by_name(root):
    return {stage.name: stage for stage in stored_stages(root)}


def age(path, days):
    then = time.time() - days * DAY
    for file in (path, *path.rglob("*")):
        os.utime(file, (then, then))


def test_the_table_says_what_each_stage_is(root):
    text = table(stored_stages(root), time.time())
    (line,) = [line for line in text.splitlines() if "augmentation-" in line]
    for part in (
        "data ",
        "llm some/model",
        "backbone SASRec",
        "K 4",
        "seed 1",
        "lora_r 2",
        "whole",
    ):
        assert part in line, part


def test_what_is_not_whole_is_named(root):
    stages = by_name(root)
    file = stages["backbone"].folder / "items.safetensors"
    file.write_text("numbert")
    assert by_name(root)["backbone"].problem is None  # the size is the same
    (altered,) = [stage for stage in stored_stages(root, verify=True) if stage.problem]
    assert str(file) in altered.problem
    file.write_text("num")
    assert "another size" in by_name(root)["backbone"].problem
    file.unlink()
    assert "missing" in by_name(root)["backbone"].problem
    manifest = stages["categories"].folder / MANIFEST
    manifest.write_text(manifest.read_text()[:-9])
    assert f"{manifest}] is cut short" in by_name(root)["categories"].problem
    assert table(stored_stages(root), time.time()).count("NOT USABLE") == 2


def test_why_a_stage_is_not_reused(root):
    stored = stored_stages(root)
    assert explain(chain(), stored)[-1].startswith("augmentation: would be reused from [")
    assert "backbone: not needed, since augmentation is there" in explain(chain(), stored)
    changed = "\n".join(explain(chain(epochs=5), stored))
    assert "categories: would be reused" in changed
    assert "fine_tuning: sft_epochs: 2 → 5" in changed
    # Two stages up: the difference is named where it lies.
    settings = BACKBONE["settings"] | {"learning_rate": "0.01"}
    lines = explain(chain(backbone=BACKBONE | {"settings": settings}), stored)
    at = next(i for i, line in enumerate(lines) if line.startswith("augmentation"))
    assert lines[at + 1 :] == ["    backbone: learning_rate: 0.001 → 0.01"]
    # The stage between is gone: only that it was another one can be said.
    gone = [stage for stage in stored if stage.name != "fine_tuning"]
    lines = explain(chain(epochs=5), gone)
    assert lines[-1].startswith("    augmentation: fine_tuning: content ")
    assert "fine_tuning: would be made; none is stored" in lines


def test_an_unfinished_stage_is_found_and_would_go_on(root):
    wanted = chain(epochs=9)
    with pytest.raises(KeyboardInterrupt):
        Store(root / "data").get("fine_tuning", wanted["fine_tuning"], stop)
    (stage,) = [stage for stage in stored_stages(root) if stage.unfinished]
    assert stage.name == "fine_tuning" and not stage.held
    assert f"fine_tuning: unfinished, would go on in [{stage.folder}]" in explain(
        wanted, stored_stages(root)
    )
    assert "unfinished, untouched for 0.0 days" in table([stage], time.time())


# ---- clean ----------------------------------------------------------------------------------------


def clean(root, **options):
    found = leftovers(root, time.time(), **options)
    return {leftover.path.name for leftover in found}, all([remove(each) for each in found])


def test_a_whole_store_keeps_everything(root):
    assert clean(root) == (set(), True)
    assert len(stored_stages(root)) == 4


def test_unfinished_and_damaged_stages_go(root):
    with pytest.raises(KeyboardInterrupt):
        Store(root / "data").get("categories", {"other": 1}, stop)
    (partial,) = root.glob("*/*.partial")
    assert clean(root) == (set(), True)  # its run may go on tomorrow
    age(partial, 8)
    damaged = by_name(root)["augmentation"].folder
    (damaged / "items.safetensors").unlink()
    assert clean(root) == ({partial.name, damaged.name}, True)
    assert not partial.exists() and not damaged.exists() and len(stored_stages(root)) == 3
    assert not [path for path in (root / "data").iterdir() if path.name.startswith(".")]


def test_a_stage_that_cannot_be_read_now_stays(root, monkeypatch):
    def stale(folder):
        raise OSError("Stale file handle")

    monkeypatch.setattr("recbole_tslrec.stages.inventory.read_manifest", stale)
    assert {stage.problem for stage in stored_stages(root)} >= {"Stale file handle"}
    assert clean(root) == clean(root, unused_days=0) == (set(), True)


def test_a_stage_of_another_version_of_the_store_stays(root, monkeypatch):
    monkeypatch.setattr("recbole_tslrec.store.store.FORMAT_VERSION", 2)
    assert all("is of format [1]" in stage.problem for stage in stored_stages(root))
    assert clean(root, older_than_days=0) == (set(), True)


def test_a_stage_is_listed_though_some_of_it_goes(root, monkeypatch):
    """transformers removes old checkpoints while the stage is made."""
    before = {stage.folder for stage in stored_stages(root)}
    is_file = Path.is_file

    def gone(path):
        if path.suffix == ".safetensors":
            raise FileNotFoundError(path)
        return is_file(path)

    monkeypatch.setattr("recbole_tslrec.stages.inventory._damage", lambda *given: None)
    monkeypatch.setattr(Path, "is_file", gone)
    assert {stage.folder for stage in stored_stages(root)} == before


def test_a_folder_that_goes_while_one_looks(root, monkeypatch):
    folders = stage_folders(root)
    monkeypatch.setattr(
        "recbole_tslrec.stages.inventory.stage_folders",
        lambda _: [root / "small" / "gone", *folders],
    )
    assert len(stored_stages(root)) == len(folders)


def test_unused_stages_go_but_never_what_others_were_made_from(root):
    for name, made_from in list(chain(epochs=9).items())[2:]:
        Store(root / "data").get(name, made_from, make)
    for stage in stored_stages(root):
        age(stage.folder, 100)
    assert clean(root) == (set(), True)  # not without being asked
    Store(root / "data").get("augmentation", chain(epochs=9)["augmentation"], make)  # reused today
    old = [chain()["fine_tuning"], chain()["augmentation"]]
    expected = {stage.folder.name for stage in stored_stages(root) if stage.made_from in old}
    assert clean(root, unused_days=50) == (expected, True)
    left = {stage.name: stage for stage in stored_stages(root)}
    assert len(left) == 4 and left["fine_tuning"].made_from == chain(epochs=9)["fine_tuning"]
    keep = {fingerprint(made_from) for made_from in chain(epochs=9).values()}
    assert clean(root, unused_days=0, keep=keep) == (set(), True)
    assert len(clean(root, unused_days=0)[0]) == 4 and not stored_stages(root)


def test_what_a_stage_of_an_unknown_name_is_made_from_stays(root):
    """A user's own paradigm is not imported by ``clean``."""
    own = Store(root / "data").get("mine", {"backbone": fingerprint(BACKBONE)}, make)
    clean(root, unused_days=0)
    assert {stage.name for stage in stored_stages(root)} == {"backbone"} and own.folder.is_dir()


def test_what_an_unfinished_stage_is_made_from_stays(root):
    with pytest.raises(KeyboardInterrupt):
        Store(root / "data").get("fine_tuning", chain(epochs=9)["fine_tuning"], stop)
    clean(root, unused_days=0)
    assert {stage.name for stage in stored_stages(root)} == {
        "backbone",
        "categories",
        "fine_tuning",
    }


def test_an_unfinished_stage_of_a_kept_experiment_stays_however_old(root):
    wanted = chain(epochs=9)
    with pytest.raises(KeyboardInterrupt):
        Store(root / "data").get("fine_tuning", wanted["fine_tuning"], stop)
    keep = {fingerprint(made_from) for made_from in wanted.values()}
    assert clean(root, older_than_days=0, keep=keep) == (set(), True)
    assert any(stage.unfinished for stage in stored_stages(root))


def _hold(root, queue):
    def wait(folder):
        queue.put("begun")
        time.sleep(60)

    Store(root / "data").get("categories", {"held": 1}, wait)


def test_a_stage_that_a_living_process_makes_stays(root):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_hold, args=(root, queue))
    process.start()
    queue.get(timeout=30)
    try:
        (partial,) = root.glob("*/*.partial")
        age(partial, 100)
        assert is_held(partial.with_suffix(""))
        assert clean(root) == (set(), True)
        text = table(stored_stages(root), time.time())
        assert f"being made by process {process.pid} on {socket.gethostname()}" in text
    finally:
        process.kill()
        process.join()
    assert clean(root)[0] >= {partial.name}


def test_temporary_files_go_with_their_process_and_strangers_stay(root, tmp_path):
    host = socket.gethostname()
    saved = tmp_path / "saved"
    saved.mkdir()
    dead, alive = f".a.json.{host}-99999999.tmp", f".a.json.{host}-{os.getpid()}.tmp"
    elsewhere = ".a.pth.elsewhere-1.tmp"
    for folder in (root / "data", saved):
        for name in (dead, alive, elsewhere, "mine.txt", ".mine"):
            (folder / name).write_text("x")
    assert clean(root, checkpoints=saved) == ({dead}, True)
    assert not (saved / dead).exists() and len(list(saved.iterdir())) == 4
    age(saved / elsewhere, 8)
    assert clean(root, checkpoints=saved) == ({elsewhere}, True)
    assert len(stored_stages(root)) == 4


def test_a_training_that_nobody_came_back_to_goes(root, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    old, new = (saved / f"TSLRec_SASRec-{digit * 16}.unfinished" for digit in "01")
    for file in (old, new, saved / "my.unfinished"):
        file.write_text("x")
    age(old, 8)
    age(saved / "my.unfinished", 8)
    with FileLock(lock_files(old)[0]):  # a process that writes it once in a while
        assert clean(root, checkpoints=saved) == (set(), True)
    assert clean(root, checkpoints=saved) == ({old.name}, True)
    assert not old.exists() and len(list(saved.glob("*.unfinished"))) == 2


def test_links_are_not_followed_and_strange_folders_refused(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    stage = by_name(root)["augmentation"].folder
    outside = other / stage.name
    os.rename(stage, outside)
    os.symlink(outside, stage)
    os.symlink(other, root / "linked")
    clean(root, unused_days=0)
    assert (outside / MANIFEST).is_file() and stage.is_symlink()
    home = tmp_path / "home"
    (home / "letters").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"home\] does not look like a folder of stages"):
        leftovers(home, time.time())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        leftovers(tmp_path / "nowhere", time.time())
    for key, days in (("older_than_days", -1.0), ("unused_days", float("nan"))):
        with pytest.raises(ValueError, match=rf"^{key}: \[{days:g}\] is not a number, 0 or larger"):
            leftovers(root, time.time(), **{key: days})


def test_a_stage_that_is_reused_since_it_was_listed_stays(root):
    for stage in stored_stages(root):
        age(stage.folder, 100)
    found = leftovers(root, time.time(), unused_days=50)
    reused = Store(root / "data").get("augmentation", chain()["augmentation"], make)
    gone = {leftover.path for leftover in found if remove(leftover)}
    assert len(found) == 4 and len(gone) == 3 and reused.folder not in gone
    assert [stage.folder for stage in stored_stages(root)] == [reused.folder]


def test_a_clean_up_that_was_killed_is_finished_by_the_next(root):
    stage = by_name(root)["augmentation"].folder
    os.rename(stage, stage.with_name(f".{stage.name}.removed"))
    assert clean(root) == ({f".{stage.name}.removed"}, True)
    assert not [path for path in (root / "data").iterdir() if path.name.startswith(".")]


# ---- the commands ----------------------------------------------------------------------------------


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["recbole_tslrec", *arguments])
    command_line.main()
    return capsys.readouterr().out


def test_the_commands_on_a_true_experiment(small_data, settings, tmp_path, monkeypatch, capsys):
    run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    (tmp_path / "my.yaml").write_text(json.dumps(settings))
    experiment = ["--model=TSLRec_SASRec", f"--dataset={small_data}", "--config_files=my.yaml"]
    said = run_command(monkeypatch, capsys, "stages", "--verify", *experiment)
    assert said.count(" whole") == 4 and "augmentation: would be reused" in said
    assert "backbone SASRec" in said and "K 4" in said
    said = run_command(monkeypatch, capsys, "stages", *experiment, "--sft_epochs=7")
    assert "fine_tuning: sft_epochs: 2 → 7" in said and "categories: would be reused" in said
    said = run_command(monkeypatch, capsys, "stages", *experiment, "--learning_rate=0.5")
    assert "backbone: learning_rate: 0.001 → 0.5" in said
    said = run_command(monkeypatch, capsys, "clean", *experiment, "--unused_days=0")
    assert "Nothing in" in said
    said = run_command(monkeypatch, capsys, "clean", "--unused_days=0")
    assert "add --yes" in said and len(stored_stages(tmp_path / "saved" / "tslrec")) == 4
    said = run_command(monkeypatch, capsys, "clean", "--unused_days=0", "--yes")
    assert " removed." in said and not stored_stages(tmp_path / "saved" / "tslrec")
    with pytest.raises(SystemExit, match="clean: .*nowhere"):
        run_command(monkeypatch, capsys, "clean", "--tslrec_dir=nowhere")


def test_a_data_set_alone_is_the_only_one_that_is_cleaned(root, tmp_path, monkeypatch, capsys):
    Store(root / "other").get("backbone", BACKBONE, make)
    (tmp_path / "my.yaml").write_text(f"tslrec_dir: {root}\n")
    clean_up = ["clean", "--config_files=my.yaml", "--unused_days=0", "--yes"]
    monkeypatch.chdir(tmp_path)
    said = run_command(monkeypatch, capsys, *clean_up, "--dataset=third")
    assert f"Nothing in [{root}]" in said
    run_command(monkeypatch, capsys, *clean_up, "--dataset=other")
    assert {stage.folder.parent.name for stage in stored_stages(root)} == {"data"}


def test_the_trained_language_model_of_a_given_experiment_stays(
    small_data, settings, tmp_path, monkeypatch, capsys
):
    run_experiment("E4SRec", small_data, config_dict=settings | {"sft_epochs": 1})
    (tmp_path / "my.yaml").write_text(json.dumps(settings | {"sft_epochs": 1}))
    experiment = ["--model=E4SRec", f"--dataset={small_data}", "--config_files=my.yaml"]
    root = tmp_path / "saved" / "tslrec"
    trained = by_name(root)["e4srec"].folder
    said = run_command(monkeypatch, capsys, "stages", *experiment)
    assert f"e4srec: may be taken up from [{trained.relative_to(tmp_path)}]" in said
    clean_up = ["clean", *experiment, "--unused_days=0", "--older_than_days=0"]
    assert "Nothing in" in run_command(monkeypatch, capsys, *clean_up)
    made_from = json.loads((trained / MANIFEST).read_text())["made_from"]
    os.rename(trained, f"{trained}.partial")  # as if it had been killed
    (trained.with_suffix(".partial") / "unfinished.json").write_text(
        json.dumps({"made_from": made_from})
    )
    assert "Nothing in" in run_command(monkeypatch, capsys, *clean_up)
    said = run_command(monkeypatch, capsys, *clean_up, "--seed=7")  # of another backbone
    assert f"{trained.name}.partial" in said


def test_a_misspelt_option_removes_nothing(root, monkeypatch, capsys):
    unfinished = root / "data" / "augmentation-0123456789abcdef.partial"
    unfinished.mkdir()
    clean_up = ["clean", f"--tslrec_dir={root}", "--yes"]
    with pytest.raises(SystemExit):
        run_command(monkeypatch, capsys, *clean_up, "--older_than_day=0")
    assert "clean has no --older_than_day=0" in capsys.readouterr().err
    experiment = ["--model=TSLRec_SASRec", "--dataset=data"]
    with pytest.raises(SystemExit, match=r"Did you mean \[--older_than_days\]"):
        run_command(monkeypatch, capsys, *clean_up, *experiment, "--older_than_day=0")
    assert unfinished.is_dir()
    run_command(monkeypatch, capsys, *clean_up, "--older_than_days=0")
    assert not unfinished.exists()
