"""Where finished stages are kept: one folder a stage, found again by its fingerprint.

A stage is made in ``<name>-<fingerprint>.partial`` and counts only when its manifest is written and
the folder has its final name, so a process that dies leaves nothing that looks finished. What lies in
the partial folder is there for the next run to go on from.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_tslrec.store.files import (
    explaining_disk_errors,
    file_hash,
    fingerprint,
    flush_folder,
    flush_names,
    read_checked_json,
    remove_unfinished_files,
    with_checksum,
    write_json,
)
from recbole_tslrec.store.locks import only_one

FORMAT_VERSION = 1
# The part of a stage's folder that serves its making (checkpoints, shards) and is not kept.
WORK = "progress"
MANIFEST = "manifest.json"
MANIFEST_KEYS = set("format stage fingerprint made_at seconds made_from notes files".split())
UNFINISHED = "unfinished.json"  # in a partial folder: what the stage is being made from


@dataclass
class StoredResult:
    """A finished stage as it lies on disk.

    Attributes:
        seconds: what it took to make, with interrupted runs as far as their work was of use.
        notes: what ``make`` said; ``seconds_before`` is the interrupted runs' part.
    """

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
    ) -> StoredResult:
        """The stage made from exactly this, from disk or by calling ``make``.

        Args:
            name: the stage.
            made_from: everything the result depends on, as json; its hash is the fingerprint.
            make: writes the stage's files into the folder it is given, which may hold what an
                interrupted run left there; what it returns is kept as the manifest's notes.

        Raises:
            ValueError: a stored stage has a file that is missing or altered.
            DiskError: there is no space, or the folder cannot be written.
        """
        key, folder = self._place(name, made_from)
        if folder.is_dir():  # whole from the moment it has this name: to read it takes no lock
            return self._open(name, key, folder)
        with explaining_disk_errors(folder):
            self.root.mkdir(parents=True, exist_ok=True)
            with only_one(folder):
                if folder.is_dir():
                    return self._open(name, key, folder)
                return self._make(name, key, folder, made_from, make)

    def has(self, name: str, made_from: dict[str, Any]) -> bool:
        """Whether the stage made from exactly this is there."""
        return self._place(name, made_from)[1].is_dir()

    def seconds(self, name: str, made_from: dict[str, Any]) -> float | None:
        """How long the stage made from exactly this took to make, see ``StoredResult``; None if it is
        not there."""
        folder = self._place(name, made_from)[1]
        return read_manifest(folder)["seconds"] if folder.is_dir() else None

    def _place(self, name: str, made_from: dict[str, Any]) -> tuple[str, Path]:
        key = fingerprint({"format": FORMAT_VERSION, "stage": name, "made_from": made_from})
        return key, self.root / f"{name}-{key[:16]}"

    def _make(self, name, key, folder, made_from, make) -> StoredResult:
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(exist_ok=True)
        remove_unfinished_files(partial)
        left = any(path.is_file() for path in (partial / WORK).rglob("*"))
        begins = f"goes on from [{partial / WORK}]" if left else "start"
        getLogger(__name__).info(f"Stage {name}: {begins}, to be kept in [{folder}]")
        before = _seconds_before(partial)
        started = {"stage": name, "made_from": made_from, "started_at": _now()}
        write_json(partial / UNFINISHED, started | {"seconds_before": before})
        start = time.monotonic()
        notes = make(partial) or {}
        if before:
            notes = {**notes, "seconds_before": round(before, 3)}
        seconds = before + time.monotonic() - start
        mode = (partial / UNFINISHED).stat().st_mode
        (partial / UNFINISHED).unlink()
        (partial / MANIFEST).unlink(missing_ok=True)  # of a run that was killed just before the end
        files = {
            path.relative_to(partial).as_posix(): path
            for path in sorted(partial.rglob("*"))
            if path.is_file() and partial / WORK not in path.parents
        }
        for path in files.values():  # peft and safetensors make files that nobody else may read
            path.chmod(mode)
        manifest = {
            "format": FORMAT_VERSION,
            "stage": name,
            "fingerprint": key,
            "made_at": _now(),
            "seconds": round(seconds, 3),
            "made_from": made_from,
            "notes": notes,
            "files": {file: file_hash(path) for file, path in files.items()},
            "sizes": {file: path.stat().st_size for file, path in files.items()},
        }
        flush_folder(partial)
        write_json(partial / MANIFEST, with_checksum(manifest))
        os.replace(partial, folder)
        flush_names(self.root)
        shutil.rmtree(folder / WORK, ignore_errors=True)  # only now: until here it saves the work
        getLogger(__name__).info(f"Stage {name}: done in {seconds:.1f} s, kept in [{folder}]")
        return StoredResult(name, key, folder, seconds, reused=False, notes=notes)

    def _open(self, name: str, key: str, folder: Path) -> StoredResult:
        manifest = read_manifest(folder)
        if manifest["fingerprint"] != key or manifest["stage"] != name:
            raise ValueError(
                f"[{folder / MANIFEST}] is of another stage, made from other things. {remedy(folder)}"
            )
        for file, expected in manifest["files"].items():
            if not (folder / file).is_file() or file_hash(folder / file) != expected:
                raise ValueError(
                    f"The stored file [{folder / file}] is missing or altered. {remedy(folder)}"
                )
        shutil.rmtree(folder / WORK, ignore_errors=True)  # of a run that was killed at its very end
        with suppress(OSError):  # a store that cannot be written may be read
            os.utime(folder / MANIFEST)  # the last use, for ``clean``
        getLogger(__name__).info(f"Stage {name}: reused from [{folder}]")
        seconds, notes = manifest["seconds"], manifest["notes"]
        return StoredResult(name, key, folder, seconds, reused=True, notes=notes)


def _seconds_before(partial: Path) -> float:
    """How long interrupted runs worked on what they left here; 0 where that cannot be told."""
    left = [path.stat().st_mtime for path in (partial / WORK).rglob("*") if path.is_file()]
    try:
        unfinished = json.loads((partial / UNFINISHED).read_text(encoding="utf-8"))
        started = datetime.fromisoformat(unfinished["started_at"]).timestamp()
        earlier = float(unfinished["seconds_before"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return earlier + max(0.0, max(left) - started) if left else 0.0


class OtherFormat(ValueError):
    """A finished stage is sound, and of another version of the store."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """A finished stage's manifest, checked by itself; the stage's other files are not read.

    Raises:
        ValueError: it is missing, cut short, altered, or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = read_checked_json(path, MANIFEST_KEYS)
    except FileNotFoundError as error:
        raise ValueError(f"[{path}] is missing. {remedy(folder)}") from error
    except ValueError as error:
        raise ValueError(f"{error} {remedy(folder)}") from error
    if manifest["format"] != FORMAT_VERSION:
        raise OtherFormat(
            f"[{path}] is of format [{manifest['format']}]; this program reads "
            f"[{FORMAT_VERSION}]. {remedy(folder)}"
        )
    return manifest


def remedy(folder: Path) -> str:
    """What to do about a stage that cannot be used."""
    return f"Remove the folder [{folder}] to have the stage made again."


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
