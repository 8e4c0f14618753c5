"""What an interactions file must not hold, found before RecBole reads it.

RecBole reads the file with pandas, which takes tokens such as ``NA``, ``nan`` or ``None`` for missing
values. RecBole then drops the interaction with a warning, or another one in its place if a user is
missing further up, and fills a missing time in with the mean of all times. pandas also ends a token
at a NUL, takes quotation marks off, and leaves out what a row has beyond the first line's columns.
Every history, split and target after it is another one, and nothing fails.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_tslrec.data.check_header import (
    decoding,
    encoding_of,
    loaded_columns,
    path_of,
    read_header,
)

# Files of this process that were found sound, as they were then: a comparison makes many Configs.
_CHECKED: set[tuple] = set()
_ROWS_AT_ONCE = 200_000  # texts of a thousand characters beside them are then 200 MB
_CHARACTERS_AT_ONCE = 1 << 24
_CARRIAGE_RETURN = re.compile(r"\r(?!\n)")


def check_interactions(config: dict[str, Any]) -> None:
    """Raise ValueError, with the line, for the first thing that RecBole would read otherwise.

    A user, item or time that pandas takes for missing, for more (a quotation mark that swallows the
    lines after it) or for another; a row with columns too many; a time that is not a finite number;
    nothing to train on. A file that is not there is RecBole's to report, and ready-made sequences
    (``benchmark_filename``) are the pipeline's.

    Args:
        config: RecBole's ``final_config_dict``, once ``data_path`` ends in the data set's name, and
            after ``check_columns``.
    """
    path = path_of(config)
    if config.get("benchmark_filename") is not None or not path.is_file():
        return
    fields = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"])
    loaded = (str(config["load_col"]), str(config["unload_col"]))
    form = (config["field_separator"], encoding_of(config), *loaded)
    state = path.stat()
    if (seen := (path.absolute(), state.st_size, state.st_mtime_ns, fields, form)) in _CHECKED:
        return
    try:
        with decoding(path, encoding_of(config)):
            has_quotes = check_characters(path, config)
            _check_all_rows(path, config)
            if has_quotes and len(config["field_separator"]) == 1:
                _check_marks(path, config)
                _check_spellings(path, config)
    except pd.errors.ParserError as error:
        raise ValueError(f"[{path}] cannot be read: {str(error).strip()}") from error
    _CHECKED.add(seen)


def items_in_file(config: dict[str, Any]) -> set[str]:
    """The items that the interactions file holds, before any filter takes some out."""
    field = config["ITEM_ID_FIELD"]
    items: set[str] = set()
    alone = {"usecols": lambda column: column.split(":")[0] == field}
    for rows in _read(path_of(config), config, **alone):
        items.update(rows[field].unique())
    return items


def keeps_all_items(config: Mapping[str, Any]) -> bool:
    """Whether RecBole's data set will surely have all items that the interactions file holds."""
    intervals = ("user_inter_num_interval", "item_inter_num_interval")
    some_counts = any(config[key] not in (None, "[0,inf)") for key in intervals)
    # Interactions of users and items without a row among loaded features are dropped.
    features = config["load_col"] is None or not {"user", "item"}.isdisjoint(config["load_col"])
    return not (some_counts or features or config["val_interval"])


def _read(path: Path, config: dict[str, Any], **how: Any) -> Iterator[pd.DataFrame]:
    """All columns by field, as text; as RecBole takes the file apart.

    With ``usecols`` pandas leaves out, in silence, what a row has too much.
    """
    separator = config["field_separator"]
    with pd.read_csv(
        path,
        sep=separator,
        encoding=encoding_of(config),
        dtype=str,
        chunksize=_ROWS_AT_ONCE,
        engine="c" if len(separator.encode()) == 1 else "python",
        **how,
    ) as reader:
        for rows in reader:
            yield rows.rename(columns=lambda column: column.split(":")[0])


