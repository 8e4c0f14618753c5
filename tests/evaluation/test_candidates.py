"""Candidates: the top of a retriever's scores, and the merge of their new order into all scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from small_evaluations import MAX_LENGTH, make_toy
from support.stages import pipeline_of

from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.data.keys import CANDIDATES, ITEM_TEXT
from recbole_tslrec.evaluation import candidates as module
from recbole_tslrec.evaluation.candidates import (
    items_before,
    merged_scores,
    row_candidates,
    scores,
    top_items,
)
from recbole_tslrec.evaluation.ranks import target_ranks


def order(scores) -> list[int]:
    """All items by score, the padding left out; of equal ones the lower id first."""
    return sorted(range(1, len(scores)), key=lambda item: (-scores[item], item))


# Few values, so that there are ties; of both signs, large, with gaps of all sizes.
NUMBERS = st.sampled_from(
    [-1e30, -1e6, -3.0, -1e-30, 0.0, 1e-30, 2.0, 2.5, 1e6, 1e6 + 0.0625, 1e30]
)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32, max_value=2.0**120)


@st.composite
def scored(draw, numbers=NUMBERS | FINITE):
    """[2, n_items] scores, and k."""
    n_items = draw(st.integers(2, 12))
    rows = draw(
        st.lists(st.lists(numbers, min_size=n_items, max_size=n_items), min_size=2, max_size=2)
    )
    return torch.tensor(rows, dtype=torch.float32), draw(st.integers(1, 14))


@given(scored(), st.data())
def test_top_items_beside_a_naive_loop(drawn, data):
    scores, k = drawn
    ids = st.integers(0, scores.shape[1] - 1)
    seen = data.draw(st.lists(st.lists(ids, min_size=3, max_size=3), min_size=2, max_size=2))
    before = scores.clone()
    for left_out in (None, torch.tensor(seen)):
        found = top_items(scores, k, left_out)
        assert torch.equal(scores, before) and found.shape == (2, k)
        for row in range(2):
            out = set() if left_out is None else set(seen[row])
            expected = [item for item in order(scores[row].tolist()) if item not in out][:k]
            assert found[row].tolist() == expected + [0] * (k - len(expected))


def test_a_model_that_changes_what_it_scores_leaves_the_rows_as_they_are():
    class Shortens:
        """As RecBole's HRM."""

        def full_sort_predict(self, interaction):
            interaction["item_length"][:] = 2
            interaction["item_id_list"].zero_()
            return torch.zeros(len(interaction) * 5)

    given = {"item_length": torch.tensor([6, 3]), "item_id_list": torch.ones(2, 6)}
    rows = Interaction({name: column.clone() for name, column in given.items()})
    assert scores(Shortens(), rows).shape == (2, 5)
    assert all(torch.equal(rows[name], column) for name, column in given.items())


def test_an_item_that_is_not_to_be_ranked_is_no_candidate():
    scores = torch.tensor([[9.0, -torch.inf, 1.0, 2.0]])
    assert top_items(scores, 3).tolist() == [[3, 2, 0]]


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_are_refused(wrong):
    scores = torch.zeros(2, 4)
    scores[1, 2] = wrong
    with pytest.raises(ValueError, match="diverged"):
        top_items(scores, 2)
    with pytest.raises(ValueError, match="diverged"):
        merged_scores(scores, torch.ones(2, 1, dtype=torch.int64), torch.zeros(2, 1))
    scores[1, 2] = 0
    with pytest.raises(ValueError, match="new score is NaN"):
        merged_scores(scores, torch.ones(2, 1, dtype=torch.int64), torch.full((2, 1), torch.nan))
    scores[1, 2] = torch.finfo(torch.float32).max
    with pytest.raises(ValueError, match="diverged"):  # nothing finite is above it
        merged_scores(scores, torch.ones(2, 1, dtype=torch.int64), torch.zeros(2, 1))


# ---- the merge ------------------------------------------------------------------------------------


@given(scored(), st.booleans(), st.data())
def test_merged_scores_beside_a_naive_loop(drawn, unseen, data):
    scores, k = drawn
    left_out = torch.tensor([[1], [1]]) if unseen else None  # ahead of them, maybe, and stays seen
    found = top_items(scores, k, left_out)
    new = data.draw(st.lists(st.lists(NUMBERS, min_size=k, max_size=k), min_size=2, max_size=2))
    merged = merged_scores(scores, found, torch.tensor(new))
    assert merged.isfinite().all() and torch.equal(merged[:, 0], scores[:, 0])
    for row in range(2):
        real = [item for item in found[row].tolist() if item]
        by_new = sorted(range(len(real)), key=lambda place: (-new[row][place], place))
        first = [real[place] for place in by_new]
        others = [item for item in order(scores[row].tolist()) if item not in first]
        assert order(merged[row].tolist()) == first + others
        assert len(set(merged[row][first].tolist())) == len(first)
        assert torch.equal(merged[row][others], scores[row][others])


