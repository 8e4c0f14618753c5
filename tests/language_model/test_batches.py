import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.language_model.batches import PositionBudgetSampler

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=120).map(np.array)


def next_grid_length(length: int) -> int:
    """The next of 1, 2, ..., 16, 18, ..., 32, 36, ..., 64, 72, ...: eight steps to a doubling."""
    step = 1
    while 16 * step <= length:
        step *= 2
    while length % step:
        length += 1
    return length


@given(LENGTHS, st.integers(1, 500), st.integers(0, 5))
def test_every_example_once_within_the_budget_and_always_as_many_batches(lengths, budget, epoch):
    sampler = PositionBudgetSampler(lengths, budget, seed=1)
    sampler.set_epoch(epoch)
    batches = sampler.batches()
    assert len(batches) == len(sampler)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
    # By length: on the grid a batch begins where the one before ends.
    grid = np.array([next_grid_length(length) for length in lengths])
    ordered = sorted(batches, key=lambda batch: (grid[batch].min(), grid[batch].max()))
    for short, long in zip(ordered, ordered[1:], strict=False):
        assert grid[short].max() <= grid[long].min()


@given(LENGTHS, st.integers(1, 500), st.integers(2, 4))
def test_each_batch_has_the_fewest_and_large_ones_stay(lengths, budget, least):
    before = PositionBudgetSampler(lengths, budget, 1).batches()
    batches = PositionBudgetSampler(lengths, budget, 1, least=least).batches()
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert min(map(len, batches)) >= min(least, len(lengths))
    if min(map(len, before)) >= least:
        assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in before]
    # A small batch is filled up, and none beyond that.
    assert all(
        len(batch) < 2 * least or len(batch) * lengths[batch].max() <= budget for batch in batches
    )


@given(LENGTHS, st.integers(1, 500), st.integers(2, 4))
def test_processes_share_every_batch(lengths, budget, processes):
    whole = PositionBudgetSampler(lengths, budget, seed=1).batches()
    shares = [
        list(PositionBudgetSampler(lengths, budget, 1, process, processes))
        for process in range(processes)
    ]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert len({len(part) for part in parts}) == 1 and parts[0]
        counted = [example for part in parts for example, weight in part if weight]
        assert sorted(counted) == sorted(batch)


def test_shuffled_by_epoch_and_the_same_for_the_same_seed():
    lengths = np.random.default_rng(0).integers(3, 40, size=500)
    one, again = (PositionBudgetSampler(lengths, 256, seed=1) for _ in range(2))
    for sampler in (one, again):
        sampler.set_epoch(2)
    as_lists = [[batch.tolist() for batch in sampler.batches()] for sampler in (one, again)]
    assert as_lists[0] == as_lists[1]
    one.set_epoch(3)
    together = [
        {frozenset(batch.tolist()) for batch in sampler.batches()} for sampler in (one, again)
    ]
    assert len(together[0] & together[1]) < len(one) / 4


def test_padding_is_little_and_counted():
    lengths = np.random.default_rng(0).geometric(0.1, size=2000) + 3
    sampler = PositionBudgetSampler(lengths, 1024, seed=1)
    padded = sum(len(batch) * lengths[batch].max() for batch in sampler.batches())
    assert sampler.padding_share() == pytest.approx(1 - lengths.sum() / padded)
    assert sampler.padding_share() < 0.1
    more = sampler.positions_an_epoch((20, 2)) - sampler.positions_an_epoch()
    assert more == 20 * len(sampler) + 2 * 2000
