"""The controls that read the items' texts: the words as they are, word counts, texts of others, noise.

Rows are computed in the order of the items' tokens: an item's internal number, which tells where it
first appeared, changes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import ItemVectors, has_words
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.text_vectors import TextVectorsStage


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
    keys = ("item_text", "item_text_missing")  # the whole texts
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


class _DealtOut(ItemVectors):
    """Mixin for the control of vectors ``of``: theirs, dealt out among the items at random."""

    of: ClassVar[type[ItemVectors]]

    @classmethod
    def make(cls, pipeline: Pipeline) -> Tensor:
        return _dealt_out(cls.of.make(pipeline), pipeline)

    @classmethod
    def for_similarity(cls, vectors: Tensor, pipeline: Pipeline) -> Tensor:
        """Its zeros are dealt out with the vectors."""
        return torch.where(_dealt_out(has_words(pipeline), pipeline)[:, None], vectors, 0.0)


class ShuffledText(_DealtOut, TextEmbedding):
    """The vectors of ``text``, dealt out among the items at random."""

    name = "shuffled_text"
    of = TextEmbedding


class ShuffledTfidf(_DealtOut, TfidfEmbedding):
    """The vectors of ``tfidf``, dealt out likewise: of as many columns as these."""

    name = "shuffled_tfidf"
    of = TfidfEmbedding


class GaussianText(TextEmbedding):
    """Gaussian rows of the mean and the covariance of ``text``."""

    name = "gaussian_text"

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        vectors = TextEmbedding.make(pipeline)
        return gaussian_like(vectors, pipeline.tokens, pipeline.config["seed"])


def token_order(tokens: Sequence[str]) -> np.ndarray:
    """The positions of the items in the order of their tokens. [n] int64"""
    return np.array(sorted(range(len(tokens)), key=tokens.__getitem__), dtype=np.int64)


def tfidf_svd(texts: Sequence[str], n_columns: int, seed: int) -> Tensor:
    """Latent semantic analysis: TF-IDF of the words, cut to the directions of most weight.

    Args:
        texts: of n items.
        n_columns: of the result; those that the texts do not fill are 0.

    Returns:
        [n, n_columns] float32.

    Raises:
        ValueError: there is no word in any text.
    """
    try:
        # sublinear: a word twice in a title says little more than once.
        counts = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError as error:
        raise ValueError(f"item_text: the texts have no words to count: {error}.") from None
    result = np.zeros((len(texts), n_columns), dtype=np.float32)
    if counts.shape[1] == 1:  # which TruncatedSVD refuses, and which is its own direction
        result[:, :1] = counts.toarray()
        return torch.from_numpy(result)
    rank = min(n_columns, *counts.shape)
    result[:, :rank] = TruncatedSVD(rank, random_state=seed).fit_transform(counts)
    return torch.from_numpy(result)


def _dealt_out(vectors: Tensor, pipeline: Pipeline) -> Tensor:
    return shuffled_rows(vectors, pipeline.tokens, pipeline.config["seed"])


def shuffled_rows(vectors: Tensor, tokens: Sequence[str], seed: int) -> Tensor:
    """The vectors dealt out among the items, drawn once: what is left is not what the words say.

    It is a permutation: one item, in the mean of draws, gets its own vector back.

    Args:
        vectors: [n, width], rows in the order of ``tokens``.
    """
    return vectors[torch.from_numpy(dealt_out(tokens, seed))]


def dealt_out(tokens: Sequence[str], seed: int, known: np.ndarray | None = None) -> np.ndarray:
    """Of each item the place of the one whose vector, or words, it gets. [n] int64

    Args:
        known: the items among which they are dealt out, the others keep theirs, [n] bool; None: all.
    """
    order = token_order(tokens)
    if known is not None:
        order = order[known[order]]
    drawn = np.arange(len(tokens))
    drawn[order] = order[np.random.default_rng(seed).permutation(len(order))]
    return drawn


def gaussian_like(vectors: Tensor, tokens: Sequence[str], seed: int) -> Tensor:
    """Gaussian rows of the same mean and covariance: the shape of the cloud without its items.

    Args:
        vectors: [n, width], rows in the order of ``tokens``.

    Returns:
        [n, width] float32.
    """
    order = token_order(tokens)
    ordered = vectors.double().numpy()[order]
    mean = ordered.mean(axis=0)
    centred = ordered - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    # A root of the covariance that is the same whatever signs the directions come with.
    root = (directions * np.sqrt(variances.clip(min=0))) @ directions.T
    drawn = mean + np.random.default_rng(seed).standard_normal(ordered.shape) @ root
    result = np.empty_like(drawn)
    result[order] = drawn
    return torch.from_numpy(result).float()
