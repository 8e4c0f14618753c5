"""What the items are called, from RecBole's ``.item`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_tslrec.data.check_header import path_of, read_header
from recbole_tslrec.data.item_catalogue import read_catalogue

# Words in the name of a column that holds titles, the surest first.
_TITLE_WORDS = ("title", "name", "text")


def read_titles(
    config: Mapping[str, Any], tokens: Sequence[str], columns: str | Sequence[str] | None = None
) -> dict[str, str] | None:
    """The items' titles by token; None if there are none. An item without one has an empty title.

    Args:
        config: RecBole's ``final_config_dict``.
        tokens: of the items, padding left out.
        columns: the columns of the titles; None: the first column of words whose name says that it
            holds titles, names or texts.

    Raises:
        FileNotFoundError: columns are given, and there is no ``.item`` file.
        ValueError: a column is not there, or the file cannot be read.
    """
    if not columns:
        columns = _column_of_titles(config)
        if columns is None:
            return None
    return dict(read_catalogue(config, tokens, columns, missing="").texts)


def _column_of_titles(config: Mapping[str, Any]) -> str | None:
    path = path_of(config).with_suffix(".item")
    if not path.is_file():
        return None
    types = (column.split(":") for column in read_header(config, path))
    names = [name for name, kind in types if kind in ("token", "token_seq")]
    found = (name for word in _TITLE_WORDS for name in names if word in name.lower())
    return next(found, None)
