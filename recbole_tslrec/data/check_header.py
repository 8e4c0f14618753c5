"""The first line of an interactions file: its columns, and which of them are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole.utils import FeatureType

from recbole_tslrec.config.recbole_keys import modes_of
from recbole_tslrec.config.recbole_tables import are_intervals

_TYPES = frozenset(one.value for one in FeatureType)
_FIELDS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
_BEGINNINGS = {  # of files that are no text, or none of one byte a letter
    b"\xff\xfe": "It looks like UTF-16: give encoding: utf-16.",
    b"\xfe\xff": "It looks like UTF-16: give encoding: utf-16.",
    b"\x1f\x8b": "It is compressed: unpack it with gzip -d.",
    b"PK": "It is compressed: unpack it with unzip.",
}


def path_of(config: Mapping[str, Any]) -> Path:
    """The interactions file, once ``data_path`` ends in the data set's name."""
    return Path(config["data_path"]) / f"{config['dataset']}.inter"


def encoding_of(config: Mapping[str, Any]) -> str:
    """RecBole's key ``encoding``, or its default."""
    return config.get("encoding") or "utf-8"


@contextmanager
def decoding(path: Path, encoding: str) -> Iterator[None]:
    """Give an error of decoding the file's name, and the way out."""
    try:
        yield
    except LookupError as error:
        if "encoding" not in str(error):
            raise
        raise ValueError(f"encoding: [{encoding}] is none that Python knows.") from None
    except UnicodeError as error:
        raise ValueError(
            f"[{path}] is not in the encoding [{encoding}] ({error}). {_way_out(path)}"
        ) from None


def _way_out(path: Path) -> str:
    with open(path, "rb") as file:
        beginning = file.read(2)
    if beginning.count(0) == 1:  # without its byte order mark
        return f"It looks like UTF-16: give encoding: utf-16-{'le' if beginning[0] else 'be'}."
    other = "If it is a text, give the encoding it is in, as encoding: latin-1."
    return _BEGINNINGS.get(beginning, other)


def read_header(config: Mapping[str, Any], path: Path | None = None) -> list[str]:
    """The columns ``name:type`` of the first line; ValueError for what RecBole cannot take.

    Args:
        path: another of RecBole's files; None for the interactions.
    """
    path, encoding = path or path_of(config), encoding_of(config)
    separator = config["field_separator"]
    if not isinstance(separator, str) or not separator:
        raise ValueError(f"field_separator: [{separator!r}] is not a text, as '\\t' is.")
    with decoding(path, encoding), open(path, encoding=encoding) as file:
        line = file.readline().rstrip("\n")
    if line.startswith("\ufeff"):
        raise ValueError(f"[{path}] begins with a byte order mark: give encoding: utf-8-sig.")
    if "\0" in line:
        raise ValueError(
            f"[{path}] line 1 holds NUL bytes, so it is no text in the encoding [{encoding}]. "
            f"{_way_out(path)}"
        )
    columns = line.split(separator)
    if len(separator) > 1 and re.split(separator, line) != columns:
        raise ValueError(
            f"field_separator: [{separator}] is several letters, which pandas takes for a pattern that "
            f"parts line 1 of [{path}] otherwise. Write the file with another one, as \\t or ::."
        )
    if wrong := [column for column in columns if column.count(":") != 1]:
        raise ValueError(
            f"[{path}] line 1: {str(wrong)[:200]} are no columns of RecBole's, which are name:type and "
            f"parted by [{separator!r}], as in user_id:token, item_id:token, timestamp:float. To make "
            f"such a file of another: python -m recbole_tslrec import"
        )
    for column in columns:
        name, kind = column.split(":")
        if kind not in _TYPES:
            raise ValueError(
                f"[{path}] line 1: the column [{column}] has the type [{kind}], which is not one of "
                f"RecBole's, {', '.join(sorted(_TYPES))}. Change it in the file."
            )
        if sum(other.split(":")[0] == name for other in columns) > 1:
            raise ValueError(
                f"[{path}] line 1 names the column [{name}] twice. Rename one of the two in the file."
            )
    return columns


