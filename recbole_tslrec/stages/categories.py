"""The stage of the items' categories: k-means on the trained backbone's item embeddings."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.keys import CATEGORIES
from recbole_tslrec.stages.kmeans import latent_categories
from recbole_tslrec.stages.stage import Stage

CATEGORY = "category"  # [n_items] int64
_FILE = "items.safetensors"


class CategoriesStage(Stage):
    """k-means on e_v: the items' preliminary latent categories (TSLRec §4.1)."""

    name = "categories"
    needs = (BackboneStage,)
    keys = CATEGORIES.names
    product = "item_categories"

    @property
    def backbone(self) -> BackboneStage:
        return self.pipeline.stage(BackboneStage)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "seed": self.config["seed"],
            "backbone": self.backbone.fingerprint,
        }

    def make(self, folder: Path) -> dict[str, Any]:
        categories = latent_categories(
            self.backbone.item_embeddings().numpy(),
            self.config["n_categories"],
            backend=self.config["category_backend"],
            seed=self.config["seed"],
            show_progress=self.pipeline.show_progress,
        )
        self.save_items(folder, _FILE, {CATEGORY: torch.from_numpy(categories.labels)})
        return {"sizes": categories.sizes.tolist()} | provenance.read_from(self.backbone)

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        if n_items is not None and config["n_categories"] > n_items:
            raise ValueError(
                f"n_categories: [{config['n_categories']}] is more than the {n_items} items of the data "
                f"set [{config['dataset']}]. Give fewer."
            )

    def item_categories(self) -> Tensor:
        """The preliminary latent category of every item, in the order of internal ids.

        Returns:
            [n_items - 1] int64.
        """
        return self.read_items(_FILE, CATEGORY)

    def content(self) -> dict[str, Tensor]:
        return {CATEGORY: self.item_categories()}
