import errno
import json
import os
import re
import stat

import pytest
import torch

from recbole_tslrec.store import files
from recbole_tslrec.store.files import (
    DiskError,
    broken_seal,
    check_writable,
    explaining_disk_errors,
    read_checked_json,
    remove_unfinished_files,
    seal,
    warn_of_little_space,
    with_checksum,
    write_atomically,
    write_json,
)


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_refuses_is_explained_and_the_old_file_stays(
    call, number, tmp_path, monkeypatch
):
    path = tmp_path / "file"
    path.write_text("old")
    write = failing(number) if call == "write" else lambda temporary: temporary.write_text("new")
    if call != "write":
        monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(DiskError, match=r"file\] could not be written: .* are free.*") as caught:
        write_atomically(path, write)
    assert caught.value.errno == number and os.strerror(number) in str(caught.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        write_atomically(tmp_path / "a", lambda temporary: open("elsewhere"))
    with pytest.raises(RuntimeError, match="not the disk"):
        write_atomically(tmp_path / "a", lambda t: failing_with(RuntimeError("not the disk")))


def failing_with(error):
    raise error


def test_the_file_is_flushed_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("flush folder" if is_folder else "flush file")
        fsync(descriptor)

    def noted_replace(*paths):
        calls.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_json(tmp_path / "a.json", {})
    assert calls == ["flush file", "rename", "flush folder"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    (tmp_path / "below").mkdir()
    for name in (".a.json.host-1.tmp", "below/.tmpAbC"):
        (tmp_path / name).write_text("half")
    (tmp_path / "below" / "whole").write_text("whole")
    remove_unfinished_files(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "whole"]


CONTENT = {"version": 1, "tokens": ["a", "ü"], "notes": {"loss": 1e-05, "none": None}}


def test_no_bit_of_a_checked_json_changes_unnoticed(tmp_path):
    """Whatever bit is flipped: refused, or (an e for an E in 1e-05) the very same content."""
    path = tmp_path / "a.json"
    write_json(path, with_checksum(CONTENT))
    whole = path.read_bytes()
    same = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        try:
            assert read_checked_json(path, set(CONTENT)) == CONTENT, bit
            same += 1
        except ValueError as error:
            assert str(path) in str(error)
    assert same <= 1


@pytest.mark.parametrize("keep", [0, 1, 10, -2])
def test_a_checked_json_that_is_cut_short_is_refused(keep, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, with_checksum(CONTENT))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.json.*cut short"):
        read_checked_json(path, set(CONTENT))


def test_a_json_from_before_there_were_checksums_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    assert read_checked_json(path, set(CONTENT)) == CONTENT
    write_json(path, CONTENT | {"chdcksum": "lost by a flipped bit"})
    with pytest.raises(ValueError, match="checksum"):
        read_checked_json(path, set(CONTENT))
    write_json(path, {"version": 1})
    with pytest.raises(ValueError, match="lacks"):
        read_checked_json(path, set(CONTENT))


def test_a_seal_notices_every_change(tmp_path):
    (tmp_path / "below").mkdir()
    names = ["a.bin", "below/b.bin"]
    for name in names:
        (tmp_path / name).write_bytes(b"content of " + name.encode())
    assert "was not written to its end" in broken_seal(tmp_path)
    seal(tmp_path)
    assert broken_seal(tmp_path) is None
    for name in names:
        path = tmp_path / name
        whole = path.read_bytes()
        for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b"", b"another"):
            path.write_bytes(damaged)
            assert str(path) in broken_seal(tmp_path)
        path.unlink()
        assert str(path) in broken_seal(tmp_path)
        path.write_bytes(whole)
    note = json.loads((tmp_path / "seal.json").read_text())
    (tmp_path / "seal.json").write_text(json.dumps(note | {"files": {}}))
    assert "seal.json" in broken_seal(tmp_path)


def test_the_check_for_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    check_writable("tslrec_dir", tmp_path / "not" / "there")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"tslrec_dir: nothing can be written into \[.*file\]"):
        check_writable("tslrec_dir", tmp_path / "file" / "below")
    monkeypatch.setattr(os, "fsync", failing(errno.EROFS))
    with pytest.raises(DiskError, match="checkpoint_dir.*Read-only.*another folder"):
        check_writable("checkpoint_dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_little_space_is_said(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        warn_of_little_space("tslrec_dir", tmp_path, 1)
        assert not caplog.text
        warn_of_little_space("tslrec_dir", tmp_path, 10**18)
    assert "tslrec_dir: about 1000000000.0 GB will be written" in caplog.text


@pytest.mark.parametrize(
    ("needed", "free", "says"),
    [
        (2_500_000, 31_400, "about 2.5 MB will be written into .* and 31.4 kB are free"),
        (1000, 0, "about 1.0 kB will be written into .* and 0 bytes are free"),
    ],
)
def test_little_is_told_in_units_that_leave_a_number(
    needed, free, says, tmp_path, monkeypatch, caplog
):
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=free))
    with caplog.at_level("WARNING"):
        warn_of_little_space("tslrec_dir", tmp_path, needed)
    assert re.search(says, caplog.text)


def test_torch_and_safetensors_in_the_systems_words_are_understood(tmp_path, monkeypatch):
    for error in (
        RuntimeError("open file failed with strerror: Read-only file system"),
        ValueError("I/O error: No space left on device (os error 28)"),
    ):
        with pytest.raises(DiskError, match="a.pth.*could not be written"):
            write_atomically(tmp_path / "a.pth", lambda _, error=error: failing_with(error))
    # In the middle of a file torch only says at which byte it is.
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(DiskError, match="No space left.*0 bytes are free"):
        write_atomically(tmp_path / "a.pth", lambda _: failing_with(RuntimeError("unexpected pos")))


def test_an_interrupt_is_not_taken_for_the_disks(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", lambda _: failing_with(KeyboardInterrupt()))
    torch.save({}, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_memory_that_workers_share_is_no_disk(tmp_path):
    error = RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)")
    with pytest.raises(RuntimeError, match="torch_1_2"), explaining_disk_errors(tmp_path):
        raise error
