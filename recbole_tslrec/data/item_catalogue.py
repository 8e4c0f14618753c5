"""The item catalogue: what is known of the items in words, from RecBole's ``.item`` file.

The file is read beside RecBole's data set, item by token. RecBole's own item features would have to be
asked for with ``load_col``, and then drop the interactions of items that have no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_tslrec.config.values import did_you_mean
from recbole_tslrec.data.check_header import decoding, encoding_of, path_of, read_header
from recbole_tslrec.data.check_interactions import check_characters
from recbole_tslrec.store.files import fingerprint

ERROR = "error"  # the value of ``missing`` that refuses items without a text
_BETWEEN_COLUMNS = ", "


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A text for every item.

    Attributes:
        texts: by the item's token; a token is never part of a text unless a column holds it.
        substituted: the tokens of items without a text of their own, which have ``item_text_missing``.
    """

    texts: Mapping[str, str]
    substituted: frozenset[str] = frozenset()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the texts by token: the same whatever RecBole's internal ids."""
        return fingerprint(sorted(self.texts.items()))

    def of(self, tokens: Iterable[str]) -> dict[str, str]:
        """The texts of some items by token, in the order in which they are given."""
        return {token: self.texts[token] for token in tokens}

    def rows(self, tokens: Sequence[str]) -> list[str]:
        """The texts by internal id; padding, which is row 0, has an empty one.

        Args:
            tokens: of the items in the order of internal ids, without padding.

        Returns:
            [n_items] texts.
        """
        return ["", *(self.texts[token] for token in tokens)]


def check_item_text(config: Mapping[str, Any], reader: str) -> None:
    """Raise ValueError if no column of texts is chosen.

    Args:
        reader: the key and its value that ask for texts, as an error has them.
    """
    if config["item_text"] is None:
        raise ValueError(
            f"{reader} reads the items' texts, and item_text names no column of the .item file. Set "
            f"item_text=title, for one."
        )


def catalogue_of(config, tokens: Iterable[str]) -> Catalogue:
    """The texts that an experiment's settings name; errors as in ``read_catalogue``.

    Args:
        config: RecBole's config with our keys.
        tokens: of the items, padding left out.
    """
    columns, missing = config["item_text"], config["item_text_missing"]
    return read_catalogue(config.final_config_dict, tokens, columns, missing)


def read_catalogue(
    config: Mapping[str, Any],
    tokens: Iterable[str],
    columns: str | Sequence[str] | None,
    missing: str = ERROR,
) -> Catalogue:
    """Read the texts of a data set's items.

    An item's text is its values in the columns, without those that are empty, joined with ``", "``. In a
    ``token_seq`` column the words stand as they are in the file, with a space between them.

    Args:
        config: RecBole's ``final_config_dict``, for the place and the form of its files.
        tokens: of the items, padding left out; other rows of the file are not read.
        columns: the names of one or more columns, in the order of their words.
        missing: the text of items that have none; ``ERROR``: they are refused.

    Raises:
        FileNotFoundError: there is no ``.item`` file.
        ValueError: a column is not there or cannot be text, the file cannot be read or holds a NUL or a
            lone carriage return, an item has two rows, or items have no text.
    """
    path, types = _file_and_columns(config, columns)
    wanted = dict.fromkeys(tokens)
    table = _read(config, path, list(types), wanted)
    separators = {
        name: config["seq_separator"] for name, kind in types.items() if kind == "token_seq"
    }
    rows = zip(*(table[name] for name in types), strict=True)
    found = {
        item: joined(values, list(types), separators)
        for item, values in zip(table[config["ITEM_ID_FIELD"]], rows, strict=True)
    }
    unread = _taken_for_missing(config, path, list(types), table)
    without = [item for item in wanted if not found.get(item)]
    if without:
        why = _told([(item, words) for item, words in unread if not found[item]])
        text = _substitute(missing, without, found, wanted, types, path, why)
        found |= dict.fromkeys(without, text)
    if unread:
        getLogger(__name__).warning(
            f"item_text: [{path}]: {_told(unread)}Write them otherwise if they are texts."
        )
    return Catalogue({item: found[item] for item in wanted}, frozenset(without))


def check_item_columns(config: Mapping[str, Any]) -> None:
    """Raise for a column that ``item_text`` names and that is not there, whether it is read or not.

    Reads the first line of the .item file alone. A data set that is not there is RecBole's to report.

    Raises:
        FileNotFoundError, ValueError: as ``read_catalogue``.
    """
    if config.get("item_text") is not None and path_of(config).is_file():
        _file_and_columns(config, config["item_text"])


