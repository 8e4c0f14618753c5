"""Removing from ``tslrec_dir`` what nothing uses.

Only what carries one of our names is ever touched, never through a link, and never a stage that a
living process is making, or one from which it makes another.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from recbole_tslrec.config.built_in import stage_names
from recbole_tslrec.stages.inventory import StoredStage, parents_of_others, stored_stages
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.locks import is_held, lock_files
from recbole_tslrec.store.store import MANIFEST

# The names of write_atomically.
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^/]+)-(?P<pid>\d+)\.tmp")
# What is kept of a training while it runs, in RecBole's ``checkpoint_dir``.
_UNFINISHED = ".unfinished"
_UNFINISHED_TRAININGS = "*-" + "[0-9a-f]" * 16 + _UNFINISHED
_DAY = 86400


def _beside(path: Path) -> re.Match | None:
    """Of a file that lies beside a stage's folder: its name, with the stage's."""
    stage = rf"({'|'.join(stage_names())})-[0-9a-f]{{16}}"
    return re.fullmatch(rf"\.(?P<stage>{stage})\.(lock|owner\.json|removed)", path.name)


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        path: a folder of a stage, or a file.
        why: in words.
        bytes: how much space that frees.
        last_used: of a finished stage, when it was looked at; None of anything else.
    """

    path: Path
    why: str
    bytes: int
    last_used: float | None = None


def _check_days(**days: float | None) -> None:
    for key, number in days.items():
        if number is not None and not number >= 0:  # NaN is not
            raise ValueError(f"{key}: [{number:g}] is not a number, 0 or larger.")


def leftovers(
    root: Path,
    now: float,
    older_than_days: float = 7,
    unused_days: float | None = None,
    keep: Collection[str] = (),
    checkpoints: Path | None = None,
) -> list[Leftover]:
    """What may be removed from a folder of stages.

    Args:
        root: ``tslrec_dir``.
        now: seconds since 1970.
        older_than_days: unfinished stages and trainings and other machines' temporary files go if
            nothing was written in them for so long.
        unused_days: finished stages go too if no run has used them for so long, and nothing that
            stays was made from them. None: they all stay.
        keep: fingerprints of what the stages of an experiment are made from; those stay, unfinished
            ones too.
        checkpoints: RecBole's ``checkpoint_dir``, whose temporary files and unfinished trainings are
            looked at too.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it does not look like a folder of stages, or a number of days is none.
    """
    _check_days(older_than_days=older_than_days, unused_days=unused_days)
    stages = stored_stages(root)
    if not stages and any(root.iterdir()) and not any(root.glob("*/.*.lock")):
        raise ValueError(f"tslrec_dir: [{root}] does not look like a folder of stages.")
    unfinished = [
        Leftover(stage.folder, f"unfinished for {older_than_days:g} days", stage.bytes)
        for stage in stages
        if stage.unfinished
        and not stage.held
        and now - stage.last_used > older_than_days * _DAY
        and fingerprint(stage.made_from) not in keep
    ]
    damaged = [
        Leftover(stage.folder, f"not usable: {stage.problem}", stage.bytes)
        for stage in stages
        if stage.broken and not stage.held
    ]
    going = {leftover.path for leftover in (*unfinished, *damaged)}
    staying = [stage for stage in stages if stage.folder not in going]
    found = [*unfinished, *damaged]
    # What cannot be read now may be in use, and does not say what it was made from.
    if unused_days is not None and not any(s.problem and not s.broken for s in stages):
        needed = {*keep, *parents_of_others(root)}
        found += _unused(
            staying, now - unused_days * _DAY, f"not used for {unused_days:g} days", needed
        )
    before = now - older_than_days * _DAY
    if checkpoints and checkpoints.is_dir():
        found += _unfinished_trainings(checkpoints, before, older_than_days)
        found += _temporary(checkpoints, before)
    for dataset in sorted(root.iterdir()):
        if dataset.is_dir() and not dataset.is_symlink():
            found += [*_besides(dataset), *_temporary(dataset, before)]
    return found


