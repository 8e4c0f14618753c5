"""The table of backbones: recommenders of RecBole or ours with one item table. A new one is a line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recbole_tslrec.backbones.class_code import class_code

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
            and positions count from the left; then padding on the right can be cut off and, if it is
            ``by_product`` as well, one pass over a history gives every prediction.
        whole_sequences: whether one pass over a history trains it as its authors do although the
            predictions are not the prefixes': no later item is seen, but positions count from the
            end of the whole. It must be ``by_product`` as well.
        trimmed: the dotted name of what makes a context manager of a model, within which its
            ``forward`` gives the same, up to rounding, without its padding; None if there is none.
        ignores_padding: whether padding on the right can be cut off and every score stays, though one
            pass does not give every prediction. Causal backbones do so anyhow.
        by_product: whether an item's score is the product of what one call of ``forward`` gives with
            the item's row, plus its bias; and the loss sees states in no other way. Then another loss
            may stand for CE.
        rows_beyond: how many rows the table has behind the items', as for a mask token.
        item_bias: the attribute with a bias for each item's score, [n_items]; None for none.
        needs: RecBole's keys with the values without which no variant of it can be trained, or its table
            is not that of its scores. ``loss_type`` is asked of the plain model as well.
        own_losses: values of ``loss_type``, besides CE and BPR, that the plain model takes.
        scores_single_items: whether its ``predict`` gives what ``full_sort_predict`` does.
    """

    name: str
    module: str
    item_table: str = "item_embedding"
    causal: bool = False
    whole_sequences: bool = False
    trimmed: str | None = None
    ignores_padding: bool = False
    by_product: bool = False
    rows_beyond: int = 0
    item_bias: str | None = None
    needs: Mapping[str, Any] = field(default_factory=dict)
    own_losses: tuple[str, ...] = ()
    scores_single_items: bool = True

    @property
    def model_class(self) -> type[SequentialRecommender]:
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def code(self) -> list[str] | None:
        """Hashes of a user's own class; None for those of the table below, which have a version.

        Neither RecBole's classes nor torch's count, nor ours.
        """
        if self.name in _OF_THE_TABLE:
            return None
        return class_code(self.model_class, but=("recbole", "recbole_tslrec", "torch"))

    @property
    def batchings(self) -> tuple[str, ...]:
        """The values of ``train_batching`` that it takes, the quickest first."""
        # The loss of whole sequences is the softmax of products, whatever the model's own is.
        one_pass = self.by_product and (self.causal or self.whole_sequences)
        quickest = ("sequence",) * one_pass
        quickest += ("trimmed",) * (self.trimmed is not None)
        return (*quickest, "prefix")

    @property
    def cuts_padding(self) -> bool:
        """Whether a batch's item lists can be cut to its longest history."""
        return self.causal or self.ignores_padding

    def item_embeddings(self, checkpoint: dict[str, Any]) -> Tensor:
        """e_v: the item table in a checkpoint of the model, [n_items - 1, d] float32."""
        table = checkpoint["state_dict"][f"{self.item_table}.weight"]
        # Row 0 is padding, and not zero.
        return table[1 : len(table) - self.rows_beyond].float()


