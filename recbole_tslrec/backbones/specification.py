"""The table of backbones: recommenders of RecBole or ours with one item table. A new one is a line."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender
    from torch import Tensor


@dataclass(frozen=True)
class Backbone:
    """A sequential recommender with one item table for input and scores.

    Attributes:
        name: RecBole's name of the model, and of its yaml.
        module: where its class is.
        item_table: the attribute that holds the table, an ``nn.Embedding`` [n_items, d].
        causal: whether the output at a position depends on that position and earlier ones alone,
            and positions count from the left; then one pass over a history gives every prediction,
            and padding on the right can be cut off.
        trimmed: the dotted name of what makes a context manager of a model, within which its
            ``forward`` gives the same, up to rounding, without its padding; None if there is none.
    """

    name: str
    module: str
    item_table: str = "item_embedding"
    causal: bool = False
    trimmed: str | None = None

    @property
    def model_class(self) -> type[SequentialRecommender]:
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def batchings(self) -> tuple[str, ...]:
        """The values of ``train_batching`` that it takes, the quickest first."""
        quickest = ("sequence",) * self.causal + ("trimmed",) * (self.trimmed is not None)
        return (*quickest, "prefix")

    def item_embeddings(self, checkpoint: dict[str, Any]) -> Tensor:
        """e_v: the item table in a checkpoint of the model, [n_items - 1, d] float32."""
        table = checkpoint["state_dict"][f"{self.item_table}.weight"]
        return table[1:].float()  # row 0 is padding, and not zero


_RECBOLE = "recbole.model.sequential_recommender"

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("GRU4Rec", f"{_RECBOLE}.gru4rec", causal=True),
        Backbone(
            "Caser",
            f"{_RECBOLE}.caser",
            trimmed="recbole_tslrec.backbones.caser.without_padding",
        ),
        Backbone("SASRec", f"{_RECBOLE}.sasrec", causal=True),
        Backbone("FMLPRec", "recbole_tslrec.backbones.fmlprec"),
    )
}


def backbone_of(model: SequentialRecommender) -> Backbone | None:
    """The backbone that a model is, or is a variant of; None for one that is neither (E4SRec)."""
    backbone = getattr(model, "backbone", None) or BACKBONES.get(type(model).__name__)
    return backbone if backbone and isinstance(model, backbone.model_class) else None


def without_padding(model: SequentialRecommender) -> AbstractContextManager[None]:
    """Within, a model that can leave padding out of its ``forward`` does; others stay as they are."""
    backbone = backbone_of(model)
    if backbone is None or backbone.trimmed is None:
        return nullcontext()
    module, _, name = backbone.trimmed.rpartition(".")
    return getattr(importlib.import_module(module), name)(model)
