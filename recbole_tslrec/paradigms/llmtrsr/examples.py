"""LLM-TRSR's training examples: of each user the latest target with yes, a random item with no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.store.arrays import arrays_hash

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Template


class Example(NamedTuple):
    """A summary's tokens and a history, int64 [any] each; a candidate, and whether it came next."""

    summary: np.ndarray
    history: np.ndarray
    candidate: int
    is_positive: bool


class YesNoExamples:
    """Examples for the training loop, two of each row: first the positive one.

    Args:
        summaries: token ids, int64 [any], of each of n rows.
        histories: items, int64 [any], of each row.
        positives, negatives: int64 [n]; a negative of 0 is none, and its row has one example.
    """

    def __init__(
        self,
        summaries: Sequence[np.ndarray],
        histories: Sequence[np.ndarray],
        positives: np.ndarray,
        negatives: np.ndarray,
    ):
        self.summaries, self.histories = summaries, histories
        self.candidates = np.stack([positives, negatives], axis=1)
        self.places = np.flatnonzero(self.candidates.reshape(-1))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Example:
        row, is_negative = divmod(int(self.places[number]), 2)
        candidate = int(self.candidates[row, is_negative])
        return Example(self.summaries[row], self.histories[row], candidate, not is_negative)

    def content_hash(self) -> str:
        """A hash of all of them in their order."""
        arrays = [self.candidates]
        for rows in (self.summaries, self.histories):
            arrays.append(np.array([len(row) for row in rows], dtype=np.int64))
            arrays.append(np.concatenate([np.zeros(0, np.int64), *rows]))
        return arrays_hash(*arrays)


def values_of(examples: Sequence[Example], answers: tuple[int, int]) -> dict[str, list[np.ndarray]]:
    """What a template's batch is made of, by the names of its segments."""
    from recbole_tslrec.language_model.prompts.template import ANSWER
    from recbole_tslrec.paradigms.llmtrsr.prompt import CANDIDATE, HISTORY, SUMMARY

    yes, no = answers
    return {
        SUMMARY: [one.summary for one in examples],
        HISTORY: [one.history for one in examples],
        CANDIDATE: [np.array([one.candidate]) for one in examples],
        ANSWER: [np.array([yes if one.is_positive else no]) for one in examples],
    }


def collate(
    template: Template, answers: tuple[int, int], examples: Sequence[Example]
) -> dict[str, Tensor]:
    """A batch for ``YesNoRanker``."""
    is_positive = torch.tensor([one.is_positive for one in examples])
    return template.batch(values_of(examples, answers)) | {"is_positive": is_positive}
