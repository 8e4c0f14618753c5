from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.data.import_.interactions import Interactions

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60).map(sorted)


def interactions_of(pairs) -> Interactions:
    tokens = np.array([f"t{number}" for number in range(7)], dtype=object)
    user, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return Interactions(tokens, tokens, user, item)


def naive_k_core(pairs, min_user: int, min_item: int):
    """Take out one pair that must go, until there is none."""
    pairs = list(pairs)
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        gone = [p for p in pairs if users[p[0]] < min_user or items[p[1]] < min_item]
        if not gone:
            return pairs
        pairs.remove(gone[0])


@given(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_k_core_is_what_is_left_when_one_after_the_other_goes(pairs, min_user, min_item):
    core = interactions_of(pairs).k_core(min_user, min_item)
    assert list(zip(core.user, core.item, strict=True)) == naive_k_core(pairs, min_user, min_item)


@given(PAIRS)
def test_places_count_from_zero_for_every_user(pairs):
    interactions = interactions_of(pairs)
    seen = Counter()
    expected = []
    for user, _ in pairs:
        expected.append(seen[user])
        seen[user] += 1
    assert interactions.places.tolist() == expected
    assert set(interactions.used_items) == {f"t{item}" for _, item in pairs}