_RECBOLE = "recbole.model.sequential_recommender"
_OURS = "recbole_tslrec.backbones"

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("GRU4Rec", f"{_RECBOLE}.gru4rec", by_product=True, causal=True),
        Backbone(
            "Caser",
            f"{_RECBOLE}.caser",
            by_product=True,
            trimmed="recbole_tslrec.backbones.caser.without_padding",
        ),
        Backbone("SASRec", f"{_RECBOLE}.sasrec", by_product=True, causal=True),
        Backbone("SASRecPreNorm", f"{_OURS}.sasrecprenorm", by_product=True, causal=True),
        Backbone(
            "SASRecPreNormLatest",
            f"{_OURS}.sasrecprenorm",
            by_product=True,
            ignores_padding=True,
            whole_sequences=True,
        ),
        Backbone("FMLPRec", f"{_OURS}.fmlprec", by_product=True),
        Backbone("BSARec", f"{_OURS}.bsarec", by_product=True),
        Backbone("LRURec", f"{_OURS}.lrurec", by_product=True, causal=True, item_bias="item_bias"),
        Backbone("GRU4RecF", f"{_RECBOLE}.gru4recf", by_product=True, causal=True),
        Backbone("SASRecF", f"{_RECBOLE}.sasrecf", by_product=True, causal=True),
        Backbone("FDSA", f"{_RECBOLE}.fdsa", by_product=True, causal=True),
        Backbone("BERT4Rec", f"{_RECBOLE}.bert4rec", rows_beyond=1, item_bias="output_bias"),
        Backbone(
            "S3Rec",
            f"{_RECBOLE}.s3rec",
            ignores_padding=True,
            rows_beyond=1,
            needs={"train_stage": "finetune"},
        ),
        Backbone("CORE", f"{_RECBOLE}.core", ignores_padding=True),
        Backbone("LightSANs", f"{_RECBOLE}.lightsans", by_product=True),
        Backbone("NARM", f"{_RECBOLE}.narm", by_product=True, ignores_padding=True),
        Backbone("STAMP", f"{_RECBOLE}.stamp", by_product=True),
        Backbone("SRGNN", f"{_RECBOLE}.srgnn", by_product=True, ignores_padding=True),
        Backbone("GCSAN", f"{_RECBOLE}.gcsan", by_product=True, ignores_padding=True),
        Backbone("NextItNet", f"{_RECBOLE}.nextitnet", by_product=True),
        Backbone("SINE", f"{_RECBOLE}.sine", by_product=True, own_losses=("NLL",)),
        Backbone("FOSSIL", f"{_RECBOLE}.fossil"),
        Backbone("HRM", f"{_RECBOLE}.hrm", by_product=True),
        Backbone("SHAN", f"{_RECBOLE}.shan", by_product=True),
        Backbone("NPE", f"{_RECBOLE}.npe"),
        Backbone("FEARec", f"{_RECBOLE}.fearec"),
        Backbone("TransRec", f"{_RECBOLE}.transrec", ignores_padding=True),
        Backbone(
            "SASRecCPR",
            f"{_RECBOLE}.sasreccpr",
            needs={"loss_type": "CE"},
            scores_single_items=False,
        ),
        Backbone(
            "GRU4RecCPR",
            f"{_RECBOLE}.gru4reccpr",
            needs={"loss_type": "CE", "use_out_emb": False},
            scores_single_items=False,
        ),
    )
}
_OF_THE_TABLE = frozenset(BACKBONES)  # a user's own come later


# RecBole's sequential models that are none, and why: what is refused says so.
NO_BACKBONES: dict[str, str] = {
    "DIEN": "judges one item at a time from the features of user and item, and has no item table",
    "DIN": "judges one item at a time from the features of user and item, and has no item table",
    "FPMC": "has three item tables, two of them for scores",
    "GRU4RecKG": "reads embeddings of a knowledge graph, which the data sets here do not have",
    "HGN": "has two item tables, one to read histories and one for scores",
    "KSR": "reads embeddings of a knowledge graph, which the data sets here do not have",
    "RepeatNet": "scores items by a layer with a row for each, and not by its item table",
}


def backbone_of(model: SequentialRecommender) -> Backbone | None:
    """The backbone that a model is, or is a variant of; None for one that is neither (E4SRec)."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):  # a user's model may have a layer of that name
        backbone = BACKBONES.get(type(model).__name__)
    return backbone if backbone and isinstance(model, backbone.model_class) else None


def without_padding(model: SequentialRecommender) -> AbstractContextManager[None]:
    """Within, a model that can leave padding out of its ``forward`` does; others stay as they are."""
    backbone = backbone_of(model)
    if backbone is None or backbone.trimmed is None:
        return nullcontext()
    module, _, name = backbone.trimmed.rpartition(".")
    return getattr(importlib.import_module(module), name)(model)
