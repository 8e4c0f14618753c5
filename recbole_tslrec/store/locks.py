"""One process at a time makes a stage, and whoever waits is told for whom.

The lock is the operating system's, on a file beside the stage's folder: it goes with the process that
holds it, however that ends. Beside the lock stands who holds it, for the message alone.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from recbole_tslrec.store.files import write_json


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, or held it when it was killed.

    Attributes:
        host, pid: the machine and the process.
        since: when it took the lock, ISO 8601 in UTC.
    """

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_elsewhere(self) -> bool:
        return self.host != socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether a process of that number runs here; of another machine nothing is known."""
        return self.is_elsewhere or psutil.pid_exists(self.pid)


def lock_files(folder: Path) -> tuple[Path, Path]:
    """Where a stage's lock and its owner's note are."""
    return folder.with_name(f".{folder.name}.lock"), folder.with_name(f".{folder.name}.owner.json")


def read_owner(folder: Path) -> Owner | None:
    """Who holds a stage's lock, or held it when it was killed; None if nobody has said so."""
    try:
        return Owner(**json.loads(lock_files(folder)[1].read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a living process holds a stage's lock, tried on the lock itself."""
    lock_file = lock_files(folder)[0]
    if not lock_file.exists():
        return False
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a store that cannot be written has nobody writing it
        return False
    lock.release()
    return False


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a stage's lock; wait while a living process holds it, and take over from a dead one."""
    lock_file, owner_file = lock_files(folder)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        getLogger(__name__).warning(_waiting(folder))
        lock.acquire()
        getLogger(__name__).info(f"The wait for [{folder}] is over.")
    try:
        former = read_owner(folder)
        if former is not None:  # who ends by itself removes its note
            getLogger(__name__).warning(
                f"[{folder}] was being made by {former}, which was stopped; taken over."
            )
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(owner_file, asdict(Owner(socket.gethostname(), os.getpid(), since)))
        yield
    finally:
        with suppress(OSError):
            owner_file.unlink(missing_ok=True)
            lock_file.unlink(missing_ok=True)  # while it is held: who waits notices (filelock 4)
        lock.release()


def _waiting(folder: Path) -> str:
    owner = read_owner(folder)
    message = (
        f"Another process is making [{folder}]: {owner or 'it has not said which'}. Waiting for it."
    )
    if owner is not None and owner.is_elsewhere:
        lock_file, owner_file = lock_files(folder)
        message += (
            f" If it no longer runs on {owner.host}, this network disk has not noticed: stop this "
            f"run, remove [{lock_file}] and [{owner_file}], and start it again."
        )
    elif owner is not None and not owner.is_alive:
        message += " That process has ended; one that it started still holds the lock."
    return message
