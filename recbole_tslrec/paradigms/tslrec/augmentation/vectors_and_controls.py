"""The vectors beside the id embeddings: h^v, and each control that stands in its place (paper §4.2).

A control is one class here. It must be beaten for the tuned language model to have added anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.item_inputs import reads_text
from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.paradigms.tslrec.augmentation.enhanced_embeddings import (
    ENHANCED_EMBEDDING,
    random_embeddings,
)
from recbole_tslrec.paradigms.tslrec.augmentation.given_items import (
    enhanced_items_width,
    given_enhanced_items,
)
from recbole_tslrec.paradigms.tslrec.augmentation.stages import (
    AugmentationStage,
    FrozenAugmentationStage,
)
from recbole_tslrec.paradigms.tslrec.augmentation.text_controls import (
    gaussian_like,
    shuffled_rows,
    tfidf_svd,
    token_order,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import mean_preferences
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import CategoriesStage
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.text_vectors import TextVectorsStage


class ItemVectors(ABC):
    """What stands beside the id embeddings; its ``name`` is a value of the key ``enhancement``."""

    name: ClassVar[str]
    stages: ClassVar[tuple[type[Stage], ...]] = ()
    keys: ClassVar[tuple[str, ...]] = ()  # that it reads besides those of its stages
    reads_text: ClassVar[bool] = False  # whether it cannot do without ``item_text``

    @classmethod
    def tells_cold_items(cls, config) -> bool:
        """Whether it knows something of an item that nobody has had."""
        return cls.reads_text

    @staticmethod
    @abstractmethod
    def width(config, dimension: int) -> int:
        """How many columns it has, known before anything is computed; ``dimension`` is d."""

    @staticmethod
    @abstractmethod
    def make(pipeline: Pipeline) -> Tensor:
        """The vectors in the order of internal ids, [n_items - 1, width] float32, without padding."""

    @classmethod
    def for_term(cls, vectors: Tensor, pipeline: Pipeline) -> Tensor:
        """What ``make`` gave, for a term of similarities: 0 where the words are ``item_text_missing``.

        Items that share that text are not alike: nothing is known of them.
        """
        if not cls.reads_text:
            return vectors
        missing = pipeline.catalogue.substituted
        known = torch.tensor([token not in missing for token in pipeline.tokens])
        return torch.where(known[:, None], vectors, 0.0)


class EnhancedEmbedding(ItemVectors):
    """h^v of the tuned language model: TSLRec itself."""

    name = "tslrec"
    stages = (AugmentationStage,)

    @classmethod
    def tells_cold_items(cls, config) -> bool:
        return reads_text(config)

    @staticmethod
    def width(config, dimension: int) -> int:
        return open_source_for(config).hidden_size

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(AugmentationStage).enhanced_embeddings()


class MeanPreference(ItemVectors):
    """The mean ḡ of an item's users, to which the tuning target comes down for a single item."""

    name = "mean_preference"
    stages = (CategoriesStage,)

    @staticmethod
    def width(config, dimension: int) -> int:
        return config["n_categories"]

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        preferences = pipeline.stage(CategoriesStage).preferences()
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
        config = pipeline.config
        return random_embeddings(
            len(pipeline.tokens), RandomVectors.width(config, 0), config["seed"]
        )


class FrozenEmbedding(EnhancedEmbedding):
    """h^v of the language model before fine-tuning, ``linear_proj`` as it starts."""

    name = "frozen_lm"
    stages = (FrozenAugmentationStage,)

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(FrozenAugmentationStage).enhanced_embeddings()


class TextEmbedding(ItemVectors):
    """The words of each item as the frozen language model reads them; no interaction enters."""

    name = "text"
    stages = (TextVectorsStage,)
    reads_text = True

    @staticmethod
    def width(config, dimension: int) -> int:
        return open_source_for(config).hidden_size

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(TextVectorsStage).text_vectors()


class TfidfEmbedding(ItemVectors):
    """TF-IDF of the words with truncated SVD: what the texts say without a language model."""

    name = "tfidf"
    keys = ITEM_TEXT.names
    reads_text = True

    @staticmethod
    def width(config, dimension: int) -> int:
        return config["enhanced_dim"]

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        config, order = pipeline.config, token_order(pipeline.tokens)
        texts = pipeline.catalogue.rows(pipeline.tokens)[1:]
        vectors = tfidf_svd([texts[row] for row in order], config["enhanced_dim"], config["seed"])
        return vectors[torch.from_numpy(order).argsort()]


class ShuffledText(TextEmbedding):
    """The vectors of ``text``, dealt out among the items at random."""

    name = "shuffled_text"

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        vectors = TextEmbedding.make(pipeline)
        return shuffled_rows(vectors, pipeline.tokens, pipeline.config["seed"])

    @classmethod
    def for_term(cls, vectors: Tensor, pipeline: Pipeline) -> Tensor:
        """Its zeros are dealt out with the vectors."""
        known = TextEmbedding.for_term(TextEmbedding.make(pipeline), pipeline)
        return shuffled_rows(known, pipeline.tokens, pipeline.config["seed"])


class GaussianText(TextEmbedding):
    """Gaussian rows of the mean and the covariance of ``text``."""

    name = "gaussian_text"

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        vectors = TextEmbedding.make(pipeline)
        return gaussian_like(vectors, pipeline.tokens, pipeline.config["seed"])


class GivenVectors(ItemVectors):
    """What the user's file ``enhanced_items`` holds; not a value of ``enhancement``."""

    name = "enhanced_items"

    @staticmethod
    def width(config, dimension: int) -> int:
        return enhanced_items_width(Path(config["enhanced_items"]))

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        items = given_enhanced_items(pipeline.config, pipeline.tokens, pipeline.data_fingerprint)
        return items.tensors[ENHANCED_EMBEDDING]


VECTORS: dict[str, type[ItemVectors]] = {
    kind.name: kind
    for kind in (
        EnhancedEmbedding,
        MeanPreference,
        BackboneEmbedding,
        RandomVectors,
        FrozenEmbedding,
        TextEmbedding,
        TfidfEmbedding,
        ShuffledText,
        GaussianText,
    )
}


def vectors_of(config) -> type[ItemVectors]:
    """What stands beside the id embeddings under these settings."""
    return GivenVectors if config["enhanced_items"] is not None else VECTORS[config["enhancement"]]
