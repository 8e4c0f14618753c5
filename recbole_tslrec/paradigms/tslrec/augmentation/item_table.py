"""The mixins that put a fused item table into a RecBole backbone (paper §4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_tslrec.evaluation.scoring_term import TermAtScoring
from recbole_tslrec.paradigms.tslrec.augmentation.fusion import (
    FUSIONS,
    CategoryFusion,
    EnhancedFusion,
    EqualNorms,
)
from recbole_tslrec.paradigms.tslrec.augmentation.history_term import HistorySimilarity
from recbole_tslrec.paradigms.tslrec.augmentation.vectors_and_controls import vectors_of
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import CategoriesStage
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.trained_backbone import take_trained_backbone

if TYPE_CHECKING:
    from recbole_tslrec.backbones.specification import Backbone
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


class OfItems(nn.Module):
    """What is done to the items' rows; the rows behind them, a mask token's, stay as they are.

    Args:
        change: what is done to [n_items, d].
        n_items: the number of items, padding among them.
    """

    def __init__(self, change: nn.Module, n_items: int):
        super().__init__()
        self.change = change
        self.n_items = n_items

    def forward(self, table: Tensor) -> Tensor:
        return torch.cat([self.change(table[: self.n_items]), table[self.n_items :]])


class FusedItemTable:
    """Mixin: the backbone's item table is the fusion's output wherever the backbone reads it.

    torch's parametrization covers every use of ``table.weight`` (lookup, scores, Caser's
    regularisation) and leaves the table an ``nn.Embedding``.
    """

    backbone: Backbone
    normalised = False  # whether the rows have one length whatever ``item_norm`` says

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        table = self.item_table.weight
        id_embeddings = table[: len(table) - self.backbone.rows_beyond]
        changes = [self._make_fusion(config, id_embeddings)]
        if self.normalised or config["item_norm"] == "l2":
            changes.append(EqualNorms(id_embeddings))
        for change in changes:
            if self.backbone.rows_beyond:
                change = OfItems(change, len(id_embeddings))
            parametrize.register_parametrization(self.item_table, "weight", change)

    def _make_fusion(self, config, id_embeddings: Tensor) -> nn.Module:
        raise NotImplementedError

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this variant takes; they bring about those that they need."""
        raise NotImplementedError

    def prepare(self, pipeline: Pipeline) -> None:
        """Run the stages that this variant needs, and take their result."""
        raise NotImplementedError

    @property
    def item_table(self) -> nn.Embedding:
        """The backbone's item table; its ``weight`` is the fused one, [n_items, d].

        A backbone may have rows of its own behind the items' (``rows_beyond``).
        """
        return getattr(self, self.backbone.item_table)

    @property
    def fusion(self) -> nn.Module:
        fusion = self.item_table.parametrizations.weight[0]
        return fusion.change if isinstance(fusion, OfItems) else fusion

    @property
    def id_embeddings(self) -> Tensor:
        """The trained id embeddings under the fusion, [n_items, d]."""
        table = self.item_table.parametrizations.weight.original
        return table[: len(table) - self.backbone.rows_beyond]


class EnhancedItemTable(TermAtScoring, FusedItemTable):
    """id embedding fused with the language model's enhanced embedding (TSLRec, §4.2)."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        if config["score_term"] != "none":
            self.scoring_term = _term(config, self.n_items)
            self.term_in_training = config["score_term"] == "during"
        # Nothing but the ids is trained, and of them as ever: the trained backbone has them.
        self.frozen = trained_elsewhere(config)

    def _make_fusion(self, config, id_embeddings: Tensor) -> nn.Module:
        # Kept in the config, and so in the checkpoint: a trained model loads without the language
        # model or the file that it was made with. With its keys: a config may be changed and used again.
        keys = ("enhancement", "enhanced_items", "enhanced_dim", "n_categories", "llm")
        width_of = " ".join(f"{key}={config[key]}" for key in keys)
        if config["enhanced_width"] is None or config["enhanced_width_of"] not in (None, width_of):
            width = vectors_of(config).width(config, id_embeddings.shape[1])
            config["enhanced_width"] = min(width, config["enhanced_dim"])
            config["enhanced_width_of"] = width_of
        fusion = FUSIONS[config["fusion"]](
            id_embeddings, config["enhanced_width"], config["enhanced_scale"]
        )
        if isinstance(fusion, EnhancedFusion) and vectors_of(config).tells_cold_items(config):
            fusion.tell_cold_items()
        return fusion

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        own = (BackboneStage,) if trained_elsewhere(config) else ()
        return tuple(dict.fromkeys((*own, *vectors_of(config).stages)))

    def prepare(self, pipeline: Pipeline) -> None:
        if self.frozen:
            table = self.backbone.item_table
            fused = {f"{table}.weight": f"{table}.parametrizations.weight.original"}
            take_trained_backbone(pipeline, self, fused)
        kind = vectors_of(pipeline.config)
        vectors = kind.make(pipeline)
        self.fusion.start(vectors, self.id_embeddings)
        self.fusion.set_enhanced(vectors)
        if self.scoring_term is not None:
            self.scoring_term.set_vectors(kind.for_term(vectors, pipeline))
        if isinstance(self.fusion, EnhancedFusion) and self.fusion.cold is not None:
            had = np.bincount(pipeline.histories.items, minlength=len(pipeline.tokens) + 1)
            self.fusion.set_cold(torch.from_numpy(had[1:] == 0))

    @torch.no_grad()
    def mean_gate(self) -> Tensor:
        """Each item's share of the id embedding in the fused one, [n_items]; row 0 is padding.

        Raises:
            AttributeError: the fusion has no gate.
        """
        return self.fusion.mean_gate(self.id_embeddings)


def trained_elsewhere(config) -> bool:
    """Whether the model is a trained backbone, whose scores get a term afterwards."""
    return (config["fusion"], config["score_term"], config["item_norm"]) == (
        "none",
        "after",
        "none",
    )


def _term(config, n_items: int) -> HistorySimilarity:
    in_training = config["score_term"] == "during"
    term = HistorySimilarity(n_items, config["enhanced_width"], standardised=not in_training)
    if in_training:
        term.choose([config["score_weight"], config["score_decay"]])
    return term


class CategoryItemTable(FusedItemTable):
    """id embedding plus a learnable embedding of the item's latent category (CI)."""

    def _make_fusion(self, config, id_embeddings: Tensor) -> nn.Module:
        # The table would be made, of whatever size, before the stage looks.
        CategoriesStage.check(config, len(id_embeddings) - 1)
        return CategoryFusion(id_embeddings, config["n_categories"])

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        return (CategoriesStage,)

    def prepare(self, pipeline: Pipeline) -> None:
        self.fusion.set_categories(pipeline.stage(CategoriesStage).item_categories())


class NormalisedItemTable(FusedItemTable):
    """the backbone alone, with rows of one learned length (``item_norm: l2`` for the others)."""

    normalised = True

    def _make_fusion(self, config, id_embeddings: Tensor) -> nn.Module:
        return nn.Identity()

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        return ()

    def prepare(self, pipeline: Pipeline) -> None:
        """Nothing is needed."""
