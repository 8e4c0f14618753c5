"""The models: a variant of a backbone each, ``TSLRec_SASRec`` for one.

A model's class is made here from RecBole's own class: no backbone's code is copied.
"""

from __future__ import annotations

from recbole.model.abstract_recommender import SequentialRecommender

from recbole_tslrec.backbones.registry import BACKBONES, Backbone
from recbole_tslrec.paradigms.tslrec.models.ci import CategoryItemTable
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.paradigms.tslrec.models.norm import NormalisedItemTable
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable

ITEM_TABLES: dict[str, type[FusedItemTable]] = {
    "TSLRec": EnhancedItemTable,
    "CI": CategoryItemTable,
    "Norm": NormalisedItemTable,
}


def _make(variant: str, backbone: Backbone) -> type[SequentialRecommender]:
    name = f"{variant}_{backbone.name}"
    item_table = ITEM_TABLES[variant]
    return type(
        name,
        (item_table, backbone.model_class),
        {
            # RecBole pickles a class by reference, so it must be found under this module.
            "__module__": __name__,
            "__doc__": f"{backbone.name} with a fused item table: {item_table.__doc__}",
            "backbone": backbone,
        },
    )


MODELS: dict[str, type[SequentialRecommender]] = {}


def add_backbone(backbone: Backbone) -> list[type[SequentialRecommender]]:
    """Make the variants of a backbone, and put them into ``MODELS``."""
    made = [_make(variant, backbone) for variant in ITEM_TABLES]
    by_name = {model.__name__: model for model in made}
    MODELS.update(by_name)
    globals().update(by_name)
    return made


for _backbone in BACKBONES.values():
    add_backbone(_backbone)
