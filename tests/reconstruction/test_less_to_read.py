"""What makes fine-tuning shorter: a share of the users."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.stages import STAGES, pipeline_of

from recbole_tslrec.data.histories import Histories, drawn_users

TUNING = STAGES["fine_tuning"]


def test_a_share_of_the_users_is_tuned_on(small_data, settings):
    whole = pipeline_of(settings, small_data).stage(TUNING)
    assert "sft_users" not in whole.made_from["settings"]  # what was stored before stays valid
    histories, preferences = whole.examples()
    part = pipeline_of(settings | {"sft_users": 0.25}, small_data).stage(TUNING)
    of_some, their_preferences = part.examples()
    assert len(of_some) == their_preferences.shape[0] == round(len(histories) / 4)
    row = {user: number for number, user in enumerate(histories.user_ids)}
    for number, user in enumerate(of_some.user_ids):
        assert (of_some[number] == histories[row[user]]).all()
        assert (their_preferences[number] != preferences[row[user]]).nnz == 0


@given(st.sets(st.text("ab1", min_size=1), min_size=1), st.floats(0.01, 1), st.data())
def test_the_draw_does_not_depend_on_the_order_of_the_file(tokens, share, data):
    first = data.draw(st.permutations(sorted(tokens)))
    second = data.draw(st.permutations(sorted(tokens)))
    drawn = [drawn_users(np.array(order, dtype=object), share, 3) for order in (first, second)]
    assert {first[i] for i in drawn[0]} == {second[i] for i in drawn[1]}
    assert len(drawn[0]) == max(round(share * len(tokens)), 1)
    assert (np.diff(drawn[0]) > 0).all()
    everybody = drawn_users(np.array(first, dtype=object), 1.0, 3)
    assert everybody.tolist() == list(range(len(tokens)))


@given(st.lists(st.lists(st.integers(1, 9), min_size=1), min_size=1), st.data())
def test_some_histories_are_those_of_their_users(rows, data):
    lengths = [len(row) for row in rows]
    histories = Histories(
        np.arange(len(rows)) * 2 + 1, np.cumsum([0, *lengths]), np.concatenate(rows)
    )
    chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(rows))), min_size=1)))
    some = histories.of(np.array(chosen))
    assert [some[i].tolist() for i in range(len(some))] == [rows[i] for i in chosen]
    assert some.user_ids.tolist() == [2 * i + 1 for i in chosen]
