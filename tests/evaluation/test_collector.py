"""What is handed to RecBole's metrics is what RecBole's own collector hands to them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.evaluator.collector import Collector

from recbole_tslrec.evaluation.collector import TopkCollector

N_ITEMS = 8
ALL_ITEMS = ["Hit", "NDCG", "ItemCoverage"]


class FakeConfig(dict):
    """As much of a config as a collector reads."""

    def __missing__(self, key):
        return None


def config(metrics: list[str]) -> FakeConfig:
    keys = {"metrics": metrics, "topk": [2, 5], "eval_args": {"mode": {"test": "full"}}}
    return FakeConfig(keys | {"device": torch.device("cpu")})


@st.composite
def batches(draw):
    """Batches of scores with many ties, some no numbers, and one or several targets a row."""
    found = []
    several = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        users = draw(st.integers(1, 4))
        score = st.sampled_from([-float("inf"), -1.0, 0.0, 0.5, float("nan")]) | st.floats(-1, 1)
        row = st.lists(score, min_size=N_ITEMS, max_size=N_ITEMS)
        scores = torch.tensor(draw(st.lists(row, min_size=users, max_size=users)))
        scores[:, 0] = -torch.inf
        target = st.sets(st.integers(1, N_ITEMS - 1), min_size=1, max_size=3 if several else 1)
        targets = draw(st.lists(target, min_size=users, max_size=users))
        pairs = [(row, item) for row, items in enumerate(targets) for item in items]
        found.append((scores, *torch.tensor(pairs).T))
    return found


@pytest.mark.parametrize(
    "metrics", [["Hit", "NDCG"], ALL_ITEMS, ["ItemCoverage"], ["GAUC"], ["GAUC", *ALL_ITEMS]]
)
@given(batches())
def test_the_same_is_collected(metrics, batches):
    collectors = Collector(config(metrics)), TopkCollector(config(metrics))
    for _ in range(2):  # a second evaluation starts anew
        structs = []
        for collector in collectors:
            for scores, rows, targets in batches:
                collector.eval_batch_collect(scores.clone(), None, rows, targets)
            structs.append(collector.get_data_struct()._data_dict)
        assert structs[0].keys() == structs[1].keys() != set()
        for name, expected in structs[0].items():
            assert structs[1][name].dtype == expected.dtype
            assert sorted(structs[1][name].tolist()) == sorted(expected.tolist())
        if all(len(rows) == len(scores) for scores, rows, _ in batches):  # no batch was RecBole's
            assert all(torch.equal(structs[1][name], structs[0][name]) for name in structs[0])


def test_an_evaluation_that_was_refused_leaves_nothing_behind():
    collector, scores = TopkCollector(config(ALL_ITEMS)), torch.rand(3, N_ITEMS)
    rows, targets = torch.arange(3), torch.tensor([1, 2, 3])
    collector.eval_batch_collect(scores, None, rows, targets)
    several = torch.tensor([0, 0, 1, 2])  # RecBole's own way of collecting
    collector.eval_batch_collect(scores, None, several, torch.tensor([1, 4, 2, 3]))
    collector.forget()
    collector.eval_batch_collect(scores, None, rows, targets)
    alone = TopkCollector(config(ALL_ITEMS))
    alone.eval_batch_collect(scores, None, rows, targets)
    for name in ("rec.topk", "rec.items"):
        assert torch.equal(collector.get_data_struct().get(name), alone.get_data_struct().get(name))
        collector.eval_batch_collect(scores, None, rows, targets)
        alone.eval_batch_collect(scores, None, rows, targets)
