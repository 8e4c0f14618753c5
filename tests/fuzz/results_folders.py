"""Changes of a results folder: the lines of its cells, the ranks beside them, other files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuzz.damage import damaged_bytes, pick
from fuzz.inputs import Wrong
from recbole_tslrec.experiments.report.results import Results

Check = Callable[[Results, str], None]
FOLDER = Path("results")
_CELLS = FOLDER / "cells.jsonl"
_JUNK = [None, 1, -1, 1.5, "x", "", [], {}, True, [1], {"a": 1}, float("nan"), float("inf")]
_JUNK += [10**400, "é\n", "../x", "a/b", "<b>|"]
_NOT_FITTING = "by the kept ranks"  # what the report says of metrics and ranks


# ---- what must hold of the results and of the report's text ------------------------------------------


def _anything(results: Results, text: str) -> None:
    """Whatever came out may come out."""


def _has_cells(number: int) -> Check:
    def check(results: Results, text: str) -> None:
        found = len(results.cells) + len(results.failed) + len(results.replaced)
        if found != number:
            raise Wrong(f"{found} cells, not {number}")

    return check


def _says(words: str) -> Check:
    def check(results: Results, text: str) -> None:
        if words not in text:
            raise Wrong(f"the report does not say [{words}]")

    return check


def _fits_or_says(cell: str) -> Check:
    """The line's hit rates are those of the ranks as they are read here, or the report says not."""

    def check(results: Results, text: str) -> None:
        with np.load(FOLDER / "ranks" / f"{cell}.npz") as arrays:
            ranks = {"ranked": arrays["rank"], "masked": arrays["rank_masked"]}
        line = next(json.loads(line) for line in _lines() if cell in line)
        fits = all(
            abs((rank <= k).mean() - line["test"][protocol][f"hit@{k}"]) < 1e-9 and min(rank) >= 1
            for protocol, rank in ranks.items()
            for k in (5, 10)
        )
        if not fits and _NOT_FITTING not in text:
            raise Wrong("the ranks contradict the metrics, and the report does not say so")

    return check


@dataclass(frozen=True)
class Change:
    """What was done to the folder.

    Attributes:
        what: in words.
        file: the file that a refusal must name.
        check: what must hold if it is read.
        may_run: whether it may be.
    """

    what: str
    file: str = _CELLS.name
    check: Check = _anything
    may_run: bool = True


# ---- the lines -----------------------------------------------------------------------------------


def _lines() -> list[str]:
    return _CELLS.read_text(encoding="utf-8").splitlines()


def _write(lines: list[str], end: str = "\n") -> None:
    _CELLS.write_text("\n".join(lines) + end, encoding="utf-8", newline="")


_OTHER_LINES = ["[]", "1", "null", '"x"', "{}", '{"cell": "a"}', '{"format": 1}', "x", "}{", "NaN"]
_OTHER_LINES += ['{"cell": 1, "format": 1}', "\x00" * 9, "é" * 500, "[" * 10**5]


def another_line(choose: random.Random) -> Change:
    """A line that is no cell."""
    lines = _lines()
    at = choose.randrange(len(lines))
    how = pick(choose, "cut, other, other, joined, split")
    middle = choose.randrange(1, len(lines[at]))
    if how == "cut":
        lines[at] = lines[at][:middle]
    elif how == "other":
        lines[at] = how = choose.choice(_OTHER_LINES)
    elif how == "joined":
        at = choose.randrange(len(lines) - 1)
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    else:
        lines[at : at + 1] = [lines[at][:middle], lines[at][middle:]]
    _write(lines)
    return Change(f"line {at + 1}: {how:.40}", may_run=False)


def harmless_lines(choose: random.Random) -> Change:
    lines = _lines()
    at, number = choose.randrange(len(lines)), len(lines)
    how = pick(choose, "twice, gone, blank, CRLF, BOM")
    if how == "twice":
        lines.append(lines[at])
    elif how == "gone":
        del lines[at]
        number -= 1
    elif how == "blank":
        lines.insert(at, choose.choice(["", "  ", "\t"]))
    elif how == "BOM":
        lines[0] = "\ufeff" + lines[0]
    _write([line + "\r" * (how == "CRLF") for line in lines])
    return Change(f"line {at + 1}: {how}", check=_has_cells(number))


def last_line(choose: random.Random) -> Change:
    """The last line without its end, whole or not."""
    lines = _lines()
    if choose.random() < 0.5:
        end = choose.choice(["", " ", "\r"])
        _write(lines, end)
        return Change(f"the last line is whole, and ends in {end!r}", check=_has_cells(len(lines)))
    keep = choose.randrange(1, len(lines[-1]))
    _write([*lines[:-1], lines[-1][:keep]], "")
    return Change(f"the last line ends after {keep} bytes", check=_has_cells(len(lines) - 1))


