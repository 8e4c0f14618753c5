"""LlamaRec's training examples: a history, candidates in random order, the target's place among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from recbole_tslrec.data.negatives import shuffled_in
from recbole_tslrec.recbole_bridge import candidate_examples
from recbole_tslrec.recbole_bridge.candidate_examples import Example, right_places

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.paradigms.llamarec.prompt import Answers


def values_of(
    examples: Sequence[Example], answers: Answers | None = None
) -> dict[str, list[np.ndarray]]:
    """What a template's batch is made of, with the answers if there are any."""
    from recbole_tslrec.language_model.prompts.template import ANSWER

    values = candidate_examples.values_of(examples)
    if answers is not None:
        values[ANSWER] = [np.array([answers.tokens[place]]) for _, _, place in examples]
    return values


def collate(
    template: Template, answers: Answers | None, examples: Sequence[Example]
) -> dict[str, Tensor]:
    """A batch for ``LetterRanker``.

    Args:
        answers: what is answered; it is in the prompts if the template has a place for it.
    """
    values = values_of(examples, answers)
    return template.batch(values) | right_places([own for _, *own in examples])


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