def check_characters(path: Path, config: Mapping[str, Any]) -> bool:
    """Raise ValueError for a NUL or a lone carriage return; whether there are quotation marks.

    Args:
        path: one of RecBole's files, which can be decoded.
    """
    encoding = encoding_of(config)
    has_quotes = False
    with open(path, encoding=encoding, newline="") as file:
        while block := file.read(_CHARACTERS_AT_ONCE):
            if block.endswith("\r"):
                block += file.read(1)
            if "\0" in block:
                line = _line_with(path, encoding, lambda text: "\0" in text)
                raise ValueError(
                    f"[{path}] line {line} holds a NUL byte, at which a user, item or text ends for "
                    f"pandas: two may become one. Take it out."
                )
            if block.count("\r") != block.count("\r\n"):
                line = _line_with(path, encoding, _CARRIAGE_RETURN.search)
                raise ValueError(
                    f"[{path}] line {line} holds a carriage return (\\r) before its end, where another "
                    f"line begins for pandas. End all lines with \\n."
                )
            has_quotes = has_quotes or '"' in block
    return has_quotes


def _check_all_rows(path: Path, config: dict[str, Any]) -> None:
    user = config["USER_ID_FIELD"]
    types = dict(column.split(":") for column in read_header(config))
    loaded = loaded_columns(config, list(types))
    numbers = [name for name in loaded if types[name] == "float"]
    lists = [name for name in loaded if types[name] == "float_seq"]
    n_rows, users, user_twice = 0, set(), False
    for rows in _read(path, config):
        _check_rows(rows, path, config)
        for field in numbers:
            _check_numbers(rows, field, path, config)
        for field in lists:
            _check_lists(rows, field, path, config)
        n_rows += len(rows)
        if not user_twice:  # mostly known after the first rows, so that no set grows large
            here = rows[user].unique()
            user_twice = len(here) < len(rows) or not users.isdisjoint(here)
            users.update(here)
    if not user_twice:
        problem = "no user has two interactions" if n_rows else "there are no interactions"
        raise ValueError(
            f"[{path}]: {problem}, so there is nothing to train on. Give a file with users' histories."
        )