def _unfinished_trainings(checkpoints: Path, before: float, days: float) -> list[Leftover]:
    return [
        Leftover(path, f"unfinished for {days:g} days", path.stat().st_size)
        for path in _own_files(checkpoints, _UNFINISHED_TRAININGS)
        if path.stat().st_mtime < before and not is_held(path)
    ]


def _temporary(folder: Path, before: float) -> list[Leftover]:
    return [
        Leftover(path, "its process has ended", path.stat().st_size)
        for path in _own_files(folder, ".*.tmp")
        if _is_abandoned(path, before)
    ]


def _own_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern that are no links."""
    paths = sorted(folder.glob(pattern))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _unused(
    stages: list[StoredStage], before: float, why: str, keep: Collection[str]
) -> list[Leftover]:
    """Finished stages that were last used earlier, and from which nothing that stays was made."""
    staying, going = list(stages), []
    while True:
        needed = {parent for stage in staying for parent in stage.parents} | set(keep)
        free = [
            stage
            for stage in staying
            if not stage.unfinished
            and not stage.held
            and stage.last_used <= before
            and fingerprint(stage.made_from) not in needed
        ]
        if not free:
            return going
        going += [Leftover(stage.folder, why, stage.bytes, stage.last_used) for stage in free]
        staying = [stage for stage in staying if stage not in free]


def _besides(dataset: Path) -> list[Leftover]:
    """Locks and notes that nobody holds, and what a clean-up that was killed had put aside."""
    found = []
    for path in sorted(dataset.glob(".*")):
        beside = _beside(path)
        if beside is None or path.is_symlink():
            continue
        if path.suffix == ".removed":
            found.append(Leftover(path, "half removed", _size(path)))
        elif not _is_needed(dataset / beside["stage"]):
            found.append(Leftover(path, "nobody holds it", _size(path)))
    return found


def _is_needed(stage: Path) -> bool:
    """Whether a stage's lock is held, or it is unfinished and its note says who began it."""
    if stage.with_name(stage.name + ".partial").is_dir():
        return True
    return is_held(stage)


def _is_abandoned(path: Path, before: float) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match["host"] == socket.gethostname():
        return not psutil.pid_exists(int(match["pid"]))
    return path.stat().st_mtime < before


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*"))


def remove(leftover: Leftover) -> bool:
    """Remove it, unless a process has taken it up meanwhile; whether it is gone."""
    path = leftover.path
    stage = path.with_suffix("") if path.suffix == ".partial" else path
    beside = _beside(path)
    if beside:
        stage = path.with_name(beside["stage"])
    elif path.is_file() and path.suffix != _UNFINISHED:
        path.unlink(missing_ok=True)
        return True
    lock_file, owner_file = lock_files(stage)
    try:
        with FileLock(lock_file, timeout=0):
            stays = _is_used_since(leftover)
            if path.is_dir() and not stays:
                # Out of the way at once: a kill in the middle leaves nothing that has a stage's name.
                removed = stage.with_name(f".{stage.name}.removed")
                if path != removed:
                    shutil.rmtree(removed, ignore_errors=True)
                    os.replace(path, removed)
                shutil.rmtree(removed)
            elif path.suffix == _UNFINISHED:
                path.unlink(missing_ok=True)
            owner_file.unlink(missing_ok=True)
            lock_file.unlink(missing_ok=True)  # held: whoever waits notices and makes a new one
    except Timeout:
        return False
    return not stays


def _is_used_since(leftover: Leftover) -> bool:
    """Whether a run reused the finished stage after it was looked at; whoever reads holds no lock."""
    manifest = leftover.path / MANIFEST
    if leftover.last_used is None or not manifest.is_file():
        return False
    return manifest.stat().st_mtime > leftover.last_used
