"""LlamaRec's training examples: a history, candidates in random order, the target's place among them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.data.negatives import random_negatives, shuffled_in
from recbole_tslrec.evaluation.candidates import items_before

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.paradigms.llamarec.prompt import Answers

_ROWS_AT_ONCE = 4096

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
        content = hashlib.sha256()
        for array in (self.histories, self.lengths, self.candidates, self.places):
            content.update(np.ascontiguousarray(array))
        return content.hexdigest()

    def prompt_lengths(self, template: Template, answers: Answers | None) -> np.ndarray:
        """The positions of every example's prompt. [n]"""
        parts = [
            template.lengths(values_of([self[number] for number in block], answers))
            for block in np.array_split(np.arange(len(self)), -(-len(self) // _ROWS_AT_ONCE))
        ]
        return np.concatenate(parts)


def values_of(
    examples: Sequence[Example], answers: Answers | None = None
) -> dict[str, list[np.ndarray]]:
    """What a template's batch is made of, by the names of its segments."""
    from recbole_tslrec.paradigms.llamarec.prompt import ANSWER, CANDIDATES, HISTORY

    histories, candidates, places = zip(*examples, strict=True)
    values = {HISTORY: list(histories), CANDIDATES: list(candidates)}
    if answers is not None:
        values[ANSWER] = [np.array([answers.tokens[place]]) for place in places]
    return values


def collate(
    template: Template, answers: Answers | None, examples: Sequence[Example]
) -> dict[str, Tensor]:
    """A batch for ``LetterRanker``.

    Args:
        answers: what is answered; it is in the prompts if the template has a place for it.
    """
    values = values_of(examples, answers)
    return template.batch(values) | {
        "place": torch.tensor([place for _, _, place in examples]),
        "count": torch.tensor([len(candidates) for _, candidates, _ in examples]),
    }


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
    before = items_before(dataset, training_histories(dataset))
    targets = dataset.inter_feat[dataset.iid_field].numpy()[rows]
    negatives = [
        random_negatives(
            before(rows[block]).numpy(),
            targets[block],
            dataset.item_num,
            n_candidates - 1,
            generator,
        )
        for block in np.array_split(np.arange(len(rows)), -(-len(rows) // _ROWS_AT_ONCE))
    ]
    return shuffled_in(targets, np.concatenate(negatives), generator)


def with_retrieved_negatives(
    retrieved: np.ndarray, targets: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The retriever's candidates, the target in the place of the last if it is not among them.

    In random order: the retriever was trained on these rows, and its order would tell the target.

    Args:
        retrieved: int64 [n, k], the best first, padded with 0.
        targets: int64 [n].

    Returns:
        as of ``shuffled_in``.
    """
    is_target = retrieved == targets[:, None]
    others_first = np.argsort(is_target, axis=1, kind="stable")
    others = np.take_along_axis(retrieved, others_first, axis=1)[:, :-1]
    return shuffled_in(targets, others, generator)
