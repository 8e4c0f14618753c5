"""Vectors of the words beside TF-IDF of them: does a language model know what the counts do not?"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre, reduce_columns
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import ItemVectors
from recbole_tslrec.paradigms.tslrec.augmentation.text_controls import (
    ShuffledText,
    TextEmbedding,
    TfidfEmbedding,
)
from recbole_tslrec.paradigms.tslrec.augmentation.tuned_texts import TunedText
from recbole_tslrec.stages.pipeline import Pipeline


class BesideTfidf(ItemVectors):
    """Two vectors of an item in one, of one length each: the cosine is about the mean of both cosines.

    About: who takes cosines centres the columns once more, after which lengths differ a little.
    ``enhanced_dim`` is of each. Where nothing is known a part is 0.

    Attributes:
        beside: what stands beside TF-IDF.
    """

    beside: ClassVar[type[ItemVectors]]
    keys = TfidfEmbedding.keys
    reads_text = True

    @classmethod
    def width(cls, config, dimension: int) -> int:
        return sum(part.kept_width(config, dimension) for part in (cls.beside, TfidfEmbedding))

    @classmethod
    def kept_width(cls, config, dimension: int) -> int:
        return cls.width(config, dimension)

    @classmethod
    def make(cls, pipeline: Pipeline) -> Tensor:
        parts = (cls.beside, TfidfEmbedding)
        return torch.cat([_rows_of_one_length(part, pipeline) for part in parts], dim=1)

    @classmethod
    def for_similarity(cls, vectors: Tensor, pipeline: Pipeline) -> Tensor:
        """As ``make`` gave it: its parts are 0 where nothing is known."""
        return vectors


class TextBesideTfidf(BesideTfidf):
    """The language model as it is, and TF-IDF."""

    name = "text_tfidf"
    beside = TextEmbedding
    stages = TextEmbedding.stages


class ShuffledTextBesideTfidf(BesideTfidf):
    """The control: as many columns, of which the language model's are those of other items."""

    name = "shuffled_text_tfidf"
    beside = ShuffledText
    stages = ShuffledText.stages


class TunedTextBesideTfidf(BesideTfidf):
    """The language model tuned on the words, and TF-IDF."""

    name = "tuned_text_tfidf"
    beside = TunedText
    stages = TunedText.stages


def _rows_of_one_length(kind: type[ItemVectors], pipeline: Pipeline) -> Tensor:
    """Centred rows of length 1, or 0, of as many columns as are kept. [n_items - 1, width] float32"""
    known = kind.for_similarity(kind.make(pipeline), pipeline)
    rows = reduce_columns(centre(known), pipeline.config["enhanced_dim"])
    return functional.normalize(rows, dim=1)
