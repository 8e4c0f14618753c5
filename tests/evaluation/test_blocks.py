"""Blocks of users give RecBole's scores and metrics, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import write_atomic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from small_evaluations import MAX_LENGTH, N_ITEMS, make_toy, rows_to_evaluate
from support.ranks import naive_rank

from recbole_tslrec.backbones.registry import backbone_of
from recbole_tslrec.evaluation import blocks
from recbole_tslrec.evaluation.blocks import BlockDataLoader, cut_lists
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

CUT = ["SASRec", "GRU4Rec", "TSLRec_SASRec", "CI_GRU4Rec"]
WHOLE = ["Caser", "FMLPRec"]
# A folder a test, not an example: the data set stays as it is.
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
RANKED = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}


@torch.no_grad()
def scores_by_row(model, loader) -> torch.Tensor:
    """The scores in the order of the data set's rows."""
    scores = torch.cat([model.full_sort_predict(batch) for batch, *_ in loader])
    order = getattr(loader, "order", np.arange(len(scores)))
    return scores[np.argsort(order)]


@pytest.mark.parametrize("name", CUT + WHOLE)
def test_scores_metrics_and_ranks_are_those_of_recboles_batches(name, monkeypatch):
    toy = make_toy(name)

    @few
    @given(rows_to_evaluate(), st.sampled_from([1, 2, 5, 128]))
    def check(rows, rows_of_a_block):
        monkeypatch.setattr(blocks, "_ROWS_ON_CPU", rows_of_a_block)
        loader = toy.with_rows(rows)
        expected = scores_by_row(toy.model, loader)
        found = scores_by_row(toy.model, BlockDataLoader.of(loader, toy.model))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        metrics = [one.evaluate(loader, load_best_model=False) for one in (toy.recbole, toy.ours)]
        assert dict(metrics[1]) == pytest.approx(dict(metrics[0]), abs=1e-12)
        ranks = rank_test_targets(toy.model, toy.loaders[0], None, loader)
        targets = rows["item_id"].tolist()
        assert ranks.rank.tolist() == [
            naive_rank(row.tolist(), target, set())
            for row, target in zip(expected, targets, strict=True)
        ]

    check()


@pytest.mark.parametrize(("name", "cut"), [(name, name in CUT) for name in CUT + WHOLE])
def test_what_is_cut_and_what_is_not(name, cut, monkeypatch):
    monkeypatch.setattr(blocks, "_ROWS_ON_CPU", 3)
    toy = make_toy(name)
    loader = BlockDataLoader.of(toy.loaders[2], toy.model)
    widths = [rows["item_id_list"].shape[1] for rows, *_ in loader]
    longest = [int(rows["item_length"].max()) for rows, *_ in loader]
    assert min(longest) < MAX_LENGTH
    if cut:
        assert widths == longest == sorted(longest, reverse=True)
    else:
        assert set(widths) == {MAX_LENGTH} and loader.order.tolist() == list(range(13))


def test_a_transform_may_move_items_so_nothing_is_cut():
    toy = make_toy("SASRec", transform="inverse_itemseq")
    ((rows, *_),) = BlockDataLoader.of(toy.loaders[2], toy.model)
    assert rows["item_id_list"].shape[1] == MAX_LENGTH


def test_what_draws_once_a_batch_gets_recboles_own_batches(monkeypatch):
    monkeypatch.setattr(blocks, "_ROWS_ON_CPU", 3)
    toy = make_toy("BERT4Rec", eval_batch_size=5)
    batches = [
        rows["user_id"].tolist() for rows, *_ in BlockDataLoader.of(toy.loaders[2], toy.model)
    ]
    assert batches == [rows["user_id"].tolist() for rows, *_ in toy.loaders[2]]
    assert [len(batch) for batch in batches] == [5, 5, 3]


def test_a_model_that_only_stands_on_a_backbone_is_none(small_data, settings):
    experiment = run_experiment("E4SRec", small_data, config_dict=settings)
    assert backbone_of(experiment.trainer.model) is None
    loader = BlockDataLoader.of(experiment.test_data, experiment.trainer.model)
    assert [rows["item_id_list"].shape for rows, *_ in loader] == [(40, 6)]


