"""CI: the item's latent category as a feature beside its id (paper §5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import initial_scale
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.stages.categories import CategoriesStage

if TYPE_CHECKING:
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


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


class CategoryFusion(nn.Module):
    """The CI variant: id embedding plus a learnable embedding of the item's latent category.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        n_categories: K. Category K stands for "none" (the padding row) and stays zero.
    """

    categories: Tensor  # [n_items] int64

    def __init__(self, id_embeddings: Tensor, n_categories: int):
        super().__init__()
        n_items, dimension = id_embeddings.shape
        self.register_buffer("categories", torch.full((n_items,), n_categories))
        self.category_embedding = nn.Embedding(
            n_categories + 1, dimension, padding_idx=n_categories
        )
        nn.init.normal_(self.category_embedding.weight, std=initial_scale(id_embeddings))
        with torch.no_grad():
            self.category_embedding.weight[n_categories].zero_()

    def set_categories(self, labels: Tensor) -> None:
        """Take the category of every item in the order of internal ids, [n_items - 1] int64."""
        self.categories[1:] = labels.to(self.categories)

    def forward(self, id_embeddings: Tensor) -> Tensor:
        return id_embeddings + self.category_embedding(self.categories)
