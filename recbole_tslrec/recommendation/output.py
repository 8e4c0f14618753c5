"""Tables of results as files: CSV, or a json object a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from recbole_tslrec.store import files
from recbole_tslrec.store.files import write_atomically

FORMS = (".csv", ".jsonl")


def check_output(path: Path | None, read: Iterable[Path | None] = ()) -> None:
    """As of any file, and ValueError if its name is none of a table; None is no file."""
    if path is None:
        return
    if path.suffix not in FORMS:
        raise ValueError(f"output: [{path}] ends in neither of {', '.join(FORMS)}.")
    files.check_output(path, read)


def write_tables(tables: Iterable[pd.DataFrame], path: Path) -> int:
    """Write tables of the same columns one after the other, and the file as a whole; how many rows.

    Args:
        tables: made while they are written; only one is in memory.
        path: ends in one of ``FORMS``.
    """
    n_rows = 0

    def write(temporary: Path) -> None:
        nonlocal n_rows
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            for number, table in enumerate(tables):
                if path.suffix == ".csv":
                    table.to_csv(file, index=False, header=number == 0, lineterminator="\n")
                elif len(table):  # of none pandas writes an empty line
                    table.to_json(file, orient="records", lines=True, force_ascii=False)
                n_rows += len(table)

    write_atomically(path.resolve(), write)  # through a link, which stays one
    return n_rows
