"""Enhanced embeddings that a user gives in place of the stages: a file from an earlier run."""

from __future__ import annotations

import os
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_tslrec.config.key import KEYS
from recbole_tslrec.language_model.keys import ITEM_INPUTS
from recbole_tslrec.paradigms.tslrec.augmentation.stages import ENHANCED_EMBEDDING
from recbole_tslrec.store.item_tensors import ItemTensors, read_header
from recbole_tslrec.store.store import MANIFEST


def enhanced_items_width(path: Path) -> int:
    """How many columns the enhanced embeddings of a user's file have.

    Raises:
        ValueError: the file holds none.
    """
    tensors = read_header(path)["tensors"]
    if ENHANCED_EMBEDDING not in tensors:
        raise ValueError(
            f"enhanced_items: [{path}] holds {sorted(tensors)}, and no {ENHANCED_EMBEDDING}; it comes "
            f"from another stage."
        )
    shape = tensors[ENHANCED_EMBEDDING]
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(
            f"enhanced_items: [{path}] holds {ENHANCED_EMBEDDING} of the shape {shape}. Give a row of "
            f"numbers for every item."
        )
    return shape[1]


def given_enhanced_items(config, tokens: list[str], data: dict[str, str]) -> ItemTensors:
    """Enhanced embeddings from ``enhanced_items``, a file of the user's.

    Args:
        config: RecBole's config of the experiment.
        tokens: the items in the order of internal ids, without padding.
        data: the fingerprints of the ``training`` histories and the ``validation`` rows here.

    Returns:
        The file's tensors, rows in the order of ``tokens``.

    Raises:
        ValueError: the file is altered, is of another data set, lacks items, was made with other words
            than the settings say, or may have been made from what is held out here and
            ``allow_new_data`` does not say otherwise.
    """
    path = Path(config["enhanced_items"])
    items = ItemTensors.load(path)
    with suppress(OSError):  # if it is a stage's: its last use, for ``clean``
        os.utime(path.with_name(MANIFEST))
    dataset = items.provenance.get("dataset")
    if dataset != config["dataset"]:
        # The same tokens may name other items there: "1", "2", ... do in most data sets.
        raise ValueError(
            f"enhanced_items: [{path}] was made for the data set [{dataset}], and this one is "
            f"[{config['dataset']}]."
        )
    table = items.tensors.get(ENHANCED_EMBEDDING)
    if table is None or table.dim() != 2 or not table.is_floating_point():
        raise ValueError(
            f"enhanced_items: [{path}] holds no {ENHANCED_EMBEDDING} with a row of real numbers for "
            f"every item. Make it again."
        )
    _check_words(items.provenance.get("settings"), config, path)
    others = [key for key in ("training", "validation") if items.provenance.get(key) != data[key]]
    if others:
        said = (
            f"enhanced_items: [{path}] was made from other {' and '.join(others)} interactions of the "
            f"same data set (another filtering or split), or does not say from which. What is held out "
            f"here may have been among them."
        )
        if not config["allow_new_data"]:
            raise ValueError(
                f"{said} If it was not, as of vectors of words alone, set allow_new_data: True."
            )
        getLogger(__name__).warning(said)
    try:
        return items.aligned(tokens)
    except ValueError as error:
        raise ValueError(f"enhanced_items: [{path}] does not serve here: {error}") from None


def _check_words(made_with: Any, config, path: Path) -> None:
    """Raise ValueError if the items' words are in the file and not in the settings, or otherwise."""
    if not isinstance(made_with, dict):  # of an earlier version
        return
    for key in ITEM_INPUTS.names:
        theirs = made_with.get(key, KEYS[key].unchanged_at)
        if theirs != config[key]:
            raise ValueError(
                f"{key}: [{config[key]}] says how words are in the enhanced embeddings, and "
                f"enhanced_items: [{path}] was made with [{theirs}]. Set {key}: {theirs}."
            )
