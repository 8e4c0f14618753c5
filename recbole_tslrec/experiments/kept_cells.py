"""The folder in which a comparison keeps what is finished, so that a later start does only the rest.

``cells.jsonl`` has one line a finished or failed cell, ``searches.jsonl`` one a trial of a search; a
later line of the same id replaces an earlier one. ``ranks/`` and ``items/`` hold a cell's arrays,
written before its line, ``checkpoints/`` its trained model. Several processes may share a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Lines:
    """A file of one JSON object a line, to which several processes append.

    Attributes:
        path: the file.
        key: the entry that tells the objects apart.
    """

    path: Path
    key: str

    def read(self) -> dict[str, dict[str, Any]]:
        """The objects by their key, the last of each.

        Raises:
            ValueError: a line is not such an object; says which.
        """
        if not self.path.is_file():
            return {}
        with self._locked():
            self._drop_half_line()
            text = self.path.read_text(encoding="utf-8")
        lines = {}
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                content = json.loads(line)
                lines[content[self.key]] = content
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"[{self.path}], line {number}, is not an object with [{self.key}]. Remove the "
                    f"line; what it stood for is then done again."
                ) from error
        return lines

    def append(self, content: dict[str, Any]) -> None:
        """Add an object and flush it to disk."""
        line = (json.dumps(content, ensure_ascii=False) + "\n").encode()
        with self._locked():
            self._drop_half_line()
            with open(self.path, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def _drop_half_line(self) -> None:
        """Cut off a last line without its end. Under the lock it can only be a dead process's."""
        if not self.path.is_file():
            return
        with open(self.path, "rb+") as file:
            text = file.read()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                getLogger().warning(
                    f"[{self.path}] ends in a half-written line, of a run that was killed: dropped."
                )
                file.truncate(whole)

    def _locked(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))


class ResultsFolder:
    """A results folder.

    Args:
        folder: made when first written to.

    Attributes:
        cells: the lines of the finished and failed cells.
        trials: the lines of the searches' trials.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.cells = Lines(self.folder / "cells.jsonl", "cell")
        self.trials = Lines(self.folder / "searches.jsonl", "trial")

    def ranks_file(self, cell: str) -> Path:
        return self.folder / "ranks" / f"{cell}.npz"

    def items_file(self, cell: str) -> Path:
        return self.folder / "items" / f"{cell}.npz"

    def checkpoints(self, cell: str) -> Path:
        """The folder of a cell's trained model, its own: RecBole names files by the second."""
        return self.folder / "checkpoints" / cell

    def checkpoint(self, cell: str, model: str) -> Path | None:
        """The trained model of a finished cell, if it was kept.

        Under ``save_dataset`` RecBole writes data into the same folder, named by the data set.
        """
        return next(self.checkpoints(cell).glob(f"{model}-*.pth"), None)

    def lock(self, name: str) -> FileLock:
        """The lock of a work of that name, which a process holds while it does it."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    @contextmanager
    def only_one(self, name: str) -> Iterator[bool]:
        """Whether this process may do the work of that name; no other one may meanwhile.

        The lock of a process that dies is free.
        """
        lock = self.lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
