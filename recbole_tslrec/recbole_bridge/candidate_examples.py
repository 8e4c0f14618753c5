"""Examples of rerankers whose prompt holds all candidates: a history, and the target among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.data.negatives import shuffled_in
from recbole_tslrec.evaluation.candidates import negatives_of
from recbole_tslrec.store.arrays import arrays_hash

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_tslrec.recbole_bridge.reranker import Reranker

# The names of a template's segments.
HISTORY, CANDIDATES = "history", "candidates"

Example = tuple[np.ndarray, np.ndarray, int]


class CandidateExamples:
    """Examples for the training loop.

    Args:
        histories: int64 [n, L], oldest first, padded on the right.
        lengths: the items of each history, int64 [n].
        candidates: int64 [n, k], padded with 0 on the right.
        places: the target's place among the candidates, int64 [n].
    """

    def __init__(
        self,
        histories: np.ndarray,
        lengths: np.ndarray,
        candidates: np.ndarray,
        places: np.ndarray,
    ):
        self.histories, self.lengths = histories, lengths
        self.candidates, self.places = candidates, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Example:
        candidates = self.candidates[number]
        history = self.histories[number, : self.lengths[number]]
        return history, candidates[candidates > 0], int(self.places[number])

    def content_hash(self) -> str:
        """A hash of all of them in their order."""
        return arrays_hash(self.histories, self.lengths, self.candidates, self.places)


def values_of(examples: Sequence[Example]) -> dict[str, list[np.ndarray]]:
    """What a template's batch is made of, by the names of its segments."""
    histories, candidates, _ = zip(*examples, strict=True)
    return {HISTORY: list(histories), CANDIDATES: list(candidates)}


def right_places(choices: Sequence[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
    """Of each example ``place``, the right candidate's, and ``count``, of the candidates; int64 [B].

    Args:
        choices: the candidates of each, and the right one's place.
    """
    return {
        "place": torch.tensor([place for _, place in choices]),
        "count": torch.tensor([len(candidates) for candidates, _ in choices]),
    }


def candidate_errors(scores: Tensor, place: Tensor, count: Tensor) -> Tensor:
    """The cross entropy of each example over its candidates. [B]

    Args:
        scores: [B, k] float32; of places without a candidate, whatever.
        place: of the right one, int64 [B].
        count: of the candidates, int64 [B].
    """
    is_none = torch.arange(scores.shape[1], device=scores.device) >= count[:, None]
    return F.cross_entropy(scores.masked_fill(is_none, -torch.inf), place, reduction="none")


def examples_of(model: Reranker, interaction: Interaction, candidates: Tensor) -> list[Example]:
    """The histories of RecBole's rows and their candidates, int64 [B, k], without padding."""
    histories, lengths = interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN].tolist()
    rows = zip(histories.cpu().numpy(), lengths, candidates.cpu().numpy(), strict=True)
    return [(history[:length], own[own > 0], 0) for history, length, own in rows]


def latest_examples(
    model: Reranker, dataset, draw: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> CandidateExamples:
    """Of the learned users' latest ``max_examples_per_user`` training rows the history, and the target.

    Args:
        dataset: RecBole's augmented training data set.
        draw: gives the candidates of rows by their positions, ascending, int64 [n]; as of
            ``shuffled_in``.
    """
    chosen = model.learned_rows(dataset, model.settings["max_examples_per_user"])
    rows = dataset.inter_feat[chosen]
    histories, lengths = rows[model.ITEM_SEQ].numpy(), rows[model.ITEM_SEQ_LEN].numpy()
    return CandidateExamples(histories, lengths, *draw(chosen))


def with_random_negatives(
    dataset, rows: np.ndarray, n_candidates: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates drawn from what the users did not have before, the targets among them.

    Args:
        dataset: RecBole's augmented training data set.
        rows: positions of its rows, ascending, int64 [n].

    Returns:
        as of ``shuffled_in``.
    """
    targets = dataset.inter_feat[dataset.iid_field].numpy()[rows]
    negatives = negatives_of(dataset, rows, n_candidates - 1, generator)
    return shuffled_in(targets, negatives, generator)
