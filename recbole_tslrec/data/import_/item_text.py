"""What is known of the items besides who had them: RecBole's ``.item`` file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pandas as pd

from recbole_tslrec.data.import_.interaction_files import Columns
from recbole_tslrec.data.import_.text_files import (
    UNREADABLE,
    atomic_header,
    read_lines,
    read_rows,
)


def read_items(path: Path, wanted: Collection[str], columns: Columns) -> tuple[pd.DataFrame, str]:
    """The rows of RecBole's ``.item``: one for every item that has interactions, and for no other.

    RecBole drops the interactions of items without a row, and counts items that nobody had. An item
    of which nothing is known gets a row of empty values.

    Args:
        path: an atomic ``.item``, whose columns are kept, or lines of tab-separated
            ``item, text`` or ``item, original id, text, more text …`` without a header.
        wanted: the tokens of the items that have interactions.
        columns: may name the item column of an atomic file, if it has no common name.

    Returns:
        The table under RecBole's headers, and a sentence that says for how many items nothing was
        found, and how many were left out because nobody had them.

    Raises:
        ValueError: a malformed line or an item twice, with file and line; no wanted item at all.
    """
    header = atomic_header(path)
    if header:
        names = [column.rpartition(":")[0] for column in header]
        # The name is the log's column's; this file may have a common one.
        at_item = (columns if columns.item in names else Columns()).find("item", names, path)
        header = [header.pop(at_item), *header]
        header[0] = "item_id:token"
        rows = _atomic_rows(path, at_item)
    else:
        header, rows = ["item_id:token", "item_text:token_seq"], _text_rows(path)
    lines: dict[str, int] = {}
    missing = dict.fromkeys(wanted)  # in order
    left_out, table = 0, []
    for line, item, values in rows:
        if item in lines:
            raise ValueError(f"{path}, line {line}: item [{item}] has line {lines[item]} already.")
        lines[item] = line
        if item not in missing:
            left_out += 1
        elif any(values):
            del missing[item]
            table.append([item, *values])
    if not table:
        raise ValueError(f"{path} has nothing on any item of the interactions: are its ids others?")
    note = (
        f"Items from {path}: {len(table):,} with, {len(missing):,} without text or a row; "
        f"left out: {left_out:,} that have no interaction."
    )
    table += [[item, *[""] * (len(header) - 1)] for item in missing]
    return pd.DataFrame(table, columns=header), note


def _atomic_rows(path: Path, at_item: int) -> Iterator[tuple[int, str, list[str]]]:
    rows = read_rows(path, "\t", strict=False)  # a text may have "marks" in it
    next(rows)  # the header
    for line, row in rows:
        if any("\n" in value for value in row):
            raise ValueError(
                f'{path}, line {line}: a text goes over several lines, since a quotation mark (") '
                f"opens it. Take the mark out, or the line break."
            )
        yield line, row.pop(at_item), row


def _text_rows(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line, item and its text, if it has one that RecBole can read."""
    for line, row in enumerate(read_lines(path), start=1):
        item, *rest = row.rstrip("\r\n").split("\t")
        if not item.strip() or not rest:
            raise ValueError(f"{path}, line {line}: [{row.strip()}] is not an item, a tab, a text.")
        text = " ".join(" ".join(rest if len(rest) == 1 else rest[1:]).split())
        yield line, item, [text] if text and text not in UNREADABLE else []
