"""Items that did not come next: what a training example has beside its target."""

from __future__ import annotations

import numpy as np


def random_negatives(
    had: np.ndarray, targets: np.ndarray, n_items: int, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Items drawn uniformly from those that neither came before nor are the target.

    Among themselves they may be equal, as in LlamaRec's examples (arXiv 2311.02089, the authors' code).

    Args:
        had: int64 [B, any], what came before each target, in any order, padded with 0.
        targets: int64 [B].
        n_items: of the data set, the padding item 0 counted.
        count: how many for each target.

    Returns:
        int64 [B, count]; 0 where no other item is left.
    """
    # All rows at once: a row's items lie between two multiples of n_items.
    row = np.arange(len(targets))[:, None] * n_items
    taken = np.concatenate([had, targets[:, None]], axis=1)
    taken = np.unique((taken + row)[taken > 0])
    of_row = taken // n_items
    n_taken = np.bincount(of_row, minlength=len(targets))
    first = np.cumsum(n_taken) - n_taken
    # How many free items lie below each taken one; along a row it rises, or stays.
    free_below = taken % n_items - 1 - (np.arange(len(taken)) - first[of_row])
    n_free = n_items - 1 - n_taken
    drawn = generator.integers(0, np.maximum(n_free, 1)[:, None], size=(len(targets), count))
    # The free item of that number stands behind the taken ones that have as many free ones below.
    ahead = np.searchsorted(free_below + of_row * n_items, drawn + row, side="right")
    return np.where(n_free[:, None] > 0, drawn + 1 + ahead - first[:, None], 0)


def shuffled_in(
    targets: np.ndarray, negatives: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates in random order, the target among them.

    Args:
        targets: int64 [B].
        negatives: int64 [B, n]; 0 is none.

    Returns:
        int64 [B, n + 1], those that are none last; and the target's place in each row, int64 [B].
    """
    candidates = np.concatenate([targets[:, None], negatives], axis=1)
    order = random_order(candidates, generator.random(candidates.shape))
    return np.take_along_axis(candidates, order, axis=1), (order == 0).argmax(axis=1)


def random_order(candidates: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """An order of each row's candidates, those that are none (0) last.

    Args:
        candidates: int64 [B, k].
        draws: [B, k] in [0, 1), one a candidate.

    Returns:
        int64 [B, k], places in ``candidates``.
    """
    return np.where(candidates > 0, draws, 2).argsort(axis=1, kind="stable")
