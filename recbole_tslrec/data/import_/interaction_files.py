"""The forms in which data sets are published: sequences, logs with times, RecBole's atomic files."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_tslrec.data.import_.interactions import Interactions
from recbole_tslrec.data.import_.text_files import (
    Tokens,
    atomic_header,
    find_column,
    read_lines,
    read_rows,
)

_SEPARATORS = "\t,;"  # of a log's columns; sequences have spaces
_ZONE = r":\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"
_GUESSES = {
    "user": ("user_id", "user", "userId", "reviewerID", "uid"),
    "item": ("item_id", "item", "itemId", "asin", "movieId", "business_id"),
    "time": ("timestamp", "time", "unixReviewTime", "date"),
}


@dataclass(frozen=True)
class Columns:
    """The names of a log's columns; None is to be guessed from the common names."""

    user: str | None = None
    item: str | None = None
    time: str | None = None

    def find(self, role: str, columns: list[str], path: Path) -> int:
        """The place of the user, item or time column; ValueError if it is not exactly one."""
        return find_column(role, getattr(self, role), _GUESSES[role], columns, path)


def recognise(path: Path) -> str:
    """The form of a file by its first line: ``name:type``, separated columns, or neither."""
    if atomic_header(path):
        return "atomic"
    first = next(read_lines(path), "")
    return "csv" if any(separator in first for separator in _SEPARATORS) else "sequences"


def read_interactions(path: Path, form: str, columns: Columns) -> Interactions:
    """Read a file of one of ``import_.FORMS``.

    Raises:
        ValueError: something malformed, with file and line; a column that is not there or not
            clear; no interactions at all.
    """
    if form == "sequences":
        if columns != Columns():
            raise ValueError(f"{path} is read as sequences, which have no columns to name.")
        interactions = _read_sequences(path)
    else:
        interactions = _read_log(path, form, columns)
    if not len(interactions):
        raise ValueError(f"{path}, read as {form}, has no interactions.")
    return interactions


def _read_sequences(path: Path) -> Interactions:
    """Lines ``user item item …``, oldest first, separated by spaces or tabs."""
    users, items = Tokens(path, "user"), Tokens(path, "item")
    lengths, item = array("q"), array("q")
    for line, text in enumerate(read_lines(path), start=1):
        user, *history = re.findall(r"[^ \t\r\n]+", text) or [""]
        if not history:
            raise ValueError(
                f"{path}, line {line}: [{text.strip()}] is not a user and items, separated by spaces."
            )
        number = users.number(user, line)
        if number < len(lengths):  # every line before this one brought a new user
            raise ValueError(
                f"{path}, line {line}: user [{user}] has line {number + 1} already; one line a user."
            )
        lengths.append(len(history))
        item.extend(items.number(token, line) for token in history)
    user = np.repeat(np.arange(len(users)), np.array(lengths, dtype=np.int64))
    return Interactions(users.array(), items.array(), user, np.array(item, dtype=np.int64))


def _read_log(path: Path, form: str, columns: Columns) -> Interactions:
    """A row an interaction, in any order; interactions of the same time keep the file's order."""
    if form == "atomic" and not atomic_header(path):
        raise ValueError(f"{path}, line 1: not a RecBole header, tab-separated columns name:type.")
    first = next(read_lines(path), "")
    candidates = "\t" if form == "atomic" else _SEPARATORS
    separator = next((mark for mark in candidates if mark in first), ",")
    rows = read_rows(path, separator)
    _, header = next(rows, (1, []))
    if form == "atomic":
        header = [column.rpartition(":")[0] for column in header]
    at_user, at_item, at_time = (columns.find(role, header, path) for role in _GUESSES)
    users, items = Tokens(path, "user"), Tokens(path, "item")
    user, item, lines, times = array("q"), array("q"), array("q"), []
    for line, row in rows:
        user.append(users.number(row[at_user], line))
        item.append(items.number(row[at_item], line))
        lines.append(line)
        times.append(row[at_time])
    user, item = (np.array(numbers, dtype=np.int64) for numbers in (user, item))
    time = _ranks(_instants(times, lines, path), user)
    order = np.lexsort((time, user))
    return Interactions(users.array(), items.array(), user[order], item[order], time[order])


def _ranks(instants: Sequence[np.ndarray], user: np.ndarray) -> np.ndarray:
    """The place of each time among all, from 0; equal ones of one user follow each other. int64 [n]

    Args:
        instants: keys of lexsort.
        user: int64 [n].
    """
    order = np.lexsort(instants)  # stable
    differs = np.any([np.diff(key[order]).astype(bool) for key in instants], axis=0)
    instant = np.empty(len(user), dtype=np.int64)
    instant[order] = np.concatenate([[0], np.cumsum(differs)])[: len(user)]
    rows = pd.DataFrame({"user": user, "instant": instant})
    again = rows.groupby(["user", "instant"]).cumcount().to_numpy()
    return np.unique(instant * (again.max(initial=0) + 1) + again, return_inverse=True)[1]


def _instants(times: list[str], lines: array, path: Path) -> list[np.ndarray]:
    """Times as numbers or dates that sort, all of the kind that the first one is: keys of lexsort."""
    texts = pd.Series(times, dtype=object)
    kind, instants = "number", pd.to_numeric(texts, errors="coerce")
    readable = np.isfinite(instants.to_numpy(dtype=np.float64))
    if len(texts) and not readable[0]:
        dates = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        # pandas 2.3 reads a time without a zone in the zone of the line before: not both in a file.
        zoned = texts.str.contains(_ZONE)
        instants = dates.dt.tz_convert(None)
        readable = (dates.notna() & (zoned == zoned[0])).to_numpy()
        kind = f"ISO date {'with' if zoned[0] else 'without'} a time zone"
    if not readable.all():
        row = int(readable.argmin())
        expected = (
            f"no {kind}, as the times before it" if row else "neither a number nor an ISO date"
        )
        raise ValueError(f"{path}, line {lines[row]}: the time [{times[row]}] is {expected}.")
    instants = instants.to_numpy()
    return [_within_equal(texts, instants), instants] if instants.dtype.kind == "f" else [instants]


def _within_equal(texts: pd.Series, numbers: np.ndarray) -> np.ndarray:
    """The order of numbers that float64 takes for equal, and which are not: int64 [n]."""
    codes, distinct = pd.factorize(texts)
    values = np.empty(len(distinct))
    values[codes] = numbers
    shared = pd.Series(values).duplicated(keep=False).to_numpy()
    places = np.zeros(len(distinct), dtype=np.int64)
    exact = np.array([Decimal(text) for text in distinct[shared]], dtype=object)
    places[shared] = np.unique(exact, return_inverse=True)[1]
    return places[codes]