def check_columns(config: Mapping[str, Any]) -> None:
    """Raise ValueError if the first line is not RecBole's, or user, item or time is not loaded.

    Reads the first line of the .inter file alone. A file that is not there is RecBole's to report,
    and one of ready-made sequences (``benchmark_filename``) is the pipeline's.

    Raises:
        IsADirectoryError: a folder has the file's name.
    """
    path = path_of(config)
    if config.get("benchmark_filename") is not None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"[{path}] is a folder, and should be the interactions file.")
    if not path.is_file():
        return
    types = dict(column.split(":") for column in read_header(config))
    columns = list(types)
    for key in _FIELDS[:2]:
        field = config[key]
        if field not in types:
            raise ValueError(f"{key}: [{field}] is not a column of [{path}], which has {columns}.")
        if types[field] != "token":
            raise ValueError(
                f"{key}: [{field}] has the type [{types[field]}] in [{path}]. Make it {field}:token in "
                f"the first line."
            )
    if config[_FIELDS[0]] == config[_FIELDS[1]]:
        raise ValueError(
            f"USER_ID_FIELD and ITEM_ID_FIELD: both are [{config[_FIELDS[0]]}]. Name two of {columns}."
        )
    time = config["TIME_FIELD"]
    if time not in types:
        raise ValueError(
            f"TIME_FIELD: [{time}] is not a column of [{path}], which has {columns}. Sequential "
            f"recommendation needs the order of the interactions: name the column of their time."
        )
    if types[time] != "float":
        raise ValueError(
            f"TIME_FIELD: [{time}] has the type [{types[time]}] in [{path}], and only numbers have an "
            f"order: {time}:float."
        )
    _check_loaded(config, columns)
    _check_value_filters(config, types)


def check_label(config: Mapping[str, Any]) -> None:
    """Raise ValueError if ``mode: labeled`` is to judge by a label that is not loaded.

    Files are read, or not, as by ``check_columns``. RecBole would miss the label after an epoch. With
    ``threshold`` it makes one, and says itself what is wrong.
    """
    path, label = path_of(config), config["LABEL_FIELD"]
    made = config["threshold"] is not None or config.get("benchmark_filename") is not None
    if "labeled" not in modes_of(config) or made or not path.is_file():
        return
    columns = [column.split(":")[0] for column in read_header(config)]
    _check_loaded(config, columns)
    if label not in (loaded := loaded_columns(config, columns)):
        raise ValueError(
            f"eval_args: mode [labeled] judges by LABEL_FIELD: [{label}], which is none of the loaded "
            f"columns, {loaded}. Set LABEL_FIELD and load_col, threshold: {{'rating': 4}}, which makes "
            f"labels of ratings, or mode: uni100."
        )


def loaded_columns(config: Mapping[str, Any], columns: list[str]) -> list[str]:
    """The names of those columns that RecBole loads, once ``load_col`` is known to be sound."""
    given = {"inter": "*"} if config["load_col"] is None else config["load_col"]
    loaded = given.get("inter") or []
    left_out = (config["unload_col"] or {}).get("inter") or ()
    return [name for name in columns if (loaded == "*" or name in loaded) and name not in left_out]


def check_load_col(config: Mapping[str, Any]) -> None:
    """Raise ValueError if ``load_col`` is no lists of columns by kind of file."""
    given = {"inter": "*"} if config["load_col"] is None else config["load_col"]
    if not isinstance(given, Mapping):
        raise ValueError(
            f"load_col: [{given}] is not a list of columns by kind of file. On the command line it is "
            f"--load_col=\"{{'inter': ['user_id', 'item_id', '{config['TIME_FIELD']}']}}\""
        )
    for kind, of_kind in given.items():
        # RecBole would take a text for a list of its letters.
        if of_kind != "*" and not isinstance(of_kind, (list, tuple, set)):
            raise ValueError(
                f"load_col: {kind}: [{of_kind!r}] is not a list of columns. Give one, or '*' for all; "
                f"for none leave [{kind}] out."
            )


def _check_loaded(config: Mapping[str, Any], columns: list[str]) -> None:
    check_load_col(config)
    loaded = ({"inter": "*"} if config["load_col"] is None else config["load_col"]).get(
        "inter"
    ) or []
    loaded = columns if loaded == "*" else loaded
    left_out = (config["unload_col"] or {}).get("inter") or ()
    needed = {key: config[key] for key in _FIELDS}
    for key, column in needed.items():
        if column not in loaded:
            raise ValueError(
                f"load_col: inter {loaded} leaves out the {key} [{column}]. "
                f"Give load_col: {{inter: [{', '.join(dict.fromkeys([*loaded, *needed.values()]))}]}}"
            )
        if column in left_out:
            raise ValueError(f"unload_col: inter leaves out the {key} [{column}].")


def _check_value_filters(config: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Raise ValueError for a filter of a column that is not there, or that does not fit its type."""
    loaded = loaded_columns(config, list(types))
    load_col = config["load_col"]
    others = load_col is None or set(load_col) - {"inter"}  # users' and items' own columns
    for field, kept in (config["val_interval"] or {}).items():
        if field not in loaded and not others:
            raise ValueError(f"val_interval: [{field}] is none of the loaded columns, {loaded}.")
        if field not in loaded:
            continue
        if types[field] == "float" and not are_intervals(kept):
            raise ValueError(
                f"val_interval: [{field}] holds numbers, and {kept} is no interval as '[5,inf)' is."
            )
        if types[field] == "token" and isinstance(kept, str):
            raise ValueError(
                f"val_interval: [{field}] holds tokens. Give a list of those to keep, not [{kept}]."
            )
