"""What DELRec's soft prompts are trained on: of every user two tasks, made of the training history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from recbole_tslrec.data.negatives import random_negatives, shuffled_in
from recbole_tslrec.recbole_bridge.candidate_examples import right_places
from recbole_tslrec.store.arrays import arrays_hash

if TYPE_CHECKING:
    from recbole_tslrec.data.histories import Histories
    from recbole_tslrec.paradigms.delrec.prompts import Prompts
    from recbole_tslrec.paradigms.delrec.verbalizers import Verbalizer

HISTORY, CANDIDATES = "history", "candidates"
BEGINNING, FOLLOWING, ANSWERED, NEXT = "beginning", "following", "answered", "next"  # of TA
PLACES = "places"  # of RPS
ANALYSIS, PATTERN = "analysis_", "pattern_"  # before the names of a batch's tensors
SHORTEST = 3  # a history with something before the missing item, and something after it
_WITH_EXAMPLE = 6  # a history of which four items make the worked example

Values = dict[str, list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Choice:
    """Candidates in random order.

    Attributes:
        candidates: int64 [n, k], padded with 0 on the right.
        places: the right one's place in each row, int64 [n].
    """

    candidates: np.ndarray
    places: np.ndarray

    def of(self, number: int) -> tuple[np.ndarray, int]:
        """The candidates of one example, and the right one's place."""
        row = self.candidates[number]
        return row[row > 0], int(self.places[number])


@dataclass(frozen=True)
class Pair:
    """One user's two tasks: the history, the recommender's best items, and what there is to choose."""

    history: np.ndarray
    best: np.ndarray
    analysis: tuple[np.ndarray, int]
    pattern: tuple[np.ndarray, int]


class ImitationExamples:
    """Examples for the training loop, a user each.

    Args:
        histories: the whole training histories, of ``SHORTEST`` items at least.
        best: the recommender's best items to follow each of them, int64 [n, h], padded with 0.
        analysis, pattern: the candidates of the two tasks.
    """

    def __init__(
        self, histories: Sequence[np.ndarray], best: np.ndarray, analysis: Choice, pattern: Choice
    ):
        self.histories, self.best = histories, best
        self.analysis, self.pattern = analysis, pattern

    def __len__(self) -> int:
        return len(self.histories)

    def __getitem__(self, number: int) -> Pair:
        best = self.best[number]
        return Pair(
            self.histories[number],
            best[best > 0],
            self.analysis.of(number),
            self.pattern.of(number),
        )

    def content_hash(self) -> str:
        """A hash of all of them in their order."""
        arrays = [choice for one in (self.analysis, self.pattern) for choice in vars(one).values()]
        return arrays_hash(*self.histories, self.best, *arrays)

    def lengths(self, prompts: Prompts, verbalizer: Verbalizer) -> np.ndarray:
        """The positions of every user's two prompts. [n]"""
        pairs = [self[number] for number in range(len(self))]
        return verbalizer.lengths(prompts.analysis, analysis_values(pairs)) + verbalizer.lengths(
            prompts.pattern, pattern_values(pairs)
        )


def analysis_values(pairs: Sequence[Pair]) -> Values:
    """Temporal analysis: of items 1 to n it asks for item n - 1, told 4 to n - 2 and n.

    Before, a worked example says that between items 1, 2 and item 4 came item 3. A history that is too
    short for one gives items 1 to n - 2, and the example's places stay empty.
    """
    values: Values = {
        name: [] for name in (BEGINNING, FOLLOWING, ANSWERED, HISTORY, NEXT, CANDIDATES)
    }
    for pair in pairs:
        items = pair.history
        start = 3 if len(items) >= _WITH_EXAMPLE else 0
        parts = {
            BEGINNING: items[: min(start, 2)],
            ANSWERED: items[2:start],
            FOLLOWING: items[start : start + 1] if start else items[:0],
            HISTORY: items[start:-2],
            NEXT: items[-1:],
            CANDIDATES: pair.analysis[0],
        }
        for name, part in parts.items():
            values[name].append(part)
    return values


def pattern_values(pairs: Sequence[Pair]) -> Values:
    """Pattern simulating: it asks for the recommender's first item, told its others in their order."""
    return {
        HISTORY: [pair.history for pair in pairs],
        PLACES: [pair.best[1:] for pair in pairs],
        CANDIDATES: [pair.pattern[0] for pair in pairs],
    }


def collate(prompts: Prompts, verbalizer: Verbalizer, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """A batch for ``Imitation``: both tasks' prompts, and the right ones' places."""
    batch = {}
    for prefix, template, values, choices in (
        (ANALYSIS, prompts.analysis, analysis_values(pairs), [pair.analysis for pair in pairs]),
        (PATTERN, prompts.pattern, pattern_values(pairs), [pair.pattern for pair in pairs]),
    ):
        own = verbalizer.batch(template, values) | right_places(choices)
        batch |= {f"{prefix}{name}": tensor for name, tensor in own.items()}
    return batch


def check_lengths(lengths: np.ndarray, share: float) -> None:
    """Raise ValueError: no history is long enough to learn from.

    Args:
        lengths: of the training histories that would be learned from.
        share: of the users whose they are (``sft_users``).
    """
    if (lengths >= SHORTEST).any():
        return
    whose = "the data have" if share == 1 else f"the share [{share}] of the users, sft_users, has"
    more = "" if share == 1 else "sft_users to more, or "
    raise ValueError(
        f"delrec_soft_prompts: [trained] learns from training histories of {SHORTEST} items or more, "
        f"and {whose} none. Set {more}delrec_soft_prompts: random."
    )


def imitation_examples(
    histories: Histories, best: np.ndarray, n_items: int, n_candidates: int, seed: int
) -> ImitationExamples:
    """The examples of the users whose histories are long enough.

    Args:
        histories: training histories.
        best: what the recommender puts first behind each of them, int64 [n_users, h], padded with 0.
        n_items: of the data set, padding counted.
        n_candidates: in each prompt; what is not given is drawn at random.
        seed: of what is drawn, and of the candidates' order.
    """
    chosen = np.flatnonzero((histories.lengths >= SHORTEST) & (best[:, 0] > 0))
    if not len(chosen):
        raise ValueError("delrec_soft_prompts: nobody who is learned from has a candidate left.")
    own, best = [histories[number] for number in chosen], best[chosen]
    generator = np.random.default_rng(seed)
    had = np.zeros((len(own), max(map(len, own))), dtype=np.int64)
    for row, items in zip(had, own, strict=True):
        row[: len(items)] = items
    missing = np.array([items[-2] for items in own])
    others = random_negatives(had, missing, n_items, n_candidates - 1, generator)
    analysis = Choice(*shuffled_in(missing, others, generator))
    more = random_negatives(
        np.concatenate([had, best], axis=1),
        best[:, 0],
        n_items,
        n_candidates - best.shape[1],
        generator,
    )
    wrong = np.concatenate([best[:, 1:], more], axis=1)
    return ImitationExamples(
        own, best, analysis, Choice(*shuffled_in(best[:, 0], wrong, generator))
    )