def _check_rows(rows: pd.DataFrame, path: Path, config: dict[str, Any]) -> None:
    if len(rows) and not isinstance(rows.index, pd.RangeIndex):  # pandas: columns without a name
        raise ValueError(
            f"[{path}] line {_line(path, config, 0)} has more columns than line 1 names, and RecBole "
            f"would take one for another. Name all of them, or take what is too much out."
        )
    for field in (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"]):
        missing = rows[field].isna()
        if missing.any():
            number = missing.idxmax()
            raise ValueError(
                f"[{path}] line {_line(path, config, number)}: the {field} "
                f"[{_as_written(path, config, field, number)}] "
                f"counts as missing. RecBole would drop the interaction, or make up its time, and so "
                f"change the history. Rename it in the file (pandas takes NA, nan, None, null and the "
                f"like for missing), or take such lines out."
            )
        broken = rows[field].str.contains("\n", regex=False)
        if broken.any():
            number = broken.idxmax()
            raise ValueError(
                f"[{path}] line {_line(path, config, number)}: the {field} [{rows[field][number]}] goes "
                f'over several lines, because it begins with a quotation mark ("). Take the mark out.'
            )


def _check_numbers(rows: pd.DataFrame, field: str, path: Path, config: dict[str, Any]) -> None:
    """Numbers must be some, as RecBole would say without file and line; times finite, too."""
    try:
        values = rows[field].astype("float64")
    except ValueError:
        number = next(number for number, text in rows[field].items() if not _is_number(text))
        raise ValueError(
            f"[{path}] line {_line(path, config, number)}: the {field} [{rows[field][number]}] is not a "
            f"number."
        ) from None
    endless = ~np.isfinite(values)
    if field == config["TIME_FIELD"] and endless.any():
        number = endless.idxmax()
        raise ValueError(
            f"[{path}] line {_line(path, config, number)}: the {field} [{rows[field][number]}] is not a "
            f"finite number, and has no place in an order."
        )


def _check_lists(rows: pd.DataFrame, field: str, path: Path, config: dict[str, Any]) -> None:
    """Lists of numbers must hold some, as RecBole would say without file and line."""
    for number, text in rows[field].dropna().items():
        for part in filter(None, text.split(config["seq_separator"])):
            if not _is_number(part):
                raise ValueError(
                    f"[{path}] line {_line(path, config, number)}: the {field} [{text}] holds [{part}], "
                    f"which is not a number."
                )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_marks(path: Path, config: dict[str, Any]) -> None:
    """Raise ValueError for quotation marks that do not match.

    RecBole's reading, as strict as here, would die of them without the file's name.
    """
    with open(path, encoding=encoding_of(config), newline="") as file:
        reader = csv.reader(file, delimiter=config["field_separator"], strict=True)
        try:
            deque(reader, maxlen=0)
        except csv.Error as error:
            raise ValueError(
                f'[{path}] line {reader.line_num}: {error}. A quotation mark (") at the beginning of a '
                f"cell opens it. Take it out, or double those within the cell."
            ) from None


def _check_spellings(path: Path, config: dict[str, Any]) -> None:
    """Raise ValueError for two spellings that pandas reads as one token: ``"a"`` and ``a``.

    Lines with a separator within quotation marks are not looked at.
    """
    separator, encoding = config["field_separator"], encoding_of(config)
    raw_text = {"quoting": csv.QUOTE_NONE, "on_bad_lines": "skip", "index_col": False}
    fields = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"])
    spellings: dict[str, dict[str, str]] = {field: {} for field in fields}
    for rows in _read(path, config, keep_default_na=False, **raw_text):
        for field, seen in spellings.items():
            for spelling in rows[field].dropna().unique():
                token = _unquoted(spelling, separator)
                other = seen.setdefault(token, spelling)
                if other == spelling:
                    continue
                line = _line_with(
                    path,
                    encoding,
                    lambda text, cell=spelling: cell in text.rstrip("\r\n").split(separator),
                )
                raise ValueError(
                    f"[{path}] line {line}: the {field} [{spelling}] and [{other}], further up, are one "
                    f"to RecBole: pandas takes quotation marks off. Write it in one way, or rename one."
                )


def _unquoted(cell: str, separator: str) -> str:
    """A cell as pandas reads it."""
    if not cell.startswith('"'):
        return cell
    return next(csv.reader([cell], delimiter=separator))[0]


def _line(path: Path, config: dict[str, Any], number: int) -> int:
    """The line, from 1, of a row, from 0: after the header, and pandas skips blank lines."""
    with open(path, encoding=encoding_of(config), newline="\n") as file:
        lines = (line for line, text in enumerate(file, start=1) if text.strip(" \r\n"))
        return next(islice(lines, number + 1, None))


def _line_with(path: Path, encoding: str, test: Callable[[str], Any]) -> int:
    """The first line, from 1, that passes the test."""
    with open(path, encoding=encoding, newline="\n") as file:
        return next(line for line, text in enumerate(file, start=1) if test(text))


def _as_written(path: Path, config: dict[str, Any], field: str, number: int) -> str:
    """The text that stands in the file, in the row of this number."""
    for rows in _read(path, config, keep_default_na=False):
        if number in rows.index:
            return rows[field][number]
    raise AssertionError(f"row {number} is gone from [{path}]")


def check_list_width(dataset, any_length: bool) -> None:
    """Raise ValueError if ready-made item lists are not as long as the model takes them.

    RecBole pads those of ``benchmark_filename`` to the longest of them, whatever
    ``MAX_ITEM_LIST_LENGTH`` says.

    Args:
        dataset: RecBole's, of ready-made rows, as tensors.
        any_length: whether the model takes lists that are shorter than ``MAX_ITEM_LIST_LENGTH``.
    """
    config = dataset.config
    width = dataset.inter_feat[getattr(dataset, f"{dataset.iid_field}_list_field")].shape[1]
    longest = config["MAX_ITEM_LIST_LENGTH"]
    if width > longest or (width < longest and not any_length):
        raise ValueError(
            f"MAX_ITEM_LIST_LENGTH: [{longest}] is not the {width} items of the longest list in "
            f"{config['benchmark_filename']}, and [{config['model']}] reads these as they are. Set "
            f"MAX_ITEM_LIST_LENGTH: {width}."
        )
