"""Hashes of a data set's files, for the ids of what is made from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_tslrec.data.check_header import path_of
from recbole_tslrec.store.files import file_hash, fingerprint

if TYPE_CHECKING:
    from recbole.config import Config


def data_hash(config: Config) -> str:
    """Of the interactions, and of the users' and items' files where RecBole loads those, too."""
    path = path_of(config)
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset: there is no [{path}]. Put the data set [{config['dataset']}] there, give "
            f"data_path, or make it with: python -m recbole_tslrec import"
        )
    loaded = config["load_col"]
    others = {
        kind: file_hash(path.with_suffix(f".{kind}"))
        for kind in ("item", "user")
        if (loaded is None or kind in loaded) and path.with_suffix(f".{kind}").is_file()
    }
    interactions = file_hash(path)
    return fingerprint({"inter": interactions, **others}) if others else interactions


def texts_hash(config: Config) -> str:
    """Of the items' file; "" if there is none."""
    path = path_of(config).with_suffix(".item")
    return file_hash(path) if path.is_file() else ""
