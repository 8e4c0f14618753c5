"""The tests against scipy and against their definitions; what cannot be tested is said."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recbole_tslrec.evaluation.significance import (
    Comparison,
    Outcome,
    bootstrap_interval,
    compare_seeds,
    compare_users,
    correct,
    holm,
)

p_values = st.lists(st.floats(0, 1), max_size=8)


@given(p_values, st.floats(0.001, 0.999))
def test_holm_against_its_step_down_definition(values, level):
    rejected, remaining = set(), list(enumerate(values))
    while remaining:
        place, smallest = min(remaining, key=lambda pair: pair[1])
        if smallest * len(remaining) > level:
            break
        rejected.add(place)
        remaining.remove((place, smallest))
    assert set(np.flatnonzero(holm(values) <= level)) == rejected


@given(p_values, st.randoms())
def test_holm_does_not_depend_on_the_order(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert np.array_equal(holm([values[i] for i in order]), holm(values)[order])


def test_holm_on_known_numbers():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def users(values, names=None):
    index = names or [(f"u{i}", "i") for i in range(len(values))]
    return pd.Series(values, index=pd.MultiIndex.from_tuples(index))


def test_users_against_scipy():
    generator = np.random.default_rng(0)
    ours, theirs = generator.random(50), generator.random(50)
    outcome = compare_users(users(ours), users(theirs))
    assert outcome == Outcome(50, float(stats.ttest_1samp(ours - theirs, 0).pvalue))


def test_users_that_differ_are_said_and_left_out():
    ours = users([0.0, 1.0, 0.5, 0.2], [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")])
    theirs = users([9.0, 0.9, 0.1, 0.6], [("c", "2"), ("b", "1"), ("a", "1"), ("d", "1")])
    outcome = compare_users(ours, theirs)
    assert outcome.n == 3 and "3 are in both, of 4 and 4" in outcome.note
    assert outcome.p_value == stats.ttest_rel([0.0, 1.0, 0.2], [0.1, 0.9, 0.6]).pvalue
    outcome = compare_users(ours, users([1.0], [("z", "1")]))
    assert outcome.p_value is None and "0 common users: there is no test" in outcome.note


def test_seeds_against_scipy():
    ours, theirs = {1: 0.3, 2: 0.5, 3: 0.4}, {3: 0.35, 2: 0.41, 1: 0.28}
    expected = stats.ttest_rel([0.3, 0.5, 0.4], [0.28, 0.41, 0.35]).pvalue
    assert compare_seeds(ours, theirs) == Outcome(3, float(expected))
    fewer = compare_seeds(ours, {1: 0.28, 2: 0.41, 9: 1.0})
    assert fewer.n == 2 and "seeds of both only: 2" in fewer.note
    apart = compare_seeds(ours, {7: 0.2, 8: 0.25})
    expected = stats.ttest_ind([0.3, 0.5, 0.4], [0.2, 0.25], equal_var=False).pvalue
    assert apart.p_value == float(expected) and "Welch" in apart.note


@pytest.mark.parametrize(
    ("ours", "theirs", "note"),
    [
        ({1: 0.3}, {1: 0.2}, "1 common seed: there is no test"),
        ({1: 0.3, 2: 0.3}, {1: 0.3, 2: 0.3}, "same for all seeds"),
        ({1: 0.3, 2: 0.4}, {1: 0.1, 2: 0.2}, "same for all seeds"),
        ({1: 0.3, 2: 0.3}, {3: 0.2, 4: 0.2}, "Neither varies"),
        # Not Welch's over all seeds: the difference that is shown is that of the common one.
        ({1: 0.1, 2: 0.3, 3: 0.3}, {1: 0.11, 4: 0.1, 5: 0.1}, "1 common seed: there is no test"),
        ({1: 0.3, 2: 0.3}, {3: 0.2}, "0 common seeds: there is no test"),
    ],
)
def test_what_cannot_be_tested_is_said(ours, theirs, note):
    outcome = compare_seeds(ours, theirs)
    assert outcome.p_value is None and note in outcome.note and not outcome.significant


def test_a_test_that_was_not_made_is_not_counted():
    untested = Outcome(1, None, "1 common seed: there is no test.")
    comparisons = [
        Comparison("d", "b", "x", "y", "m", difference, None, users_outcome, untested)
        for difference, users_outcome in (
            (0.1, Outcome(9, 0.02)),
            (-0.1, Outcome(9, 0.001)),
            (0.0, untested),
        )
    ]
    corrected = correct(comparisons)
    assert [one.users.corrected for one in corrected] == [0.02, 0.002, None]
    assert [one.mark for one in corrected] == ["*", "↓*", ""]
    assert all(one.seeds.corrected is None for one in corrected)


def test_the_bootstrap_against_scipy():
    values = np.random.default_rng(0).integers(0, 4, 400) / 3
    ours = bootstrap_interval(values, n_resamples=50_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, batch=5_000, method="percentile", random_state=1
    ).confidence_interval
    # Ends of 50,000 draws each have a standard error of .0002.
    assert ours == pytest.approx(tuple(theirs), abs=2e-3)
    assert np.isnan(bootstrap_interval(np.array([1.0]))).all()
