"""What the items are called, from RecBole's ``.item`` file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

from recbole_tslrec.data.check_header import path_of, read_header
from recbole_tslrec.data.item_catalogue import read_catalogue

# Words in the name of a column that holds titles, the surest first.
_TITLE_WORDS = ("title", "name", "text")


def read_titles(
    config: Mapping[str, Any], tokens: Sequence[str], columns: str | Sequence[str] | None = None
) -> dict[str, str] | None:
    """The items' titles by token; None if there are none. An item without one has an empty title.

    A file that cannot be read is an error only if columns are given: else it is warned of, and there are
    no titles.

    Args:
        config: RecBole's ``final_config_dict``.
        tokens: of the items, padding left out.
        columns: the columns of the titles; None: the first column of words, but the ids', whose name
            says that it holds titles, names or texts.

    Raises:
        FileNotFoundError: columns are given, and there is no ``.item`` file.
        ValueError: columns are given, and one is not there or the file cannot be read.
    """
    try:
        found = columns or _column_of_titles(config)
        return dict(read_catalogue(config, tokens, found, missing="").texts) if found else None
    except (OSError, ValueError) as error:
        told = f"titles: {str(error).removeprefix('item_text: ')}"
        if columns:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(told) from None
        getLogger(__name__).warning(f"{told} Items are shown without titles.")
        return None


def _column_of_titles(config: Mapping[str, Any]) -> str | None:
    path = path_of(config).with_suffix(".item")
    if not path.is_file():
        return None
    types = (column.split(":") for column in read_header(config, path))
    words, ids = ("token", "token_seq"), config["ITEM_ID_FIELD"]
    names = [name for name, kind in types if kind in words and name != ids]
    found = (name for word in _TITLE_WORDS for name in names if word in name.lower())
    return next(found, None)
