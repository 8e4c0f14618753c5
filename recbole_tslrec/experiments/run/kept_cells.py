"""The folder in which a comparison keeps what is finished, so that a later start does only the rest.

``cells.jsonl`` has one line a finished or failed cell, ``searches.jsonl`` one a trial of a search; a
later line of the same id replaces an earlier one, and half a line that a killed run has left goes to
``cells.jsonl.dropped``. ``ranks/`` and ``items/`` hold a cell's arrays,
written before its line, ``checkpoints/`` its trained model. Several processes may share a folder.
The arrays of a cell are in a file of its own, or in one of the data set (``packing``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from recbole_tslrec.evaluation.kept_ranks import differing_metrics, fault_of_ranks
from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS
from recbole_tslrec.store.arrays import read_arrays
from recbole_tslrec.store.json_lines import JsonLines

FORMAT = 1  # of a line
DONE, FAILED = "done", "failed"
OWN_ARRAYS = {"ranks": "rank", "items": "place"}  # that no two cells share


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    # Not NaN, not infinite, and no integer that is too large for a float.
    return type(value) in (int, float) and abs(value) < 1e300


def _is_integer(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _all_in(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is an object whose entries are all of a kind."""
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


_NUMBERS, _TEXTS = _all_in(_is_number), _all_in(_is_text)


def _is_measured(value: Any) -> bool:
    return _NUMBERS(value) and value.keys() >= {*METRICS.values()}


# The entries of a line, each with what it holds, in words and as a test.
_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("cell", "trial", "dataset", "backbone", "variant"), ("text", _is_text)),
    **dict.fromkeys(("status", "data", "configuration"), ("text", _is_text)),
    **dict.fromkeys(("machine", "command", "finished_at"), ("text", _is_text)),
    **dict.fromkeys(
        ("embeddings_from", "backbone_from", "error"), ("text or null", _is_text_or_none)
    ),
    "seed": ("a whole number", _is_integer),
    "epochs": ("a whole number or null", lambda value: value is None or _is_integer(value)),
    "settings": ("an object", lambda value: isinstance(value, dict)),
    **dict.fromkeys(("effective", "versions", "files"), ("an object of texts", _TEXTS)),
    "valid": ("an object of finite numbers, each metric among them", _is_measured),
    "test": (
        "an object of finite numbers for each protocol, each metric among them",
        lambda value: _all_in(_is_measured)(value) and value.keys() >= PROTOCOLS.keys(),
    ),
    "score": ("a finite number", _is_number),
    "bigger": ("true or false", lambda value: isinstance(value, bool)),
    "values": ("an object", lambda value: isinstance(value, dict)),
    "seconds": (
        "an object of finite numbers, or of objects of them",
        _all_in(lambda value: _is_number(value) or _NUMBERS(value)),
    ),
    "reused_stages": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(map(_is_text, value)),
    ),
}


# Those of a finished line that must be there.
_RESULTS = {"cell": ("valid", "test"), "trial": ("score", "bigger")}


def check_entries(line: Mapping[str, Any], where: str) -> None:
    """Raise ValueError if an entry of a line is of another type than is written; a missing one passes.

    But for how it ended, and the results of what is finished, which must be there.

    Args:
        line: of ``cells.jsonl`` or ``searches.jsonl``.
        where: file and line, for the message.
    """
    for name, (kind, is_so) in _ENTRIES.items():
        if name in line and not is_so(line[name]):
            raise ValueError(
                f"{where}: {name}: [{str(line[name])[:80]}] is not {kind}. Bring the line back, or take "
                f"it out: what it stood for is then done again."
            )
    if line.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{where}: format [{line['format']}]; this program reads [{FORMAT}]. Run the grid again, or "
            f"use the version that wrote it."
        )
    if line.get("status") not in (DONE, FAILED):
        raise ValueError(f"{where}: a line without a status, done or failed. Take the line out.")
    if line["status"] == FAILED:
        return
    for kind, results in _RESULTS.items():
        if kind in line and not line.keys() >= set(results):
            raise ValueError(f"{where}: a finished {kind} without its results. Take the line out.")


def seconds_of_parts(line: Mapping[str, Any]) -> dict[str, float]:
    """What a finished cell's stages took when they were made, then its training and its evaluation."""
    seconds = line.get("seconds", {})
    return {
        **seconds.get("stages", {}),
        "training": seconds.get("training", 0.0),
        "evaluation": seconds.get("evaluation", 0.0),
    }


def _arrays(path: Path, of: str = "") -> dict[str, np.ndarray]:
    try:
        return read_arrays(path, of)
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from error


def _damaged(path: Path, why: str) -> str:
    return (
        f"[{path}] is damaged: {why}. Bring it back, or take its cell's line out of cells.jsonl and run "
        f"the grid again."
    )


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
        self.cells = JsonLines(self.folder / "cells.jsonl", "cell", check_entries)
        self.trials = JsonLines(self.folder / "searches.jsonl", "trial", check_entries)

    def arrays_file(self, kind: str, name: str) -> Path:
        """The ``ranks`` or ``items`` of a cell, or of a data set, whose cells are packed into one."""
        return self.folder / kind / f"{name.replace('/', '_')}.npz"

    def arrays(self, kind: str, line: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """A cell's ``ranks`` or ``items``, from its own file or the data set's; None if not kept.

        Raises:
            ValueError: the file is damaged, or the ranks are not what a comparison writes.
        """
        path, of = self.arrays_file(kind, line["cell"]), ""
        if not path.is_file():
            path, of = self.arrays_file(kind, line["dataset"]), line["cell"]
        arrays = _arrays(path, of) if path.is_file() else {}
        # What all cells of a packed file share is there for each; it alone is of none.
        if not path.is_file() or (of and OWN_ARRAYS[kind] not in arrays):
            return None
        if kind == "ranks" and (fault := fault_of_ranks(arrays)):
            raise ValueError(_damaged(path, f"cell [{of}]: {fault}" if of else fault))
        return arrays

    def finished(self, cell: str) -> dict[str, Any] | None:
        """The line of a finished cell; None if it is not there, or has failed."""
        line = self.cells.read().get(cell)
        return line if line is not None and line["status"] == DONE else None

    def check_metrics(self, line: Mapping[str, Any]) -> None:
        """Raise ValueError if a finished cell's line is not what its ranks say, or these are damaged."""
        ranks = self.arrays("ranks", line)
        differing = [] if ranks is None else differing_metrics(line["test"], ranks)
        if differing:
            raise ValueError(
                f"[{self.cells.path}], cell [{line['cell']}] ({line['dataset']}, {line['backbone']}, "
                f"{line['variant']}, seed {line['seed']}): {differing[0]}. Bring the line back, or take "
                f"it out: the cell is then run again."
            )

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
