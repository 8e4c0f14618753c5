"""Where finished stages are kept: one folder a stage, found again by its fingerprint.

A stage is made in ``<name>-<fingerprint>.partial`` and counts only when its manifest is written and
the folder has its final name, so a process that dies leaves nothing that looks finished. What lies in
the partial folder is there for the next run to go on from.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def fingerprint(content: Any) -> str:
    """A hash of anything json can hold; the order of a dictionary's keys does not count."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a temporary file in the same folder, flush it to disk, and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write json atomically."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@dataclass
class Stage:
    """A finished stage as it lies on disk."""

    name: str
    fingerprint: str
    folder: Path
    seconds: float
    reused: bool
    notes: dict[str, Any] = field(default_factory=dict)


class Store:
    """The stages below one folder.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    def get(
        self, name: str, made_from: dict[str, Any], make: Callable[[Path], dict[str, Any] | None]
    ) -> Stage:
        """The stage made from exactly this, from disk or by calling ``make``.

        Args:
            name: the stage.
            made_from: everything the result depends on, as json; its hash is the fingerprint.
            make: writes the stage's files into the folder it is given, which may hold what an
                interrupted run left there; what it returns is kept as the manifest's notes.

        Raises:
            ValueError: a stored stage has a file that is missing or altered.
        """
        key, folder = self._place(name, made_from)
        with self._only_one(folder):
            if folder.is_dir():
                return self._open(name, key, folder)
            getLogger().info(f"Stage {name}: start, to be kept in [{folder}]")
            return self._make(name, key, folder, made_from, make)

    def has(self, name: str, made_from: dict[str, Any]) -> bool:
        """Whether the stage made from exactly this is there."""
        return self._place(name, made_from)[1].is_dir()

    def _place(self, name: str, made_from: dict[str, Any]) -> tuple[str, Path]:
        key = fingerprint({"format": FORMAT_VERSION, "stage": name, "made_from": made_from})
        return key, self.root / f"{name}-{key[:16]}"

    def _make(self, name, key, folder, made_from, make) -> Stage:
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        notes = make(partial) or {}
        seconds = time.monotonic() - start
        manifest = {
            "format": FORMAT_VERSION,
            "stage": name,
            "fingerprint": key,
            "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "made_from": made_from,
            "notes": notes,
            "files": {
                str(path.relative_to(partial)): file_hash(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file() and path.name != MANIFEST
            },
        }
        write_json(partial / MANIFEST, manifest)
        os.replace(partial, folder)
        getLogger().info(f"Stage {name}: done in {seconds:.1f} s, kept in [{folder}]")
        return Stage(name, key, folder, seconds, reused=False, notes=notes)

    def _open(self, name: str, key: str, folder: Path) -> Stage:
        remedy = f"Remove the folder [{folder}] to have the stage made again."
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            files, stored = manifest["files"], manifest["fingerprint"]
            seconds, notes = manifest["seconds"], manifest["notes"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"The stored stage {name} has no sound manifest. {remedy}") from error
        if stored != key:
            raise ValueError(f"The stored stage {name} was made from other things. {remedy}")
        for file, expected in files.items():
            if not (folder / file).is_file() or file_hash(folder / file) != expected:
                raise ValueError(
                    f"The stored file [{folder / file}] is missing or altered. {remedy}"
                )
        getLogger().info(f"Stage {name}: reused from [{folder}]")
        return Stage(name, key, folder, seconds, reused=True, notes=notes)

    @contextmanager
    def _only_one(self, folder: Path) -> Iterator[None]:
        """Wait while another process makes the same stage; the lock of a dead one is free."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            getLogger().warning(f"Another process is making [{folder}]; waiting for it.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
