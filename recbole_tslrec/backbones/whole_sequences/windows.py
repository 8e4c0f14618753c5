"""Which stretches of the histories pass through the network, and which of them together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_tslrec.data.histories import Histories

# Batches are cut from pools of shuffled windows, sorted by length within a pool: large enough for
# little padding, small enough that what meets in a batch changes from epoch to epoch.
_BATCHES_PER_POOL = 16


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of histories; the input at each position has its next item as target.

    Attributes:
        users: int64 ``[n_windows]``, each window's user, as a position in the histories.
        starts: int64 ``[n_windows]``, where its first input is in the histories' ``items``.
        lengths: int64 ``[n_windows]``, its number of inputs, from 1 to the longest allowed.
        skipped: int64 ``[n_windows]``, how many of its first positions are context alone: their
            targets count in the window before. Less than ``lengths``.
    """

    users: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    skipped: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_targets(self) -> np.ndarray:
        """How many targets count in each window, int64 ``[n_windows]``, at least 1."""
        return self.lengths - self.skipped


def cut_windows(histories: Histories, max_length: int, min_context: float) -> Windows:
    """Cuts every history into as few windows as the context asks for, spread evenly over it.

    Every item but a user's first is a target in exactly one window. The number of inputs up to and
    including the one before it is at least ``min_context * max_length``, or all there are.

    Args:
        histories: the training histories. One of a single item has no target and no window.
        max_length: the most inputs of a window, ``MAX_ITEM_LIST_LENGTH``.
        min_context: from 0 to 1. 1 gives every target the ``max_length`` items before it, which is
            RecBole's prefix, at RecBole's cost for histories that are longer.

    Raises:
        ValueError: ``min_context`` is not between 0 and 1.
    """
    if not 0 <= min_context <= 1:
        raise ValueError(f"The share of context [{min_context}] is not a number in [0, 1].")
    stride = max_length - max(int(np.ceil(min_context * max_length)) - 1, 0)
    inputs = np.maximum(histories.lengths - 1, 0)
    beyond = np.maximum(inputs - max_length, 0)  # what the first window leaves over
    steps = -(-beyond // stride)
    counts = np.where(inputs > 0, 1 + steps, 0)

    users = np.repeat(np.arange(len(histories)), counts)
    number = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    steps, beyond = np.maximum(steps, 1)[users], beyond[users]
    shift = number * beyond // steps  # the last window ends where the history does
    shift_before = np.maximum(number - 1, 0) * beyond // steps
    return Windows(
        users=users,
        starts=histories.offsets[users] + shift,
        lengths=np.minimum(inputs[users], max_length),
        skipped=np.where(number > 0, max_length - (shift - shift_before), 0),
    )


def count_batches(windows: Windows, targets_per_batch: int) -> int:
    """The number of batches of about ``targets_per_batch`` targets, RecBole's steps in an epoch."""
    total = int(windows.n_targets.sum())
    # A window is never divided, so batches are at least as large as the largest window.
    return max(min(-(-total // targets_per_batch), total // int(windows.n_targets.max())), 1)


def form_batches(windows: Windows, order: np.ndarray, n_batches: int) -> list[np.ndarray]:
    """Divides the windows into batches of nearly equally many targets and of similar lengths.

    Args:
        windows: the windows.
        order: int64 ``[n_windows]``, a permutation; where lengths leave a choice, it decides.
        n_batches: at most :func:`count_batches`'s for whatever size.

    Returns:
        ``n_batches`` arrays of positions in ``windows``, none empty, which together are ``order``.
    """
    n_targets, lengths = windows.n_targets, windows.lengths
    total = n_targets.sum()
    n_pools = -(-n_batches // _BATCHES_PER_POOL)
    pool = (np.cumsum(n_targets[order]) - 1) * n_pools // total
    # Every other pool is sorted downwards, so no batch across two pools mixes short and long.
    by_length = order[np.lexsort((np.where(pool % 2, -1, 1) * lengths[order], pool))]
    batch = (np.cumsum(n_targets[by_length]) - 1) * n_batches // total
    return np.split(by_length, np.flatnonzero(np.diff(batch)) + 1)
