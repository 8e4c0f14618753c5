"""Late fusion: items like those of the history get a higher score, whatever the ids have learned.

    s(u, i) = z(s_id(u, i)) + γ Σ_k δ^k [h_k ≠ i] cos(x_{h_k}, x_i)

h_0 is the latest item of the history, h_1 the one before; x are the vectors of ``enhancement``; z takes
the mean over the items away and divides by their standard deviation, so that γ means the same for every
user and model. A replication of LLM-ESR (github.com/AnkieFan/LLM-ESR) adds text so, with a maximum in
place of the sum; EnsRec (arXiv 2512.17820) adds the scores of two models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from recbole_tslrec.evaluation.scoring_term import ScoringTerm
from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre, reduce_columns

_DECAYS = (0.3, 0.5, 0.7, 0.85, 1.0)
_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)  # 1.0 to 2.0 after a learned map


class HistorySimilarity(ScoringTerm):
    """The sum over the history, its weight γ and decay δ.

    Args:
        n_items: with padding.
        width: the number of columns that are kept of the vectors; PCA takes the rest away.
        standardised: whether the scores go through z. Without it the term is one of the logits.

    Attributes:
        vectors: float16 ``[n_items, width]``, rows of length 1, or 0 for padding and for items of which
            nothing is known.
    """

    names = ("weight", "decay")
    grid = tuple((weight, decay) for decay, weight in product(_DECAYS, _WEIGHTS))
    vectors: Tensor

    def __init__(self, n_items: int, width: int, standardised: bool = True):
        super().__init__()
        self.standardised = standardised
        self.register_buffer("vectors", torch.zeros(n_items, width, dtype=torch.float16))

    def set_vectors(self, vectors: Tensor) -> None:
        """Take the items' vectors in the order of internal ids, ``[n_items - 1, any]``, no padding.

        Their mean is taken away, without which the states of a language model all point one way. A row
        of zeros is an item of which nothing is known: it is like no other.
        """
        self.set_rows(reduce_columns(centre(vectors), self.vectors.shape[1]))

    def set_rows(self, rows: Tensor) -> None:
        """Take rows whose cosine counts as it is, ``[n_items - 1, at the most width]``, no padding."""
        self.vectors.zero_()
        self.vectors[1:, : rows.shape[1]] = functional.normalize(rows, dim=1)

    def similarity(self, item_seq: Tensor, decay: float) -> Tensor:
        """Σ_k δ^k [h_k ≠ i] cos(x_{h_k}, x_i) of every item i, float32 ``[B, n_items]``.

        Args:
            item_seq: int64 ``[B, L]``, oldest first, padded with 0 on either side.
            decay: δ.
        """
        is_item = item_seq != 0
        later = is_item.flip(1).cumsum(dim=1).flip(1) - 1  # k, from the latest item back
        weights = torch.where(is_item, float(decay) ** later, 0.0)  # [B, L]
        table = self.vectors.float()
        rows = table[item_seq]  # [B, L, width]
        profiles = torch.einsum("bl,blw->bw", weights, rows)
        similarity = profiles @ table.T
        with_itself = weights * rows.square().sum(dim=2)
        return similarity.scatter_add_(1, item_seq, -with_itself)

    def added(self, scores: Tensor, item_seq: Tensor, weight: float, decay: float) -> Tensor:
        return self._scale(scores) + weight * self.similarity(item_seq, decay).to(scores)

    def under_each(self, scores: Tensor, item_seq: Tensor) -> Iterator[Tensor]:
        scaled = self._scale(scores)
        for decay in _DECAYS:
            similarity = self.similarity(item_seq, decay).to(scores)
            for weight in _WEIGHTS:
                yield torch.add(scaled, similarity, alpha=weight)

    def _scale(self, scores: Tensor) -> Tensor:
        if not self.standardised:
            return scores
        items = scores[:, 1:]  # without padding
        deviation = items.std(dim=1, correction=0, keepdim=True)
        tiny = torch.finfo(scores.dtype).tiny
        return (scores - items.mean(dim=1, keepdim=True)) / deviation.clamp(min=tiny)
