"""What a user gives in place of a stage: a backbone's checkpoint, a file of enhanced embeddings.

Both are numbers made elsewhere, maybe from interactions that are held out here: each must say from
which it was made.
"""

from __future__ import annotations

import os
from contextlib import suppress
from logging import getLogger
from operator import itemgetter
from pathlib import Path

from torch import Tensor

from recbole_tslrec.data.histories import fingerprint as histories_fingerprint
from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.recbole_bridge.patches import load_checkpoint
from recbole_tslrec.store.item_tensors import ItemTensors, check_finite, numbering
from recbole_tslrec.store.store import MANIFEST, fingerprint

POPULARITY = "popularity"  # the distribution of negative items that RecBole calls so
_NOTED = {  # in a checkpoint's ``trained_on``, as an error calls it
    "items": "items",
    "training": "training interactions",
    "validation": "validation interactions",
}


def data_notes(dataset, valid_data) -> dict[str, str]:
    """What a model was trained on, for its checkpoint, which has no tokens.

    Args:
        dataset: RecBole's data set of the training rows.
        valid_data: RecBole's loader that chose the epoch; None for none.

    Returns:
        Hashes of the items by internal id, and of the training histories and the validation rows,
        which are the same whatever the internal ids.

    Raises:
        ValueError: the data set has no histories of users that can be put together.
    """
    users = dataset.field2id_token[dataset.uid_field]
    items = dataset.field2id_token[dataset.iid_field]
    return {
        "items": numbering(dataset),
        "training": histories_fingerprint(training_histories(dataset), users, items),
        "validation": validation_fingerprint(dataset, valid_data),
    }


def validation_fingerprint(dataset, valid_data) -> str:
    """A hash of the validation rows by token, in time order within a user.

    With a ratio split, a later row has the one before in its history, so their order counts.
    """
    rows = []
    if valid_data:
        user_field, item_field = dataset.uid_field, dataset.iid_field
        held_out = valid_data._dataset.inter_feat
        # As arrays: indexed with a tensor of one element, an array gives that token, not a row of it.
        users = dataset.field2id_token[user_field][held_out[user_field].numpy()]
        items = dataset.field2id_token[item_field][held_out[item_field].numpy()]
        # Sorting is stable: a user's rows stay in their order.
        rows = sorted(
            ([user, item] for user, item in zip(users, items, strict=True)), key=itemgetter(0)
        )
    return fingerprint(rows)


def given_backbone(config, backbone, dataset, valid_data) -> Tensor:
    """e_v from ``backbone_checkpoint``, a checkpoint of the user's.

    Only one of the very same items, training histories and validation rows is taken: another split or
    filter may have put into its training, or into the choice of its epoch, what is held out here.

    Args:
        config: RecBole's config of the experiment.
        backbone: the line of ``model.specifications.BACKBONES``.
        dataset, valid_data: as for ``data_notes``.

    Returns:
        [n_items - 1, d] float32, in the order of internal ids, without padding.

    Raises:
        ValueError: it is of another model or data, does not say of which, or holds NaN.
    """
    path = Path(config["backbone_checkpoint"])
    checkpoint = load_checkpoint(path)
    theirs = checkpoint["config"]
    for key, wanted in (("model", backbone.name), ("dataset", config["dataset"])):
        if theirs[key] != wanted:
            raise ValueError(
                f"backbone_checkpoint: [{path}] has {key} [{theirs[key]}], this experiment needs "
                f"[{wanted}]."
            )
    _check_trained_on(theirs["trained_on"], data_notes(dataset, valid_data), path)
    if draws_by_popularity(theirs):
        raise ValueError(
            f"backbone_checkpoint: [{path}] was trained or validated with negative items drawn by "
            f"popularity, for which RecBole counts the test interactions as well. Leave "
            f"backbone_checkpoint out: the backbone is then trained with counts of training alone."
        )
    table = backbone.item_embeddings(checkpoint)
    tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
    check_finite(table, f"backbone_checkpoint: [{path}]", tokens)
    return table


def draws_by_popularity(config) -> bool:
    """Whether RecBole's own training or validation under these settings looks at test interactions."""
    arguments = (config[f"{phase}_neg_sample_args"] or {} for phase in ("train", "valid"))
    return any(phase.get("distribution") == POPULARITY for phase in arguments)


def _check_trained_on(noted: dict[str, str] | None, wanted: dict[str, str], path: Path) -> None:
    if noted is None or "training" not in noted:
        raise ValueError(
            f"backbone_checkpoint: [{path}] does not say on which items and interactions it was "
            f"trained, or is folded. Give a backbone that was trained with recbole_tslrec imported."
        )
    if "validation" not in noted:
        getLogger().warning(
            f"backbone_checkpoint: [{path}] is of an earlier version and does not say what it was "
            f"validated on. With another split that may have been what is tested here."
        )
        noted = noted | {"validation": wanted["validation"]}
    for key, name in _NOTED.items():
        if noted[key] != wanted[key]:
            raise ValueError(
                f"backbone_checkpoint: [{path}] was trained on other {name} than this experiment has: "
                f"the data, the filtering, the split or the order of the file differ. Interactions "
                f"that are held out here may be in it. Train it under this experiment's settings."
            )


def given_enhanced_items(config, tokens: list[str], data: dict[str, str]) -> ItemTensors:
    """Enhanced embeddings from ``enhanced_items``, a file of the user's.

    Args:
        config: RecBole's config of the experiment.
        tokens: the items in the order of internal ids, without padding.
        data: the fingerprints of the ``training`` histories and the ``validation`` rows here.

    Returns:
        The file's tensors, rows in the order of ``tokens``.

    Raises:
        ValueError: the file is altered, is of another data set, or lacks items.
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
    others = [key for key in ("training", "validation") if items.provenance.get(key) != data[key]]
    if others:
        getLogger().warning(
            f"enhanced_items: [{path}] was made from other {' and '.join(others)} interactions of the "
            f"same data set (another filtering or split), or does not say from which. What is held out "
            f"here may have been among them."
        )
    return items.aligned(tokens)
