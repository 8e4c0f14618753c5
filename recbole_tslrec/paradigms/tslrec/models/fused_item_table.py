"""The mixin that puts a fused item table into a RecBole backbone (paper §4.2)."""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from recbole_tslrec.config.key import KEYS
from recbole_tslrec.paradigms.tslrec.augmentation.keys import FUSION, GIVEN_VECTORS, SCORE_TERM

if TYPE_CHECKING:
    from recbole_tslrec.backbones.registry import Backbone
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


_OF_VECTORS = (*FUSION.names, *SCORE_TERM.names, *GIVEN_VECTORS.names)


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


class EqualNorms(nn.Module):
    """Every row of the item table has the same length, which is learned; directions stay.

    Items that are much used grow long rows, and a second source has norms of its own: both hinder the
    backbone's optimisation (cf. arXiv 2604.20490).

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d]; the length starts as the mean
            of its rows'.
    """

    def __init__(self, id_embeddings: Tensor):
        super().__init__()
        self.length = nn.Parameter(id_embeddings[1:].detach().norm(dim=1).mean())

    def forward(self, table: Tensor) -> Tensor:
        # A shorter row than eps stays shorter: the gradient at a row of zeros is bounded by 1 / eps.
        return self.length * functional.normalize(table, dim=1, eps=1e-3)


class FusedItemTable:
    """Mixin: the backbone's item table is the fusion's output wherever the backbone reads it.

    torch's parametrization covers every use of ``table.weight`` (lookup, scores, Caser's
    regularisation) and leaves the table an ``nn.Embedding``.
    """

    backbone: Backbone
    normalised = False  # whether the rows have one length whatever ``item_norm`` says
    reads_vectors = False  # whether it has enhanced embeddings

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        given = [key for key in _OF_VECTORS if key in config and config[key] != KEYS[key].default]
        if given and not self.reads_vectors:  # no refusal: one yaml may serve several models
            getLogger(__name__).warning(
                f"{', '.join(given)}: without effect: [{config['model']}] has no enhanced embeddings. "
                f"Set model: TSLRec_{self.backbone.name}."
            )
        table = self.item_table.weight
        self._check_is_alone(table)
        id_embeddings = table[: len(table) - self.backbone.rows_beyond]
        changes = [self._make_fusion(config, id_embeddings)]
        if self.normalised or config["item_norm"] == "l2":
            changes.append(EqualNorms(id_embeddings))
        for change in changes:
            if self.backbone.rows_beyond:
                change = OfItems(change, len(id_embeddings))
            parametrize.register_parametrization(self.item_table, "weight", change)

    def _check_is_alone(self, table: Tensor) -> None:
        """Raise ValueError if another module has the table for its own: that would stay unfused."""
        others = [
            name
            for place, module in self.named_modules()
            if module is not self.item_table
            for name, weight in module.named_parameters(place, recurse=False)
            if weight is table
        ]
        if others:
            own, name = f"self.{self.backbone.item_table}.weight", type(self).__name__
            raise ValueError(
                f"model: [{name}]: [{others[0]}] of [{self.backbone.name}] is its item table, and would "
                f"have the ids alone where the table is fused. Have {self.backbone.name} call "
                f"functional.linear(states, {own}) in its place."
            )

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
