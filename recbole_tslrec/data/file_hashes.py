"""Hashes of a data set's files, for the ids of what is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recbole_tslrec.data.check_header import path_of
from recbole_tslrec.store.files import file_hash, fingerprint

if TYPE_CHECKING:
    from recbole.config import Config


def data_hashes(config: Config) -> dict[str, str]:
    """The hash of each file that RecBole loads, by its ending; the interactions come first.

    Raises:
        FileNotFoundError: there is no file of interactions.
    """
    path = path_of(config)
    if not path.is_file():
        raise FileNotFoundError(
            f"dataset: there is no [{path}]. Put the data set [{config['dataset']}] there, give "
            f"data_path, or make it with: python -m recbole_tslrec import"
        )
    loaded = config["load_col"]
    return {
        kind: file_hash(path.with_suffix(f".{kind}"))
        for kind in ("inter", "item", "user")
        if kind == "inter"
        or ((loaded is None or kind in loaded) and path.with_suffix(f".{kind}").is_file())
    }


def data_hash(hashes: Mapping[str, str]) -> str:
    """Of all files of ``data_hashes``; of the interactions alone it is theirs."""
    return fingerprint(dict(hashes)) if len(hashes) > 1 else hashes["inter"]


def check_unchanged(config: Config, files: Mapping[str, str], texts: str) -> None:
    """Raise ValueError if a file is not the one that was hashed.

    Args:
        files: as from ``data_hashes``.
        texts: as from ``texts_hash``; "": they are not read.

    Raises:
        FileNotFoundError: the file of interactions is gone.
    """
    hashed, now = dict(files), data_hashes(config)
    if texts:
        hashed["item"], now["item"] = texts, texts_hash(config)
    for kind in {**hashed, **now}:
        if hashed.get(kind) != now.get(kind):
            raise ValueError(
                f"dataset: [{path_of(config).with_suffix(f'.{kind}')}] has changed since this "
                f"comparison began, and a result would be kept as if it were of the file before. Start "
                f"the comparison again."
            )


def texts_hash(config: Config) -> str:
    """Of the items' file; "" if there is none."""
    path = path_of(config).with_suffix(".item")
    return file_hash(path) if path.is_file() else ""
