"""Writing files so that a crash, a full disk or a kill leaves the old file or the whole new one.

A file gets a temporary, hidden name in the same folder, is flushed to the disk, renamed, and the
folder is flushed too. So a hidden file (``.…``) below a folder of ours is one that never became whole.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from tqdm import tqdm

_SEAL = "seal.json"
_LONG_TO_READ = 1 << 28  # bytes: from here on there is a bar
_REMEDIES = {
    errno.ENOSPC: "Free some space there (python -m recbole_tslrec clean shows what may go)",
    errno.EDQUOT: "Your quota is used up: free some space there",
    errno.EROFS: "The disk is mounted for reading only: choose another folder",
    errno.EACCES: "You may not write there: choose another folder, or have its permissions changed",
    errno.EPERM: "You may not write there: choose another folder, or have its permissions changed",
    errno.EIO: "The disk reports an error: see the system's log, and choose another disk",
}


class DiskError(OSError):
    """A file could not be written; says which, why, how much space is free and what to do."""


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's content; a process reads a large file once, while nobody writes to it."""
    status = os.stat(path)
    if status.st_size < _LONG_TO_READ:
        return _hash_of_content(path)
    return _hash_of_large_file(os.path.realpath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _hash_of_large_file(path: str, size: int, written_at: int) -> str:
    with tqdm(
        total=size, desc=f"Check {os.path.basename(path)}", unit="B", unit_scale=True, delay=2
    ) as bar:
        return _hash_of_content(path, bar.update)


def _hash_of_content(path: str | Path, told: Callable[[int], Any] = lambda n_bytes: None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()


def fingerprint(content: Any) -> str:
    """A hash of anything json can hold; the order of a dictionary's keys does not count."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a temporary file in the same folder, flush it to disk, and rename it.

    Raises:
        DiskError: there is no space, or the folder cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with explaining_disk_errors(path):
            temporary.touch()
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)  # safetensors makes files that nobody else may read
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write json atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def flush_folder(folder: Path) -> None:
    """Flush every file below a folder, and the folders, to the disk."""
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def flush_names(folder: Path) -> None:
    """Flush a folder itself: what was renamed in it, not what its files hold."""
    _flush(folder)


def _flush(path: Path) -> None:
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished_files(folder: Path) -> None:
    """Remove the hidden files below a folder: a killed process was writing them."""
    for path in list(folder.rglob(".*")):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()


# ---- json that notices a change -------------------------------------------------------------------


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The same, with a hash of itself under ``checksum``."""
    return content | {"checksum": fingerprint(content)}


def read_checked_json(path: Path, keys: set[str]) -> dict[str, Any]:
    """Read what was written ``with_checksum``.

    Args:
        path: the json file.
        keys: the keys that it must have. A file from before there were checksums has these and no
            other; so a checksum cannot be lost unnoticed.

    Raises:
        ValueError: it is no json, lacks a key, or does not match its checksum.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[{path}] is cut short or altered: {error}") from error
    if not isinstance(content, dict) or not keys <= set(content):
        raise ValueError(
            f"[{path}] is altered or of another kind: it lacks some of {sorted(keys)}."
        )
    rest = {key: value for key, value in content.items() if key != "checksum"}
    if "checksum" not in content and set(content) == keys:
        return content
    try:
        matches = content.get("checksum") == fingerprint(rest)
    except RecursionError as error:
        raise ValueError(f"[{path}] is altered: it is nested too deeply.") from error
    if not matches:
        raise ValueError(f"[{path}] is altered: it does not match its checksum.")
    return rest


# ---- folders that others write into ----------------------------------------------------------------


def seal(folder: Path) -> None:
    """Note the hash of every file of a folder that somebody else's code has written, and flush it.

    The seal is written last: a folder without it was not finished.
    """
    flush_folder(folder)
    hashes = {str(path.relative_to(folder)): file_hash(path) for path in _files(folder)}
    write_json(folder / _SEAL, with_checksum({"files": hashes}))


def broken_seal(folder: Path) -> str | None:
    """What is wrong with a sealed folder, naming the file; None if it is as it was sealed."""
    if not (folder / _SEAL).is_file():
        return f"[{folder}] was not written to its end"
    try:
        files = read_checked_json(folder / _SEAL, {"files"})["files"]
    except ValueError as error:
        return str(error)
    for name, expected in files.items():
        if not (folder / name).is_file() or file_hash(folder / name) != expected:
            return f"[{folder / name}] is missing or altered"
    return None


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _SEAL]


# ---- a full disk, a folder that cannot be written ---------------------------------------------------


@contextmanager
def explaining_disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk reports while ``path``, or what is below it, is written into a DiskError."""
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        number = _disk_error(error, path)
        if number is None:
            raise
        raise DiskError(
            number,
            f"[{path}] could not be written: {os.strerror(number)}. "
            f"{_free_space(path)} {_REMEDIES[number]}, and run the same command again: finished "
            f"stages, and the last whole file of this one, are as they were.",
        ) from error


def _disk_error(error: Exception, path: Path) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        elsewhere = error.filename is not None and not Path(
            os.fsdecode(error.filename)
        ).absolute().is_relative_to((path if path.is_dir() else path.parent).absolute())
        return None if elsewhere or error.errno not in _REMEDIES else error.errno
    if "</torch_" in str(error):  # the memory that a loader's workers share, which is on no disk
        return None
    # torch and safetensors raise errors of their own, with the system's words in them.
    for number in _REMEDIES:
        if os.strerror(number) in str(error):
            return number
    # torch, in the middle of a file, says nothing but at which byte it is.
    if isinstance(error, RuntimeError) and _usage(path).free < 1 << 20:
        return errno.ENOSPC
    return None


def _usage(path: Path):
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir()))


