import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from support.ranks import naive_rank

from recbole_tslrec.evaluation.ranks import metrics, rank_test_targets, target_ranks
from recbole_tslrec.recbole_bridge.quick_start import run_experiment


@st.composite
def cases(draw):
    users, items = draw(st.integers(1, 5)), draw(st.integers(2, 9))
    score = st.sampled_from([-float("inf"), -1.0, 0.0, 0.5, 2.0])  # few: many ties
    row = st.lists(score, min_size=items, max_size=items)
    scores = draw(st.lists(row, min_size=users, max_size=users))
    target = st.integers(1, items - 1)
    targets = draw(st.lists(target, min_size=users, max_size=users))
    histories = st.sets(st.integers(0, items - 1))
    return scores, targets, draw(st.lists(histories, min_size=users, max_size=users))


@given(cases())
def test_ranks_are_those_of_sorting(case):
    scores, targets, histories = case
    pairs = [(row, item) for row, history in enumerate(histories) for item in history]
    seen = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    rank, masked = target_ranks(torch.tensor(scores), torch.tensor(targets), seen)
    rows = list(zip(scores, targets, histories, strict=True))
    assert rank.tolist() == [naive_rank(score, target, set()) for score, target, _ in rows]
    assert masked.tolist() == [naive_rank(*row) for row in rows]


def test_metrics_by_hand():
    assert metrics(np.array([1, 3, 6, 11])) == {
        "hit@5": 0.5,
        "hit@10": 0.75,
        "ndcg@5": pytest.approx((1 + 1 / 2) / 4),
        "ndcg@10": pytest.approx((1 + 1 / 2 + 1 / np.log2(7)) / 4),
    }


@pytest.mark.parametrize("score", ["nan", "inf"])
def test_a_diverged_model_has_no_rank(score):
    scores = torch.tensor([[0.0, 1.0, float(score)]])
    with pytest.raises(ValueError, match=f"highest score is {score}"):
        target_ranks(scores, torch.tensor([1]), (torch.tensor([0]), torch.tensor([2])))


@pytest.mark.parametrize("model", ["GRU4Rec", "TSLRec_SASRec"])
def test_a_trained_model_under_both_protocols(model, small_data, settings):
    given = settings | {"enhancement": "random", "epochs": 3, "eval_batch_size": 7}
    given |= {"train_neg_sample_args": None, "metric_decimal_place": 12}
    experiment = run_experiment(model, small_data, config_dict=given)
    trained = experiment.trainer.model
    loaders = (experiment.train_data, experiment.valid_data, experiment.test_data)
    ranks = rank_test_targets(trained, *loaders)
    found = ranks.metrics()
    for name in ("hit@5", "hit@10", "ndcg@5", "ndcg@10"):
        assert found["ranked"][name] == pytest.approx(experiment.test_result[name], abs=1e-9)
    assert found["masked"] != found["ranked"]

    rows = [line.split("\t") for line in open("data/small/small.inter").read().splitlines()[1:]]
    dataset = experiment.train_data._dataset
    scores = {}
    for interaction, *_ in experiment.test_data:
        users = dataset.id2token("user_id", interaction["user_id"].numpy())
        with torch.no_grad():
            scores |= dict(zip(users, trained.full_sort_predict(interaction), strict=True))
    users = [f"u{number}" for number in range(40)]
    assert sorted(ranks.user) == sorted(users)
    histories = {user: [item for other, item, _ in rows if other == user] for user in users}
    training = [item for history in histories.values() for item in history[:-2]]
    for place, user in enumerate(ranks.user):
        *history, target = histories[user]
        assert ranks.item[place] == target
        assert ranks.training_length[place] == len(history) - 1
        assert ranks.item_count[place] == training.count(target)
        seen = set(dataset.token2id("item_id", np.array(history)).tolist())
        score, internal = scores[user].tolist(), dataset.token2id("item_id", target)
        assert ranks.rank[place] == naive_rank(score, internal, set())
        assert ranks.rank_masked[place] == naive_rank(score, internal, seen)


def test_sampled_tests_are_refused(small_data, settings):
    evaluation = {"mode": "uni5", "order": "TO", "split": {"LS": "valid_and_test"}}
    config = Config("Pop", small_data, config_dict=settings | {"eval_args": evaluation})
    loaders = data_preparation(config, create_dataset(config))
    with pytest.raises(ValueError, match="mode: full"):
        rank_test_targets(None, *loaders)


@pytest.mark.parametrize("split", [{"LS": "valid_only"}, {"RS": [0.8, 0.2, 0]}])
def test_a_split_without_a_test_is_refused(split, small_data, settings):
    evaluation = {"mode": "full", "order": "TO", "split": split}
    given = settings | {"eval_args": evaluation, "train_neg_sample_args": None}
    experiment = run_experiment("GRU4Rec", small_data, config_dict=given)
    assert experiment.test_result is None
    loaders = (experiment.train_data, experiment.valid_data, experiment.test_data)
    with pytest.raises(ValueError, match=r"eval_args: the split .* leaves nothing to test\. Set"):
        rank_test_targets(experiment.trainer.model, *loaders)
