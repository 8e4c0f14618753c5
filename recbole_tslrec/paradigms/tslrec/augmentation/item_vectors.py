"""The vectors that stand beside the id embeddings: h^v, or those of a user's file (paper §4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from recbole_tslrec.language_model.item_inputs import reads_text, reads_text_alone, unread_texts
from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.paradigms.tslrec.augmentation.given_items import (
    enhanced_items_width,
    given_enhanced_items,
)
from recbole_tslrec.paradigms.tslrec.augmentation.stages import (
    ENHANCED_EMBEDDING,
    AugmentationStage,
)
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.stage import Stage


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

    @classmethod
    def unread(cls, config) -> tuple[str, ...]:
        """The keys, of its own and of its stages, that are not read under these settings."""
        return ()

    @staticmethod
    @abstractmethod
    def width(config, dimension: int) -> int:
        """How many columns it has, known before anything is computed; ``dimension`` is d."""

    @classmethod
    def kept_width(cls, config, dimension: int) -> int:
        """How many of these columns are kept."""
        return min(cls.width(config, dimension), config["enhanced_dim"])

    @staticmethod
    @abstractmethod
    def make(pipeline: Pipeline) -> Tensor:
        """The vectors in the order of internal ids, [n_items - 1, width] float32, without padding."""

    @classmethod
    def words_alone(cls, config) -> bool:
        """Whether the items' words are all that it reads of them."""
        return cls.reads_text

    @classmethod
    def for_similarity(cls, vectors: Tensor, pipeline: Pipeline) -> Tensor:
        """What ``make`` gave, for similarities: 0 where the words are ``item_text_missing``.

        Items that share that text are not alike: nothing is known of them.
        """
        if not cls.words_alone(pipeline.config):
            return vectors
        return torch.where(has_words(pipeline)[:, None], vectors, 0.0)

    @classmethod
    def for_cold(cls, vectors: Tensor, cold: Tensor, pipeline: Pipeline) -> Tensor:
        """What ``for_similarity`` gave, 0 also where nothing tells of a cold item.

        Args:
            vectors: [n_items - 1, width].
            cold: the items without a training interaction, [n_items - 1] bool. The backbone's embedding
                of one is noise, so that its words are all that can tell of it.
        """
        if cls.words_alone(pipeline.config):
            return vectors
        return torch.where((~cold | has_words(pipeline))[:, None], vectors, 0.0)


def has_words(pipeline: Pipeline) -> Tensor:
    """Which items have a text of their own, and not ``item_text_missing``. [n_items - 1] bool"""
    missing = pipeline.catalogue.substituted
    return torch.tensor([token not in missing for token in pipeline.tokens])


class EnhancedEmbedding(ItemVectors):
    """h^v of the tuned language model: TSLRec itself."""

    name = "tslrec"
    stages = (AugmentationStage,)

    @classmethod
    def tells_cold_items(cls, config) -> bool:
        return reads_text(config)

    @classmethod
    def unread(cls, config) -> tuple[str, ...]:
        return unread_texts(config)

    @classmethod
    def words_alone(cls, config) -> bool:
        return reads_text_alone(config)

    @staticmethod
    def width(config, dimension: int) -> int:
        return open_source_for(config).hidden_size

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(AugmentationStage).enhanced_embeddings()


class GivenVectors(EnhancedEmbedding):
    """h^v in the user's file ``enhanced_items``; not a value of ``enhancement``.

    Whether words are in it, this experiment's ``item_prompt`` and ``item_slots`` say, as of its own:
    a file that was made with others is refused.
    """

    name = "enhanced_items"
    stages = ()

    @staticmethod
    def width(config, dimension: int) -> int:
        return enhanced_items_width(Path(config["enhanced_items"]))

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        items = given_enhanced_items(pipeline.config, pipeline.tokens, pipeline.data_fingerprint)
        return items.tensors[ENHANCED_EMBEDDING]
