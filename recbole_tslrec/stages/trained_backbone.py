"""The backbone stage's model itself, for those who need more of it than e_v: a retriever, a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.evaluation.candidates import scores
from recbole_tslrec.stages.backbone import USERS, BackboneStage
from recbole_tslrec.stages.trained_on import check_features, check_users, has_user_rows, numbering
from recbole_tslrec.store.checkpoints import load_checkpoint, saying_which
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.store import remedy

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_tslrec.stages.pipeline import Pipeline

_ROWS_COMPARED = 8  # to see whether two models are the same
# Of the largest score. On a GPU two copies of one model differ by 3e-7 of it: sums change their order;
# under cuDNN's TF32 (GRUs, convolutions) by 6e-5.
_ALIKE = 1e-4


def trained_backbone(pipeline: Pipeline) -> SequentialRecommender:
    """The trained backbone, frozen, in evaluation mode, its rows by this experiment's internal ids.

    Raises:
        ValueError: a given ``backbone_checkpoint`` reads histories of another length, or does not say
            to which users its vectors of users belong; or the lines of the data's file are in another
            order than when the model was trained, and it has more than its item table by item or user;
            or so are the values of features.
    """
    stage = pipeline.stage(BackboneStage)
    stored = stage.stored
    path = _given(pipeline) or stored.folder / f"{pipeline.backbone.name}.pth"
    checkpoint = load_checkpoint(path)
    config = checkpoint["config"]
    theirs, ours = (each["MAX_ITEM_LIST_LENGTH"] for each in (config, pipeline.config))
    if theirs != ours:
        raise ValueError(
            f"backbone_checkpoint: [{path}] reads histories of at most [{theirs}] items, and here they "
            f"have [{ours}]. Set MAX_ITEM_LIST_LENGTH: {theirs}, or train it with {ours}."
        )
    check_features(config["trained_on"], pipeline.dataset, path)
    config["device"] = pipeline.config["device"]  # wherever it was trained
    state = checkpoint["state_dict"]
    if not _in_same_order(config, stored.notes, pipeline):
        state = _in_this_order(state, stage, path)
    with saying_which(path):
        model = pipeline.backbone.model_class(config, pipeline.dataset)
        if _given(pipeline) is not None:
            _check_given_users(config["trained_on"], model, pipeline.dataset, path)
        model.load_state_dict(state)
        model.load_other_parameter(checkpoint.get("other_parameter"))
    return model.to(config["device"]).eval().requires_grad_(False)


def take_trained_backbone(
    pipeline: Pipeline, into: SequentialRecommender, renamed: Mapping[str, str] | None = None
) -> None:
    """Load the trained backbone's weights into a model that is to score as it does.

    Args:
        into: a model of the same backbone; weights that the backbone does not have keep their values.
            It is left in evaluation mode.
        renamed: its names of weights by the backbone's, where they differ.

    Raises:
        ValueError: as in ``trained_backbone``; or a given ``backbone_checkpoint`` has settings of its
            model other than this experiment's, so that its weights do not fit or score otherwise.
    """
    trained = trained_backbone(pipeline)
    renamed = renamed or {}
    state = {renamed.get(name, name): weight for name, weight in trained.state_dict().items()}
    own = into.state_dict()
    same = all(name in own and own[name].shape == weight.shape for name, weight in state.items())
    if same:
        into.load_state_dict(own | state)
        rows = pipeline.dataset.inter_feat[:_ROWS_COMPARED].to(pipeline.config["device"])
        into.eval()
        with torch.no_grad():
            same = _alike(scores(trained, rows), scores(into, rows))
    if not same:
        raise ValueError(
            f"backbone_checkpoint: it is a {pipeline.backbone.name} of other settings than this "
            f"experiment's. Give the settings it was trained with."
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two models' scores of the same rows differ by no more than rounding."""
    largest = one.nan_to_num(posinf=0.0, neginf=0.0).abs().max().item()
    return torch.allclose(one, other, rtol=0.0, atol=_ALIKE * largest)


def given_model(pipeline: Pipeline) -> dict[str, Any] | None:
    """What makes a given ``backbone_checkpoint`` the same model, as json; None if none is given.

    The fingerprint of the backbone's stage holds no more of it than e_v.
    """
    path = _given(pipeline)
    if path is None:
        return None
    checkpoint = load_checkpoint(path)
    weights = {name: tensor.clone() for name, tensor in checkpoint["state_dict"].items()}
    return {
        "weights": hashlib.sha256(save(weights)).hexdigest(),
        "settings": training_settings(checkpoint["config"].final_config_dict),
    }


def _given(pipeline: Pipeline) -> Path | None:
    path = pipeline.config["backbone_checkpoint"]
    return None if path is None else Path(path)


def _in_same_order(config, notes: dict[str, Any], pipeline: Pipeline) -> bool:
    """Whether internal ids are now what they were in training; of a given model's items alone."""
    dataset = pipeline.dataset
    trained_on = config["trained_on"] or {}
    users = fingerprint(dataset.field2id_token[dataset.uid_field].tolist())
    same_users = _given(pipeline) is not None or notes.get(USERS) == users
    return same_users and trained_on.get("items") == numbering(dataset)


def _check_given_users(noted: Mapping[str, str], model: nn.Module, dataset, path: Path) -> None:
    """Raise ValueError if a given model's vectors of users are other users', or may be."""
    if "users" not in noted and has_user_rows(model, dataset):
        raise ValueError(
            f"backbone_checkpoint: [{path}] has a vector a user and does not say of which users, as a "
            f"file of an earlier version. Leave backbone_checkpoint out, or train it again."
        )
    check_users(noted, dataset, model, path)


def _in_this_order(state: dict[str, Tensor], stage: BackboneStage, path: Path) -> dict[str, Tensor]:
    """A state dict with the item table's rows by this experiment's internal ids."""
    dataset = stage.pipeline.dataset
    table = f"{stage.pipeline.backbone.item_table}.weight"
    for name, tensor in state.items():
        if name != table and tensor.dim() and len(tensor) in (dataset.item_num, dataset.user_num):
            raise ValueError(
                f"[{path}] was trained with the users or items in another order, and [{name}] may have "
                f"a row for each: it would be another's. Give the data's file with its lines in the "
                f"order of then. {remedy(path.parent)}"
            )
    rows = state[table].clone()
    rows[1 : dataset.item_num] = stage.item_embeddings()
    return {**state, table: rows}