@pytest.mark.parametrize("name", ["SASRec", "Caser"])
def test_the_scores_of_a_block_have_bounded_memory(name, monkeypatch):
    toy = make_toy(name)
    monkeypatch.setattr(blocks, "SCORE_BYTES", 4 * N_ITEMS * 3)
    sizes, original = [], toy.model.full_sort_predict

    def noted(rows):
        sizes.append(len(rows))
        return original(rows)

    toy.model.full_sort_predict = noted
    toy.ours.evaluate(toy.loaders[2], load_best_model=False)
    assert sum(sizes) == 13 and max(sizes) <= 3 and len(sizes) == 5
    del sizes[:]
    rank_test_targets(toy.model, *toy.loaders)
    assert sum(sizes) == 13 and max(sizes) <= 3


def test_a_million_items(monkeypatch):
    """No more than 128 MiB of scores at a time, where RecBole's batch of 4,096 users has 15 GiB."""
    toy = make_toy("SASRec")
    rows = {name: part.repeat(100, 1)[:, 0] for name, part in _one_row().items()}
    rows["item_id_list"] = rows["item_id_list"][:, None].repeat(1, MAX_LENGTH)
    dataset = toy.with_rows(rows)._dataset
    monkeypatch.setattr(type(dataset), "item_num", 1_000_001)
    loader = BlockDataLoader(toy.ours.config, dataset, None, backbone_of(toy.model))
    assert max(len(batch) for batch, *_ in loader) * 4 * 1_000_001 <= 2**27
    assert len(loader) == 4


def _one_row() -> dict[str, torch.Tensor]:
    names = ("user_id", "item_id", "item_id_list", "item_length")
    return {name: torch.ones(1, dtype=torch.int64) for name in names}


def test_several_processes_get_equal_shares(monkeypatch):
    toy = make_toy("SASRec")
    monkeypatch.setattr(blocks, "_ROWS_ON_CPU", 5)
    monkeypatch.setattr("torch.distributed.is_available", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    config = toy.ours.config
    config["single_spec"], config["world_size"] = False, 2
    users = []
    for process in (0, 1):
        monkeypatch.setattr("torch.distributed.get_rank", lambda process=process: process)
        loader = BlockDataLoader.of(toy.loaders[2], toy.model)
        users.append(torch.cat([rows["user_id"] for rows, *_ in loader]).tolist())
    assert sorted(users[0] + users[1]) == list(range(1, 14))
    assert abs(len(users[0]) - len(users[1])) <= len(loader)


@pytest.mark.parametrize("name", ["SASRec", "TSLRec_SASRec", "Caser"])
def test_sampled_evaluation_is_recboles(name):
    for mode in ("uni5", "pop5"):
        toy = make_toy(name, eval_args=RANKED | {"mode": mode})
        toy.model.float()  # RecBole's matrix of sampled scores has no room for more
        results = []
        for trainer in (toy.recbole, toy.ours):
            init_seed(1, True)
            results.append(dict(trainer.evaluate(toy.loaders[2], load_best_model=False)))
        assert results[0] == results[1] and 0 < results[0]["hit@3"] < 1


@pytest.mark.parametrize("name", ["SASRec", "FMLPRec"])
def test_training_validates_and_tests_as_recbole_does(name, tmp_path, settings, monkeypatch):
    """The same seed: the same epochs and metrics as with RecBole's batches and collector."""
    random = np.random.default_rng(1)
    rows = [
        (f"u{user}", f"i{item}", time)
        for user in range(60)
        for time, item in enumerate(random.integers(0, 30, random.integers(4, 12)))
    ]
    write_atomic(tmp_path / "data", "small", rows)
    keys = settings | {"train_neg_sample_args": None, "epochs": 4, "metric_decimal_place": 12}
    found = run_experiment(name, "small", config_dict=keys)
    monkeypatch.setattr(BlockDataLoader, "of", lambda loader, model: loader)
    expected = run_experiment(name, "small", config_dict=keys)
    for field in ("test_result", "best_valid_result"):
        one, other = (dict(getattr(run, field)) for run in (found, expected))
        assert one == pytest.approx(other, abs=1e-9)


def test_histories_are_cut_and_features_are_not():
    """A list of the user's own column is a history, too; what ends like one may be a feature."""
    rows = Interaction(
        {
            "item_id": torch.tensor([3, 4]),
            "item_id_list": torch.arange(8).view(2, 4),
            "price": torch.tensor([0.5, 1]),
            "price_list": torch.rand(2, 4),
            "in_list": torch.tensor([1.0, 0]),
            "category_list": torch.arange(6).view(2, 3),
        }
    )
    cut_lists(rows, 2, "_list")
    assert rows["item_id_list"].tolist() == [[0, 1], [4, 5]]
    assert rows["price_list"].shape == (2, 2) and rows["category_list"].shape == (2, 3)
    assert rows["in_list"].tolist() == [1.0, 0.0]