def _file_and_columns(
    config: Mapping[str, Any], columns: str | Sequence[str] | None
) -> tuple[Path, dict[str, str]]:
    """The .item file, and the types of the chosen columns by name, once all of them can be text."""
    path = path_of(config).with_suffix(".item")
    if not path.is_file():
        raise FileNotFoundError(
            f"item_text: there is no file [{path}] with the items' texts. It has columns such as "
            f"{config['ITEM_ID_FIELD']}:token and title:token_seq, a line an item; import with "
            f"--item_text=<file> writes it."
        )
    types = dict(column.split(":") for column in read_header(config, path))
    item = config["ITEM_ID_FIELD"]
    if item not in types:
        raise ValueError(f"ITEM_ID_FIELD: [{item}] is not a column of [{path}]: {list(types)}.")
    # An item's number tells where it first appeared, held-out interactions included.
    usable = [name for name, kind in types.items() if name != item and kind != "float_seq"]
    chosen = [columns] if isinstance(columns, str) else list(columns or ())
    if not chosen:
        raise ValueError(f"item_text: no column is chosen. Give one or more of {usable}.")
    for name in chosen:
        if name not in usable:
            reason = "cannot be an item's text" if name in types else "is not there"
            raise ValueError(
                f"item_text: the column [{name}] {reason}. Give one or more of [{path}]: {usable}."
                f"{did_you_mean(name, usable)}"
            )
    return path, {name: types[name] for name in chosen}


def _read(
    config: Mapping[str, Any], path: Path, columns: list[str], wanted: Mapping[str, None]
) -> pd.DataFrame:
    """The rows of the wanted items, as RecBole reads them; empty texts for missing values."""
    item = config["ITEM_ID_FIELD"]
    try:
        with decoding(path, encoding_of(config)):
            check_characters(path, config)
            table = _table(config, path)
    except pd.errors.ParserError as error:
        raise ValueError(f"item_text: [{path}] cannot be read: {str(error).strip()}") from error
    if len(table) and not isinstance(table.index, pd.RangeIndex):  # pandas: columns without a name
        raise ValueError(
            f"item_text: rows of [{path}] have more columns than line 1 names. Name all of them, or "
            f"take what is too much out."
        )
    table = table.fillna("")
    # A mark in any column may hide the rows that follow.
    complete = wanted.keys() <= set(table[item])
    for column in (item, *columns) if complete else table:
        broken = table[column].str.contains("\n", regex=False)
        if broken.any():
            beginning = table[column][broken.idxmax()][:60]
            raise ValueError(
                f"item_text: in [{path}] the {column} [{beginning!r} …] goes over several lines, since "
                f'a quotation mark (") opens it. Take the mark out, or the line breaks.'
            )
    table = table[[item, *columns]][table[item].isin(wanted.keys())]
    twice = table[item][table[item].duplicated()]
    if len(twice):
        raise ValueError(
            f"item_text: [{path}] has several rows for {twice.nunique()} items, among them "
            f"{_named(twice.unique())}. Leave one each."
        )
    return table


def _table(config: Mapping[str, Any], path: Path, **how: Any) -> pd.DataFrame:
    """All columns by name, as text; as RecBole takes the file apart."""
    separator = config["field_separator"]
    table = pd.read_csv(
        path,
        sep=separator,
        encoding=encoding_of(config),
        dtype=str,
        engine="c" if len(separator.encode()) == 1 else "python",
        **how,
    )
    return table.rename(columns=lambda column: column.split(":")[0])


def _taken_for_missing(
    config: Mapping[str, Any], path: Path, columns: list[str], table: pd.DataFrame
) -> list[tuple[str, str]]:
    """The item and the words of each cell that is empty in the table and is not so in the file.

    Args:
        table: the rows of the wanted items.
    """
    if not (table[columns] == "").any(axis=None):
        return []
    written = _table(config, path, keep_default_na=False).fillna("").loc[table.index]
    return [
        (item, words)
        for column in columns
        for item, read, words in zip(
            table[config["ITEM_ID_FIELD"]], table[column], written[column], strict=True
        )
        if not read and words.strip()
    ]


def joined(values: Iterable[str], columns: list[str], separators: Mapping[str, str]) -> str:
    """One item's text.

    Args:
        values: by column, as they are in the file.
        columns: their names.
        separators: of the words, by column; none of a column that is one text.
    """
    texts = []
    for name, value in zip(columns, values, strict=True):
        parts = value.split(separators[name]) if name in separators else [value]
        texts.append(" ".join(" ".join(parts).split()))
    return _BETWEEN_COLUMNS.join(text for text in texts if text)


def _substitute(
    missing: str,
    without: list[str],
    found: Mapping[str, str],
    wanted: Mapping[str, None],
    columns: Iterable[str],
    path: Path,
    why: str,
) -> str:
    """The text of items that have none, said in the log; ValueError if there is to be none."""
    no_row = sum(item not in found for item in without)
    what = (
        f"[{path}] has no text in {list(columns)} for {len(without)} of {len(wanted)} items, among them "
        f"{_named(without)} ({no_row} of them have no row)"
    )
    if missing == ERROR:
        raise ValueError(
            f"item_text: {what}. {why}Add their texts or, to have one text for all of these items, give "
            f"it as item_text_missing, for one: unknown."
        )
    getLogger(__name__).warning(f"item_text: {what}. Their text is [{missing}].")
    return missing


def _told(unread: Sequence[tuple[str, str]]) -> str:
    """What ``_taken_for_missing`` has found, as a sentence; nothing of nothing."""
    if not unread:
        return ""
    item, words = unread[0]
    return (
        f"{len(unread)} cells hold what pandas takes for missing (NA, nan, None, null and the like), "
        f"such as [{words}] of item {item!r}, and count as empty. "
    )


def _named(items: Sequence[str]) -> str:
    return ", ".join(repr(str(item)) for item in items[:5])
