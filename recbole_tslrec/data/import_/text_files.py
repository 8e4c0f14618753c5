"""Lines and columns of text files, and the tokens in them; whatever is wrong names file and line.

Columns are read with Python's ``csv``: pandas does not say on which line a row began, and fills up
rows that are too short.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

_ATOMIC_COLUMN = re.compile(r".+:(token|token_seq|float|float_seq)")
# What the pandas inside RecBole takes for a missing value, and RecBole's own token for padding.
UNREADABLE = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|"
    "null|[PAD]".split("|")
)


def read_lines(path: Path) -> Iterator[str]:
    """The lines with their ends; ValueError for one that is not UTF-8, or may be several."""
    with open(path, "rb") as file:
        lines = tqdm(file, desc=f"Read {path.name}", unit=" lines", delay=1)
        for number, line in enumerate(lines, start=1):
            try:
                # A byte order mark, as spreadsheets write it, is no part of the first column's name.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({error}). Convert the file, as with iconv -f "
                    f"latin1 -t utf-8, or unpack it if it is compressed."
                ) from None
            if "\r" in text.rstrip("\r\n"):  # else the next user would be an item of this one
                raise ValueError(
                    f"{path}, line {number}: holds a carriage return (\\r) before its end. End all "
                    f"lines with \\n, and take others out."
                )
            yield text


def atomic_header(path: Path) -> list[str] | None:
    """The columns ``name:type`` of a RecBole atomic file; None for any other file."""
    columns = next(read_lines(path), "").rstrip("\r\n").split("\t")
    atomic = len(columns) > 1 and all(_ATOMIC_COLUMN.fullmatch(column) for column in columns)
    return columns if atomic else None


def read_rows(path: Path, separator: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The header and the rows, each with the line it begins on; blank lines are left out.

    Args:
        strict: whether a quotation mark within a quoted text is refused; pandas reads on.

    Raises:
        ValueError: quotes that do not match, or a row with more or fewer columns than the header.
    """
    reader = csv.reader(read_lines(path), delimiter=separator, strict=strict)
    width = 0
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: {error}.") from None
        width = width or len(row)
        if row and len(row) != width:
            raise ValueError(
                f"{path}, line {line}: {len(row)} columns, where the header has {width}."
            )
        if row:
            yield line, row


def find_column(
    role: str, given: str | None, guesses: Sequence[str], columns: list[str], path: Path
) -> int:
    """The place of the one column that is called as given, or as one of the guesses."""
    names = [given] if given else guesses
    found = [place for place, column in enumerate(columns) if column in names]
    if len(found) != 1:
        raise ValueError(
            f"{path}: {len(found) or 'none'} of the columns {columns} is the {role} column, looking "
            f"for {' or '.join(names)}. The first line must name the columns; say which it is with "
            f"--{role}_column."
        )
    return found[0]


class Tokens:
    """Numbers the tokens of a file from 0, in the order in which they come first."""

    def __init__(self, path: Path, role: str):
        self._path, self._role = path, role
        self._numbers: dict[str, int] = {}

    def number(self, token: str, line: int) -> int:
        """The token's number; ValueError for a token that RecBole could not read back."""
        number = self._numbers.get(token)
        if number is None:
            self._check(token, line)
            number = self._numbers[token] = len(self._numbers)
        return number

    def __len__(self) -> int:
        return len(self._numbers)

    def array(self) -> np.ndarray:
        """The tokens by number, as str objects."""
        return np.array(list(self._numbers), dtype=object)

    def _check(self, token: str, line: int) -> None:
        if not token.strip():
            problem = "is empty"
        elif any(character in token for character in "\t\n\r\0"):
            problem = "holds a tab, a line break or a NUL, which RecBole's files cannot"
        elif token in UNREADABLE:
            problem = "would be a missing value or padding to RecBole; give it another name"
        else:
            return
        raise ValueError(f"{self._path}, line {line}: the {self._role} [{token}] {problem}.")
