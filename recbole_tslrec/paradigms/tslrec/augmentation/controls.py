"""The controls: what stands in place of h^v, and which of them an experiment takes (paper §4.2).

A control is one class, here or, if it reads the items' texts, in ``text_controls.py``, with its name in
``CONTROLS``. It must be beaten for the tuned language model to have added anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import (
    EnhancedEmbedding,
    GivenVectors,
    ItemVectors,
)
from recbole_tslrec.paradigms.tslrec.augmentation.joined_vectors import (
    ShuffledTextBesideTfidf,
    TextBesideTfidf,
    TunedTextBesideTfidf,
)
from recbole_tslrec.paradigms.tslrec.augmentation.stages import FrozenAugmentationStage
from recbole_tslrec.paradigms.tslrec.augmentation.text_controls import (
    GaussianText,
    ShuffledText,
    ShuffledTfidf,
    TextEmbedding,
    TfidfEmbedding,
)
from recbole_tslrec.paradigms.tslrec.augmentation.tuned_texts import (
    ShuffledTunedText,
    TunedText,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    mean_preferences,
    user_preferences,
)
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline


class MeanPreference(ItemVectors):
    """The mean ḡ of an item's users, to which the tuning target comes down for a single item."""

    name = "mean_preference"
    stages = (CategoriesStage,)

    @staticmethod
    def width(config, dimension: int) -> int:
        return config["n_categories"]

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        preferences = user_preferences(pipeline)
        means = mean_preferences(pipeline.histories, preferences, len(pipeline.tokens) + 1)
        return torch.from_numpy(means[1:])


class BackboneEmbedding(ItemVectors):
    """e_v, what the language model was given to read."""

    name = "backbone_embedding"
    stages = (BackboneStage,)

    @staticmethod
    def width(config, dimension: int) -> int:
        return dimension

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(BackboneStage).item_embeddings()


class RandomVectors(ItemVectors):
    """Fixed Gaussian vectors, as wide as h^v."""

    name = "random"
    keys = ("llm",)

    @staticmethod
    def width(config, dimension: int) -> int:
        return open_source_for(config).hidden_size

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        drawn = torch.Generator().manual_seed(pipeline.config["seed"])
        width = RandomVectors.width(pipeline.config, 0)
        return torch.randn(len(pipeline.tokens), width, generator=drawn)


class FrozenEmbedding(EnhancedEmbedding):
    """h^v of the language model before fine-tuning, ``linear_proj`` as it starts."""

    name = "frozen_lm"
    stages = (FrozenAugmentationStage,)

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(FrozenAugmentationStage).enhanced_embeddings()


CONTROLS: tuple[type[ItemVectors], ...] = (
    MeanPreference,
    BackboneEmbedding,
    RandomVectors,
    FrozenEmbedding,
    TextEmbedding,
    TfidfEmbedding,
    ShuffledText,
    GaussianText,
)

# Made for a term at scoring: a comparison has no row of them in the item table.
_OF_TERMS: tuple[type[ItemVectors], ...] = (
    TunedText,
    ShuffledTunedText,
    ShuffledTfidf,
    TextBesideTfidf,
    ShuffledTextBesideTfidf,
    TunedTextBesideTfidf,
)

# The values of the key ``enhancement``.
VECTORS: dict[str, type[ItemVectors]] = {
    kind.name: kind for kind in (EnhancedEmbedding, *CONTROLS, *_OF_TERMS)
}


def vectors_of(config) -> type[ItemVectors]:
    """What stands beside the id embeddings under these settings."""
    return GivenVectors if config["enhanced_items"] is not None else VECTORS[config["enhancement"]]