def ranks_of(target: int, scores: torch.Tensor) -> torch.Tensor:
    """Of one target in every row, among all items."""
    nothing_seen = torch.zeros(0, dtype=torch.int64)
    targets = torch.full((len(scores),), target)
    return target_ranks(scores.clone(), targets, (nothing_seen, nothing_seen))[0]


@given(scored())
def test_with_the_retrievers_own_scores_its_ranking_stays(drawn):
    scores, k = drawn
    found = top_items(scores, k)
    merged = merged_scores(scores, found, scores.gather(1, found))
    for target in range(1, scores.shape[1]):
        assert torch.equal(*(ranks_of(target, each) for each in (merged, scores)))


@given(scored(), st.data())
def test_a_target_that_is_no_candidate_keeps_its_rank(drawn, data):
    scores, k = drawn
    found = top_items(scores, k)
    new = data.draw(st.lists(st.lists(NUMBERS, min_size=k, max_size=k), min_size=2, max_size=2))
    merged = merged_scores(scores, found, torch.tensor(new))
    for target in range(1, scores.shape[1]):
        ranks = [ranks_of(target, each) for each in (scores, merged)]
        outside = ~(found == target).any(dim=1)
        assert torch.equal(ranks[0][outside], ranks[1][outside])


@pytest.mark.parametrize("size", [0.0, 1.0, 1e6, 2.0**24, -(2.0**24), 1e8, -1e8, 1e20, -1e20, 1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_steps_are_not_rounded_away(size, dtype):
    generator = torch.Generator().manual_seed(0)
    scores = (size + torch.randn(4, 3000, generator=generator, dtype=torch.float64)).to(dtype)
    found = top_items(scores, 1000)
    new = torch.randn(4, 1000, generator=generator)
    merged = merged_scores(scores, found, new)
    assert merged.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    best = merged.topk(1000, dim=1).indices
    assert torch.equal(best, found.gather(1, new.argsort(dim=1, descending=True)))
    if abs(size) < 1e6:
        highest = merged.topk(1).values - scores.to(merged.dtype).max(dim=1, keepdim=True).values
        assert torch.allclose(highest, torch.full_like(highest, 1000), atol=1e-3)


# ---- rows of a data set ---------------------------------------------------------------------------


class ByPosition:
    """Stands for a trained model: the item list's last item is best, then the others by id."""

    n_items = 31

    def parameters(self):
        return iter([torch.zeros(1)])

    def full_sort_predict(self, interaction):
        lengths, lists = interaction["item_length"], interaction["item_id_list"]
        scores = -torch.arange(31.0).repeat(len(lengths), 1)
        last = lists.gather(1, lengths[:, None] - 1)
        return scores.scatter(1, last, 1.0).flatten()  # as some of RecBole's models give them


@pytest.mark.parametrize("longest", [2, 50])
@pytest.mark.parametrize("rows_at_once", [1, 7, 10_000])
def test_rows_block_by_block(small_data, settings, monkeypatch, rows_at_once, longest):
    """Lists are cut to two items, and what a user had before is known in full all the same."""
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    pipeline = pipeline_of(settings | {"MAX_ITEM_LIST_LENGTH": longest}, small_data)
    dataset, histories = pipeline.dataset, training_histories(pipeline.dataset)
    before, rows = items_before(dataset, histories), dataset.inter_feat
    with_all = row_candidates(ByPosition(), rows, 3)
    unseen = row_candidates(ByPosition(), rows, 28, before)
    assert with_all.dtype == unseen.dtype == torch.int32
    number: dict[int, int] = {}
    for row, user in enumerate(rows[dataset.uid_field].tolist()):
        history = histories[int(np.searchsorted(histories.user_ids, user))].tolist()
        number[user] = number.get(user, 0) + 1
        had = history[: number[user]]
        assert history[number[user]] == rows[dataset.iid_field][row]
        last = had[-1]
        assert with_all[row].tolist() == [last, *(i for i in range(1, 31) if i != last)][:3]
        expected = [item for item in range(1, 31) if item not in had][:28]
        assert unseen[row].tolist() == expected + [0] * (28 - len(expected))


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "Caser", "FMLPRec"])
def test_a_block_is_cut_where_the_backbone_does_not_look_at_padding(name, monkeypatch):
    toy = make_toy(name)
    rows = toy.loaders[2]._dataset.inter_feat
    whole = toy.model.full_sort_predict(rows).view(len(rows), -1)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    widths = []
    plain = toy.model.full_sort_predict

    def noting(block):
        widths.append(block["item_id_list"].shape[1])
        return plain(block)

    monkeypatch.setattr(toy.model, "full_sort_predict", noting)
    assert torch.equal(row_candidates(toy.model, rows, 5).long(), top_items(whole, 5))
    cut = name in ("SASRec", "GRU4Rec")
    assert (min(widths) < MAX_LENGTH) == cut


def test_the_shared_keys_take_their_defaults():
    for group in (ITEM_TEXT, CANDIDATES):
        for key in group.keys:
            key.check(key.default)
    with pytest.raises(ValueError, match="candidates: .*one of all, unseen"):
        CANDIDATES.keys[1].check("seen")
    with pytest.raises(ValueError, match="item_text: .*column"):
        ITEM_TEXT.keys[0].check([])
