import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.evaluation.metrics import metrics
from recbole_tslrec.evaluation.slices import quantile_groups, sliced_metrics, slices


def ranks_of(n: int, seed: int, **changes) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    ranks = {name: draw.integers(1, 20, n) for name in ("rank", "rank_masked")}
    ranks |= {name: draw.integers(0, 9, n) for name in ("item_count", "training_length")}
    return ranks | {"repeated": draw.random(n) < 0.3} | changes


@given(st.integers(1, 60), st.integers(0, 99))
def test_each_way_to_tell_targets_apart_covers_each_once(n, seed):
    ranks = ranks_of(n, seed)
    found = slices(ranks)
    for by in {by for by, _ in found}:
        covered = sum(mask.astype(int) for (one, _), mask in found.items() if one == by)
        assert covered.tolist() == [1] * n
    table = sliced_metrics(ranks)
    for (_, row), mask in zip(table.iterrows(), found.values(), strict=True):
        assert row["users"] == mask.sum() > 0
        kept = [rank for rank, one in zip(ranks["rank_masked"], mask, strict=True) if one]
        by_hand = metrics(np.array(kept))
        assert row["masked ndcg@10"] == pytest.approx(by_hand["ndcg@10"])


def test_repeated_targets_are_told_from_novel_ones():
    ranks = ranks_of(4, 0, repeated=np.array([True, False, False, True]))
    found = slices(ranks)
    assert found["target", "repeated"].tolist() == [True, False, False, True]
    assert found["target", "novel"].tolist() == [False, True, True, False]


def test_results_of_before_have_no_such_slice():
    ranks = ranks_of(4, 0)
    del ranks["repeated"]
    assert not any(by == "target" for by, _ in slices(ranks))


def test_a_group_is_named_by_its_least_and_most():
    ranks = ranks_of(8, 0, item_count=np.array([1, 1, 2, 3, 5, 8, 8, 1300]))
    names = [name for by, name in slices(ranks) if by.startswith("training interactions")]
    assert names == ["1", "2–3", "5–8", "1,300"] or names[-1].endswith("1,300")


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([1] * 80 + [*range(2, 22)], ["1", "2–21"]),
        ([*range(1, 7)] + [9] * 80, ["1–6", "9"]),
        ([1] * 40 + [2] * 60, ["1", "2"]),
        # As before: of the least value there are many, and it does not stand alone.
        ([3] * 35 + [4] * 20 + [5] * 30 + [8] * 15, ["3–4", "5", "8"]),
        ([*range(1, 101)], ["1–25", "26–50", "51–75", "76–100"]),
    ],
)
def test_a_value_that_most_have_is_a_group(values, groups):
    found = slices(ranks_of(len(values), 0, item_count=np.array(values)))
    assert [name for by, name in found if by.startswith("training interactions")] == groups


def test_equal_values_are_one_group():
    assert quantile_groups(pd.Series([2.0, 2.0, 2.0]), 4).tolist() == [0, 0, 0]
