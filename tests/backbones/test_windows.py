"""Windows: each target once and with its context; batches: each window once and of equal size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.backbones.whole_sequences.windows import (
    count_batches,
    cut_windows,
    form_batches,
)
from recbole_tslrec.data.histories import Histories

lengths_of_histories = st.lists(st.integers(1, 60), min_size=1, max_size=30)
shares = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


def make_histories(lengths: list[int]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Histories(10 + np.arange(len(lengths)), offsets, 100 + np.arange(offsets[-1]))


@given(lengths_of_histories, st.integers(1, 20), shares)
def test_every_target_counts_once_and_has_its_context(lengths, max_length, min_context):
    histories = make_histories(lengths)
    windows = cut_windows(histories, max_length, min_context)
    counted = []
    for user, start, length, skipped in zip(
        windows.users, windows.starts, windows.lengths, windows.skipped, strict=True
    ):
        first, end = histories.offsets[user], histories.offsets[user + 1]
        assert first <= start and start + length < end  # inputs and targets are the user's own
        assert 1 <= length <= max_length and 0 <= skipped < length
        for position in range(skipped, length):
            counted.append(start + position + 1)
            assert position + 1 >= min(min_context * max_length, start + position + 1 - first)
            if min_context == 1:  # RecBole's prefix
                assert position + 1 == min(max_length, start + position + 1 - first)
    targets = np.setdiff1d(np.arange(len(histories.items)), histories.offsets)
    assert sorted(counted) == targets.tolist()


def test_histories_that_fit_are_one_window_and_longer_ones_are_spread_evenly():
    histories = make_histories([1, 2, 11, 12, 26])
    windows = cut_windows(histories, 10, 0.5)
    assert windows.users.tolist() == [1, 2, 3, 3, 4, 4, 4, 4]
    assert windows.lengths.tolist() == [1, 10, 10, 10, 10, 10, 10, 10]
    starts = windows.starts - histories.offsets[windows.users]
    assert starts.tolist() == [0, 0, 0, 1, 0, 5, 10, 15]
    assert windows.n_targets.tolist() == [1, 10, 10, 1, 10, 5, 5, 5]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_context_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="share of context"):
        cut_windows(make_histories([3]), 10, share)


@given(
    lengths_of_histories.filter(lambda lengths: max(lengths) > 1),
    st.integers(1, 20),
    shares,
    st.integers(1, 300),
    st.integers(0, 3),
)
def test_batches_hold_every_window_once_and_about_the_targets_asked_for(
    lengths, max_length, min_context, targets_per_batch, seed
):
    windows = cut_windows(make_histories(lengths), max_length, min_context)
    n_batches = count_batches(windows, targets_per_batch)
    order = np.random.default_rng(seed).permutation(len(windows))
    batches = form_batches(windows, order, n_batches)

    assert len(batches) == n_batches and all(len(batch) for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    sizes = [windows.n_targets[batch].sum() for batch in batches]
    largest = windows.n_targets.max()
    assert max(sizes) < max(targets_per_batch, 2 * largest) + largest


def test_batches_have_little_padding_and_change_with_the_order():
    random = np.random.default_rng(0)
    windows = cut_windows(make_histories(random.geometric(0.1, 5000).tolist()), 50, 0.5)
    n_batches = count_batches(windows, 256)
    first, second = (
        form_batches(windows, random.permutation(len(windows)), n_batches) for _ in range(2)
    )
    padded = sum(windows.lengths[batch].max() * len(batch) for batch in first)
    assert padded < 1.25 * windows.lengths.sum()
    assert {tuple(sorted(batch)) for batch in first}.isdisjoint(tuple(sorted(b)) for b in second)
