"""ḡ and the constant predictor's loss, against their definitions written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    constant_loss,
    constant_prediction,
    mean_preferences,
    prior_preferences,
)

N_ITEMS = 9  # with the padding row


def make_histories(lists: list[list[int]]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in lists])])
    items = np.array([item for items in lists for item in items], dtype=np.int64)
    return Histories(np.arange(1, len(lists) + 1) * 3, offsets.astype(np.int64), items)


@st.composite
def cases(draw) -> tuple[list[list[int]], np.ndarray, int]:
    """Histories of one item or more, the items' categories, and K; categories may have no item."""
    history = st.lists(st.integers(1, N_ITEMS - 1), min_size=1, max_size=30)
    n_categories = draw(st.integers(2, 5))
    label = st.integers(0, n_categories - 1)
    labels = draw(st.lists(label, min_size=N_ITEMS - 1, max_size=N_ITEMS - 1))
    lists = draw(st.lists(history, min_size=1, max_size=6))
    return lists, np.array([-1, *labels]), n_categories


@given(cases())
def test_preferences_are_shares_of_the_whole_history(case):
    lists, labels, n_categories = case

    preferences = prior_preferences(make_histories(lists), labels, n_categories)

    wanted = np.zeros((len(lists), n_categories))
    for user, items in enumerate(lists):
        for item in items:
            wanted[user, labels[item]] += 1 / len(items)
    np.testing.assert_allclose(preferences.toarray(), wanted, atol=1e-7)
    np.testing.assert_allclose(preferences.sum(axis=1), 1, rtol=1e-6)
    assert preferences.dtype == np.float32
    assert preferences.has_canonical_format  # each category once in a row
    assert preferences.nnz == (wanted > 0).sum()


@given(cases(), st.data())
def test_constant_prediction_and_loss_follow_equation_3(case, data):
    lists, labels, n_categories = case
    preferences = prior_preferences(make_histories(lists), labels, n_categories)
    dense = preferences.toarray().astype(np.float64)
    number = st.floats(0, 1, width=32)
    other = np.array(data.draw(st.lists(number, min_size=n_categories, max_size=n_categories)))

    constant = constant_prediction(preferences)

    np.testing.assert_allclose(constant, dense.mean(axis=0), atol=1e-12)
    for guess in (constant, other):
        wanted = np.mean([sum((user - guess) ** 2) for user in dense])
        assert constant_loss(preferences, guess) == pytest.approx(wanted, abs=1e-12)
    # It is the best of all constants.
    assert constant_loss(preferences, constant) <= constant_loss(preferences, other) + 1e-12


@given(cases())
def test_mean_preferences_are_those_of_the_users_of_an_item(case):
    lists, labels, n_categories = case
    histories = make_histories(lists)
    preferences = prior_preferences(histories, labels, n_categories)

    means = mean_preferences(histories, preferences, N_ITEMS)

    dense = preferences.toarray().astype(np.float64)
    for item in range(N_ITEMS):
        # A user who has the item twice counts twice.
        users = [user for user, items in enumerate(lists) for other in items if other == item]
        wanted = dense[users].mean(axis=0) if users else np.zeros(n_categories)
        np.testing.assert_allclose(means[item], wanted, atol=1e-6)
    assert means.dtype == np.float32


def test_a_repeated_item_counts_each_time():
    preferences = prior_preferences(make_histories([[1, 2, 1, 1]]), np.array([-1, 0, 1]), 3)

    assert preferences.toarray().tolist() == [[0.75, 0.25, 0.0]]


def test_nothing_dense_is_made():
    """A dense array of users by categories would take 200 gigabytes."""
    n_users, n_categories = 50_000, 1_000_000
    items = np.arange(2 * n_users) % n_users
    histories = Histories(np.arange(n_users), np.arange(0, 2 * n_users + 1, 2), items)

    preferences = prior_preferences(histories, np.arange(n_users) * 20, n_categories)

    assert preferences.shape == (n_users, n_categories)
    assert preferences.nnz == 2 * n_users
    # Each user has two categories, each category two users: c = 1 / n_users where it is not 0.
    loss = constant_loss(preferences, constant_prediction(preferences))
    assert loss == pytest.approx(0.5 - 1 / n_users)


@pytest.mark.parametrize(
    ("label_of_2", "named"), [(-1, "item 2 .* category -1"), (2, "item 2 .* category 2")]
)
def test_an_item_without_category_is_refused(label_of_2, named):
    labels = np.array([-1, 0, label_of_2])

    with pytest.raises(ValueError, match=f"2 interactions .*0..1 .*{named}.*same dataset"):
        prior_preferences(make_histories([[1, 2], [2]]), labels, 2)


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="user 6 .*is empty"):
        prior_preferences(make_histories([[1], []]), np.array([-1, 0]), 2)
