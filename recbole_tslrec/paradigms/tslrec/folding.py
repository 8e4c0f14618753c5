"""Folding: a trained ``TSLRec_X``, ``CI_X`` or ``Norm_X`` becomes a plain RecBole ``X``.

After training the fused table is a constant: the plain model with that table gives the same scores,
at the plain model's speed and size, and the file names no class of ours.
"""

from __future__ import annotations

import copy
import os
from logging import getLogger

import torch
from recbole.config import Config
from recbole.data import data_preparation
from torch.nn.utils import parametrize

from recbole_tslrec.config.key import KEYS
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.recbole_bridge.trained_model import known_model, read_data
from recbole_tslrec.stages.trained_on import MORE, check_numbering
from recbole_tslrec.store.checkpoints import load_checkpoint, saying_which, write_checkpoint
from recbole_tslrec.store.files import check_output


def fold(model: FusedItemTable) -> FusedItemTable:
    """Replace the fusion by its result, in place: the item table is a plain parameter afterwards."""
    model.item_table.eval()  # as it scores: in training cold items have no rows
    parametrize.remove_parametrizations(model.item_table, "weight", leave_parametrized=True)
    return model


def fold_checkpoint(
    checkpoint: str | os.PathLike,
    folded: str | os.PathLike,
    data_path: str | os.PathLike | None = None,
) -> None:
    """Write a plain backbone's checkpoint from a trained fused model's.

    The result has what RecBole's ``load_data_and_model`` reads. Training cannot be resumed from it:
    the optimiser's state belonged to the fusion.

    Args:
        checkpoint: RecBole's file of a ``TSLRec_*``, ``CI_*`` or ``Norm_*`` model; its data set must
            be there.
        folded: where to write; another file.
        data_path: as ``read_data`` takes it.

    Raises:
        FileNotFoundError: the data set, or the folder to write into, is not there.
        ValueError: the checkpoint is of a model without a fused item table, or whose scores get a term
            besides, or the data set's items are in another order now.
    """
    check_output(folded, [checkpoint])
    content = load_checkpoint(checkpoint)
    config = content["config"]
    model_class = known_model(config["model"], checkpoint)
    config["device"] = torch.device("cpu")  # wherever it was trained
    with saying_which(checkpoint):
        dataset = read_data(config, checkpoint, data_path)
        check_numbering(config["trained_on"], dataset, checkpoint)
        train_data, *_ = data_preparation(config, dataset)
        model = model_class(config, train_data._dataset)
        if not isinstance(model, FusedItemTable):
            raise ValueError(
                f"[{checkpoint}] is of the model [{config['model']}], which has no fused item table."
            )
        model.load_state_dict(content["state_dict"])
    backbone = model.backbone.name
    if (term := getattr(model, "scoring_term", None)) is not None and term.in_use:
        raise ValueError(
            f"[{checkpoint}] adds a term to its scores (score_term: [{config['score_term']}]), for "
            f"which a plain [{backbone}] has no place. Fold a model with score_term: none."
        )
    weights = fold(model).state_dict()
    state = {
        "config": _plain(config, backbone),
        # A term that is not in use changes no score.
        "state_dict": {
            name: weight for name, weight in weights.items() if not name.startswith("scoring_term.")
        },
        "other_parameter": content.get("other_parameter"),
    }
    write_checkpoint(state, folded)
    getLogger(__name__).info(f"[{checkpoint}] folded into a plain [{backbone}]: [{folded}]")


def _plain(config: Config, backbone: str) -> Config:
    """The config of the plain backbone: without our keys."""
    plain = copy.copy(config)
    plain.model = backbone
    plain.final_config_dict = {
        key: value
        for key, value in config.final_config_dict.items()
        if key not in (*KEYS, "enhanced_width", "enhanced_width_of", "enhanced_texts")
    } | {"model": backbone}
    if config["trained_on"] is not None:
        # What the enhanced embeddings were made from it does not say: no stage may take the folded
        # model for a backbone of these training interactions.
        plain.final_config_dict["trained_on"] = config["trained_on"] | {
            MORE: "it is folded, and holds enhanced embeddings"
        }
    return plain
