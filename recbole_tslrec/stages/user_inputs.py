"""What a user gives in place of a stage: a backbone's checkpoint, a file of enhanced embeddings.

Both are numbers made elsewhere, maybe from interactions that are held out here: each must say from
which it was made.
"""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

from torch import Tensor

from recbole_tslrec.stages.trained_on import MORE, NOTED, data_notes
from recbole_tslrec.store.checkpoints import load_checkpoint, saying_which
from recbole_tslrec.store.item_tensors import check_finite

POPULARITY = "popularity"  # the distribution of negative items that RecBole calls so


def given_backbone(config, backbone, dataset, valid_data) -> Tensor:
    """e_v from ``backbone_checkpoint``, a checkpoint of the user's.

    Only one of the very same items, training histories and validation rows is taken: another split or
    filter may have put into its training, or into the choice of its epoch, what is held out here.

    Args:
        config: RecBole's config of the experiment.
        backbone: a line of the table of backbones.
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
    tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
    with saying_which(path):
        table = backbone.item_embeddings(checkpoint)
    if table.dim() != 2 or len(table) != len(tokens) or table.shape[1] < 1:
        raise ValueError(
            f"backbone_checkpoint: [{path}] has an item table of the shape {list(table.shape)} without "
            f"padding, for {len(tokens)} items. Give the checkpoint as its trainer wrote it."
        )
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
    if MORE in noted:
        raise ValueError(
            f"backbone_checkpoint: [{path}] has more in it than the data it names: {noted[MORE]}. "
            f"Give a backbone that was trained from its first epoch on this experiment's data."
        )
    if "validation" not in noted:
        getLogger(__name__).warning(
            f"backbone_checkpoint: [{path}] is of an earlier version and does not say what it was "
            f"validated on. With another split that may have been what is tested here."
        )
        noted = noted | {"validation": wanted["validation"]}
    for key in ("items", "training", "validation"):  # what is tested went into no backbone
        if noted[key] != wanted[key]:
            raise ValueError(
                f"backbone_checkpoint: [{path}] was trained on other {NOTED[key]} than this experiment "
                f"has: the data, the filtering, the split or the order of the file differ. Interactions "
                f"that are held out here may be in it. Train it under this experiment's settings."
            )
