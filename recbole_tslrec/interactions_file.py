"""What an interactions file must not hold, found before RecBole reads it.

RecBole reads the file with pandas, which takes tokens such as ``NA``, ``nan`` or ``None`` for missing
values. RecBole then drops the interaction with a warning, or another one in its place if a user is
missing further up, and fills a missing time in with the mean of all times. Every history, split and
target after it is another one, and nothing fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

# Files of this process that were found sound, as they were then: a comparison makes many Configs.
_CHECKED: set[tuple] = set()
_ROWS_AT_ONCE = 1_000_000  # keeps the memory of the check below that of reading the file


def check_interactions(config: dict[str, Any]) -> None:
    """Raise ValueError for the first user, item or time that pandas takes for missing or for more.

    More: a quotation mark that swallows the lines after it. Also for a time that is not a number.

    A file that is not there is RecBole's to report, and ready-made sequences
    (``benchmark_filename``) are the pipeline's.

    Args:
        config: RecBole's ``final_config_dict``, once ``data_path`` ends in the data set's name.
    """
    path = path_of(config)
    if config.get("benchmark_filename") is not None or not path.is_file():
        return
    fields = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"])
    form = (config["field_separator"], config.get("encoding") or "utf-8")
    state = path.stat()
    if (seen := (path.absolute(), state.st_size, state.st_mtime_ns, fields, form)) in _CHECKED:
        return
    try:
        for rows in _read(path, config):
            _check_rows(rows, path, config)
            _check_times(rows, path, config)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"[{path}] cannot be read: {error}") from error
    _CHECKED.add(seen)


def count_items(config: dict[str, Any]) -> int:
    """How many items the interactions file holds, before any filter takes some out."""
    field = config["ITEM_ID_FIELD"]
    items: set[str] = set()
    for rows in _read(path_of(config), config):
        items.update(rows[field].unique())
    return len(items)


def path_of(config: dict[str, Any]) -> Path:
    """The interactions file, once ``data_path`` ends in the data set's name."""
    return Path(config["data_path"]) / f"{config['dataset']}.inter"


def _read(path: Path, config: dict[str, Any], **how: Any) -> Iterator[pd.DataFrame]:
    """The columns of user, item and time, by field, as text; as RecBole takes the file apart."""
    fields = {config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"]}
    separator = config["field_separator"]
    with pd.read_csv(
        path,
        sep=separator,
        encoding=config.get("encoding") or "utf-8",
        usecols=lambda column: column.split(":")[0] in fields,
        dtype=str,
        chunksize=_ROWS_AT_ONCE,
        engine="c" if len(separator) == 1 else "python",
        **how,
    ) as reader:
        for rows in reader:
            yield rows.rename(columns=lambda column: column.split(":")[0])


def _check_rows(rows: pd.DataFrame, path: Path, config: dict[str, Any]) -> None:
    for field in rows:
        missing = rows[field].isna()
        if missing.any():
            number = missing.idxmax()
            raise ValueError(
                f"[{path}] line {_line(path, number)}: the {field} "
                f"[{_as_written(path, config, field, number)}] "
                f"counts as missing. RecBole would drop the interaction, or make up its time, and so "
                f"change the history. Rename it in the file (pandas takes NA, nan, None, null and the "
                f"like for missing), or take such lines out."
            )
        broken = rows[field].str.contains("\n", regex=False)
        if broken.any():
            number = broken.idxmax()
            raise ValueError(
                f"[{path}] line {_line(path, number)}: the {field} [{rows[field][number]}] goes over "
                f'several lines, because it begins with a quotation mark ("). Take the mark out.'
            )


def _check_times(rows: pd.DataFrame, path: Path, config: dict[str, Any]) -> None:
    field = config["TIME_FIELD"]
    try:
        rows[field].astype("float64")  # as RecBole does, which names neither file nor line
    except ValueError:
        number = next(number for number, text in rows[field].items() if not _is_number(text))
        raise ValueError(
            f"[{path}] line {_line(path, number)}: the {field} [{rows[field][number]}] is not a number."
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _line(path: Path, number: int) -> int:
    """The line, from 1, of a row, from 0: after the header, and pandas skips blank lines."""
    with open(path, "rb") as file:
        lines = (line for line, text in enumerate(file, start=1) if text.strip(b" \r\n"))
        return next(islice(lines, number + 1, None))


def _as_written(path: Path, config: dict[str, Any], field: str, number: int) -> str:
    """The text that stands in the file, in the row of this number."""
    for rows in _read(path, config, keep_default_na=False):
        if number in rows.index:
            return rows[field][number]
    raise AssertionError(f"row {number} is gone from [{path}]")
