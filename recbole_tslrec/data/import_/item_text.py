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
        path: an atomic ``.item``, whose columns are kept, or lines as ``read_texts`` takes them.
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
        rows = atomic_rows(path, at_item)
    else:
        header = ["item_id:token", "item_text:token_seq"]
        rows = ((line, item, [text] if text else []) for line, item, text in read_texts(path))
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


def atomic_rows(path: Path, at_item: int) -> Iterator[tuple[int, str, list[str]]]:
    """Line, item and other values of an ``.item``; ValueError for a text over several lines.

    Args:
        at_item: the place of the item's column.
    """
    rows = read_rows(path, "\t", strict=False)  # a text may have "marks" in it
    next(rows)  # the header
    for line, row in rows:
        if any("\n" in value for value in row):
            raise ValueError(
                f'{path}, line {line}: a text goes over several lines, since a quotation mark (") '
                f"opens it. Take the mark out, or the line break."
            )
        yield line, row.pop(at_item), row


def read_texts(path: Path) -> Iterator[tuple[int, str, str]]:
    """The items of a file without a header and their texts, empty where RecBole could read none.

    All lines are of one of two forms, tab-separated: ``item, text``, or ``item, original id, text, more
    text …``. It is the second if any line has three columns or more, empty ones at its end not counted.

    Yields:
        line, item and text.

    Raises:
        ValueError: a line is of neither form, or of the other one; an original id is none.
    """
    rows = [line.rstrip("\r\n").split("\t") for line in read_lines(path)]
    has_more = (number for number, row in enumerate(rows, start=1) if "".join(row[2:]).strip())
    longer = next(has_more, None)  # the first line of the second form
    at_text = 1 if longer is None else 2
    for line, row in enumerate(rows, start=1):
        shown = "\t".join(row).strip()
        if not row[0].strip() or len(row) < 2:
            raise ValueError(f"{path}, line {line}: [{shown}] is not an item, a tab, a text.")
        if len(row) <= at_text:
            raise ValueError(
                f"{path}, line {line}: [{shown}] has two columns, and line {longer} an item, an "
                f"original id, a text. Give all lines one form."
            )
        if at_text == 2 and len(row[1].split()) > 1:
            raise ValueError(
                f"{path}, line {line}: the second of three columns or more is an original id, which is "
                f"left out, and [{row[1].strip()}] looks like a text. Name the columns in a first line, "
                f"as item_id:token, title:token_seq, genres:token_seq with tabs between them."
            )
        text = " ".join(" ".join(row[at_text:]).split())
        yield line, row[0], "" if text in UNREADABLE else text