def _free_space(path: Path) -> str:
    return f"{_size(_usage(path).free)} are free on that disk."


def _size(n_bytes: int) -> str:
    """A size for people, in the unit that leaves it a number to read."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"


def check_writable(key: str, folder: Path) -> None:
    """Write and remove a small file where a folder is, or will be made; leaves nothing behind.

    Raises:
        DiskError: nothing can be written there; names the key.
    """
    folder = Path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    probe = existing / f".writable.{socket.gethostname()}-{os.getpid()}.tmp"
    try:
        write_atomically(probe, lambda temporary: temporary.write_bytes(bytes(4096)))
        probe.unlink()
    except OSError as error:
        number = error.errno or errno.EIO
        remedy = _REMEDIES.get(number, "Choose another folder")
        raise DiskError(
            number,
            f"{key}: nothing can be written into [{existing}]: {os.strerror(number)}. "
            f"{_free_space(existing)} {remedy}. Nothing was started.",
        ) from error


def check_output(path: str | os.PathLike, read: Iterable[str | os.PathLike | None] = ()) -> None:
    """Raise OSError or ValueError, before any work, for a file that cannot be written in the end.

    Args:
        path: the file, as ``output`` names it.
        read: what the work starts from, which the file is not to replace; None is no file.
    """
    path = Path(path).resolve()  # what is written: a link stays one
    if path.is_dir():
        raise IsADirectoryError(f"output: [{path}] is a folder. Set output=<a file>.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"output: there is no folder [{path.parent}]. Make it, or set output=<another file>."
        )
    given = (Path(file) for file in read if file is not None)
    if path.exists() and any(file.exists() and path.samefile(file) for file in given):
        raise ValueError(f"output: [{path}] is what is read. Set output=<another file>.")
    check_writable("output", path.parent)


def warn_of_little_space(key: str, folder: Path, needed: int) -> None:
    """Log a warning if fewer bytes are free where a folder is, or will be, than are needed."""
    free = _usage(Path(folder).absolute()).free
    if free < needed:
        getLogger(__name__).warning(
            f"{key}: about {_size(needed)} will be written into [{folder}], and {_size(free)} are "
            f"free on that disk."
        )
