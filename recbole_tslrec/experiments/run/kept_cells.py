"""The folder in which a comparison keeps what is finished, so that a later start does only the rest.

``cells.jsonl`` has one line a finished or failed cell, ``searches.jsonl`` one a trial of a search; a
later line of the same id replaces an earlier one, and half a line that a killed run has left goes to
``cells.jsonl.dropped``. ``ranks/`` and ``items/`` hold a cell's arrays,
written before its line, ``checkpoints/`` its trained model. Several processes may share a folder.
The arrays of a cell are in a file of its own, or in one of the data set (``packing``).
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout

from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS, metrics

FORMAT = 1  # of a line
DONE, FAILED = "done", "failed"
RANK_COLUMNS = {"ranked": "rank", "masked": "rank_masked"}  # by protocol
OWN_ARRAYS = {"ranks": "rank", "items": "place"}  # that no two cells share
_TOKENS, _RANKS, _COUNTS = (
    ("user", "item"),
    ("rank", "rank_masked"),
    ("training_length", "item_count"),
)
RANK_ARRAYS = (*_TOKENS, *_RANKS, *_COUNTS)
# What reading a damaged .npz raises, by where the damage is.
_SIGNS_OF_DAMAGE = (
    *(BadZipFile, EOFError, ValueError, zlib.error, struct.error),
    *(LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError),
)
# Two ways to add up the same numbers differ by less; two trained models by more.
_ROUNDING = 1e-9


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """A file's lines, and what stands after the last of them: half a line, or nothing.

    A last JSON object that only lacks its newline, as an editor may leave it, is a line. Takes no lock
    and writes nothing.
    """
    *lines, last = path.read_bytes().split(b"\n")
    return ([*lines, last], b"") if _is_object(last) else (lines, last)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


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
    "effective": ("an object of texts", _TEXTS),
    "versions": ("an object of texts", _TEXTS),
    "valid": ("an object of finite numbers", _NUMBERS),
    "test": ("an object of finite numbers for each protocol", _all_in(_NUMBERS)),
    "seconds": (
        "an object of finite numbers, or of objects of them",
        _all_in(lambda value: _is_number(value) or _NUMBERS(value)),
    ),
    "reused_stages": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(map(_is_text, value)),
    ),
}


def check_entries(line: Mapping[str, Any], where: str) -> None:
    """Raise ValueError if an entry of a line is of another type than is written; a missing one passes.

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
        """The objects by their key, the last of each; writes nothing.

        Half a line at the end is of a run that was killed, or is being written: left out.

        Raises:
            ValueError: a line is not such an object, or an entry of another type; says which.
        """
        if not self.path.is_file():
            return {}
        lines = {}
        for number, line in enumerate(read_lines(self.path)[0], start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
                lines[content[self.key]] = content
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"[{self.path}], line {number}, is not an object with [{self.key}]. Remove the "
                    f"line; what it stood for is then done again."
                ) from error
            check_entries(content, f"[{self.path}], line {number}")
        return lines

    def append(self, content: dict[str, Any]) -> None:
        """Add an object and flush it to disk."""
        line = (json.dumps(content, ensure_ascii=False) + "\n").encode()
        with self._locked():
            _append(self.path, self._closed_end() + line)

    def _closed_end(self) -> bytes:
        """What the next line needs before it. Half a line is moved to a file beside this one.

        Under the lock it can only be a dead process's.
        """
        if not self.path.is_file():
            return b""
        _, half = read_lines(self.path)
        if not half.strip():
            return b"" if self.path.read_bytes()[-1:] in (b"", b"\n") else b"\n"
        dropped = self.path.with_name(f"{self.path.name}.dropped")
        _append(dropped, half + b"\n")
        os.truncate(self.path, self.path.stat().st_size - len(half))
        getLogger(__name__).warning(
            f"[{self.path}] ended in a half-written line, of a run that was killed: it is in "
            f"[{dropped}] now."
        )
        return b""

    def _locked(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))


def _append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_arrays(path: Path, of: str = "") -> dict[str, np.ndarray]:
    """The arrays of a file by name, of those that are a cell's own only that cell's.

    Raises:
        ValueError: the file is damaged.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as file:
            names = {name.removeprefix(f"{of}/"): name for name in file.files}
            arrays = {short: file[name] for short, name in names.items() if "/" not in short}
    except _SIGNS_OF_DAMAGE as error:
        raise ValueError(_damaged(path, str(error))) from error
    # Packed in small types, in which NumPy would go on to compute.
    return {
        name: array.astype(np.int32) if array.dtype.kind == "u" else array
        for name, array in arrays.items()
    }


def read_ranks(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of ``ranks/<cell>.npz``, as ``Ranks`` has them; None if there is no file.

    Raises:
        ValueError: the file is damaged, or its arrays are not what a comparison writes.
    """
    if not path.is_file():
        return None
    arrays = read_arrays(path)
    if fault := _fault_of_ranks(arrays):
        raise ValueError(_damaged(path, fault))
    return arrays


def _damaged(path: Path, why: str) -> str:
    return (
        f"[{path}] is damaged: {why}. Bring it back, or take its cell's line out of cells.jsonl and run "
        f"the grid again."
    )


def _fault_of_ranks(arrays: Mapping[str, np.ndarray]) -> str | None:
    missing = [name for name in RANK_ARRAYS if name not in arrays]
    if missing:
        return f"it has no {', '.join(missing)}"
    for name in RANK_ARRAYS:
        array, kinds = arrays[name], "U" if name in _TOKENS else "iu"
        if array.ndim != 1 or array.dtype.kind not in kinds:
            return f"{name} is {array.dtype} {list(array.shape)}, not one value a test user"
        if len(array) != len(arrays["user"]) or not len(array):
            return f"{name} has {len(array)} values for {len(arrays['user'])} test users"
        if name not in _TOKENS and array.min() < (1 if name in _RANKS else 0):
            return f"{name} holds {array.min()}"
    return None


def differing_metrics(
    test: Mapping[str, Mapping[str, float]], ranks: Mapping[str, np.ndarray]
) -> list[str]:
    """Which metrics of a line are not those of its ranks, a clause each.

    Args:
        test: a line's, by protocol and RecBole's name of the metric.
        ranks: of every test user, by the names in ``RANK_COLUMNS``.
    """
    found = []
    for protocol, column in RANK_COLUMNS.items():
        by_ranks = metrics(np.asarray(ranks[column]))
        for name, key in METRICS.items():
            given = test[protocol][key]
            if not abs(given - by_ranks[key]) <= _ROUNDING:  # NaN is not, either
                found.append(
                    f"{name} ({PROTOCOLS[protocol]}) is {given:.4f} in cells.jsonl and "
                    f"{by_ranks[key]:.4f} by the kept ranks"
                )
    return found


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

    def packed_file(self, kind: str, dataset: str) -> Path:
        return self.folder / kind / f"{dataset.replace('/', '_')}.npz"

    def arrays(self, kind: str, line: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """A cell's ``ranks`` or ``items``, from its own file or the data set's; None if not kept.

        Raises:
            ValueError: the file is damaged.
        """
        own = self.folder / kind / f"{line['cell']}.npz"
        if own.is_file():
            return read_ranks(own) if kind == "ranks" else read_arrays(own)
        packed = self.packed_file(kind, line["dataset"])
        arrays = read_arrays(packed, of=line["cell"]) if packed.is_file() else {}
        # What all cells share is there for each; it alone is of none.
        return arrays if OWN_ARRAYS[kind] in arrays else None

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
