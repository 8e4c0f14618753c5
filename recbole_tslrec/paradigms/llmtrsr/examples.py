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
    """A summary's tokens, a history and one or two candidates, int64 [any] each.

    The first candidate came next; the second did not.
    """

    summary: np.ndarray
    history: np.ndarray
    candidates: np.ndarray


class YesNoExamples:
    """Examples for the training loop, one of each row.

    Args:
        summaries: token ids, int64 [any], of each of n rows.
        histories: items, int64 [any], of each row.
        positives, negatives: int64 [n]; a negative of 0 is none.
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

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, row: int) -> Example:
        candidates = self.candidates[row]
        return Example(self.summaries[row], self.histories[row], candidates[candidates > 0])

    def content_hash(self) -> str:
        """A hash of all of them in their order."""
        arrays = []
        for rows in (self.summaries, self.histories):
            arrays.append(np.array([len(row) for row in rows], dtype=np.int64))
            arrays.append(np.concatenate([np.zeros(0, np.int64), *rows]))
        return arrays_hash(*arrays, self.candidates)


def values_of(examples: Sequence[Example]) -> dict[str, list[np.ndarray]]:
    """What a template's batch is made of, by the names of its segments."""
    from recbole_tslrec.paradigms.llmtrsr.prompt import CANDIDATE, HISTORY, SUMMARY

    return {
        SUMMARY: [one.summary for one in examples],
        HISTORY: [one.history for one in examples],
        CANDIDATE: [one.candidates for one in examples],
    }


def collate(template: Template, continues: bool, examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch for ``YesNoRanker``.

    Args:
        template: without an answer.
        continues: whether a prompt is read once, with all its candidates behind it.
    """
    from recbole_tslrec.paradigms.llmtrsr.prompt import prompts_of

    places = [np.arange(len(one.candidates)) for one in examples]
    rows = np.repeat(np.arange(len(examples)), [len(own) for own in places])
    return prompts_of(template, values_of(examples), continues) | {
        "is_positive": torch.from_numpy(np.concatenate(places) == 0),
        "example_of": torch.from_numpy(rows),
    }