def entry_of_line(choose: random.Random) -> Change:
    """An entry of a line, at any depth, is another, or gone."""
    lines = _lines()
    at = choose.randrange(len(lines))
    cell = json.loads(lines[at])
    place, path = cell, []
    while True:
        key = choose.choice(list(place))
        path.append(key)
        if not (isinstance(place[key], dict) and place[key]) or choose.random() < 0.3:
            break
        place = place[key]
    if choose.random() < 0.25:
        del place[key]
    else:
        place[key] = choose.choice(_JUNK)
    lines[at] = json.dumps(cell)
    _write(lines)
    return Change(f"line {at + 1}: {'.'.join(path)} is {place.get(key, 'gone')!r:.40}")


def metric(choose: random.Random) -> Change:
    """A metric that the ranks beside it contradict."""
    lines = _lines()
    at = choose.randrange(len(lines))
    cell = json.loads(lines[at])
    protocol = choose.choice(["ranked", "masked"])
    name = choose.choice(list(cell["test"][protocol]))
    old = cell["test"][protocol][name]
    others = [old + 0.01, old * 2, old + 1e-6, 0.0, 1.0, 5.0, -1.0, str(old), None, True]
    new = choose.choice([*others, float("nan"), float("inf")])
    cell["test"][protocol][name] = new
    lines[at] = json.dumps(cell)
    _write(lines)
    return Change(
        f"line {at + 1}: {protocol} {name} is {new!r}, not {old}", check=_says(_NOT_FITTING)
    )


def file_of_cells(choose: random.Random) -> Change:
    how = pick(choose, "damaged, damaged, damaged, gone, empty, a folder, utf-16, latin-1")
    before = _CELLS.read_bytes()
    if how == "damaged":
        what, content = damaged_bytes(choose, before)
        _CELLS.write_bytes(content)
        return Change(f"{_CELLS.name}: {what}")
    _CELLS.unlink()
    if how == "a folder":
        _CELLS.mkdir()
    elif how == "empty":
        _CELLS.write_bytes(b"")
    elif how != "gone":
        _CELLS.write_text(before.decode().replace("made up", "é"), encoding=how)
    return Change(f"{_CELLS.name} is {how}", may_run=False)


# ---- the ranks, and other files ------------------------------------------------------------------


def array_of_ranks(choose: random.Random) -> Change:
    """An array of a cell's ranks is another than the metrics were made of, or none."""
    path = choose.choice(sorted((FOLDER / "ranks").iterdir()))
    arrays = dict(np.load(path))
    name = choose.choice(list(arrays))
    array = arrays.pop(name)
    count = np.arange(len(array))
    others = {
        "short": array[:-1],
        "empty": array[:0],
        "a matrix": array[:, None],
        "a scalar": array[0],
        "of text": array.astype(str),
        "of objects": array.astype(object),
        "reversed": array[::-1],
        "the first everywhere": np.full_like(array, array[0]),
        "NaN": np.full(len(array), np.nan),
        "negative": -count,
        "zero": 0 * count,
        "huge": 0 * count + 2**62,
        "complex": count + 1j,
        "of float": count + 0.5,
        "as it was": array,
    }
    how = choose.choice([*others, "gone"])
    if how != "gone":
        arrays[name] = others[how]
    np.savez(path, **arrays)
    check = _fits_or_says(path.stem) if how in others else _anything
    return Change(f"{name} of the ranks is {how}", path.name, check, how != "gone")


def file_of_ranks(choose: random.Random) -> Change:
    path, other = choose.sample(sorted((FOLDER / "ranks").iterdir()), 2)
    how = pick(
        choose, "damaged, damaged, another's, gone, all gone, a folder, empty, a npy, pickled"
    )
    if how == "damaged":
        what, content = damaged_bytes(choose, path.read_bytes())
        path.write_bytes(content)
        return Change(f"ranks: {what}", path.name, _fits_or_says(path.stem))
    if how == "another's":
        shutil.copy(other, path)
        return Change("ranks of another cell", path.name, _fits_or_says(path.stem))
    path.unlink()
    if how == "all gone":
        shutil.rmtree(path.parent)
    elif how == "a folder":
        path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    elif how in ("a npy", "pickled"):
        with open(path, "wb") as file:
            write = np.save if how == "a npy" else np.savez
            write(file, np.array([{}], dtype=object) if how == "pickled" else np.arange(3))
    there = how in ("empty", "a npy", "pickled")
    return Change(f"ranks are {how}", path.name, _says("no ranks are kept"), not there)


def foreign_file(choose: random.Random) -> Change:
    """A file that is none of a comparison's."""
    name = pick(choose, "x, ranks/x.npz, ranks/x, cells.jsonl~, cells.json, .cells.jsonl.lock, é")
    (FOLDER / name).write_bytes(choose.choice([b"", b"x", choose.randbytes(99)]))
    return Change(f"a foreign file {name}", name, _has_cells(4))


def file_of_items(choose: random.Random) -> Change:
    """``items/``, which the pictures alone need."""
    path = choose.choice(sorted((FOLDER / "items").iterdir()))
    what, content = damaged_bytes(choose, path.read_bytes())
    path.write_bytes(content)
    return Change(f"items: {what}", path.name)


CHANGES = [
    *(another_line, harmless_lines, last_line, entry_of_line, entry_of_line, metric, metric),
    *(file_of_cells, array_of_ranks, array_of_ranks, file_of_ranks, foreign_file, file_of_items),
]
