"""What a row's user has had before, against the plain file, under every split that RecBole has."""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_tslrec.evaluation.blocks import BlockDataLoader
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.evaluation.seen_items import EarlierRows, SeenItems, novel_rows
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

SPLITS = {
    "last items": {"split": {"LS": "valid_and_test"}},
    "shares of each user": {"split": {"RS": [0.4, 0.3, 0.3]}, "group_by": "user"},
    "shares of all rows": {"split": {"RS": [0.4, 0.3, 0.3]}, "group_by": "none"},
    "shares of the users' times": {"split": {"RS": [0.1, 0.8, 0.1]}, "group_by": "user"},
}


@pytest.fixture(params=SPLITS)
def given(request, settings):
    """Lists far shorter than the histories."""
    eval_args = {"order": "TO", "mode": "full", **SPLITS[request.param]}
    changes = {"eval_args": eval_args, "MAX_ITEM_LIST_LENGTH": 3, "train_neg_sample_args": None}
    return settings | changes


@pytest.fixture
def write_histories(tmp_path):
    """Users of 5 to 20 items, which come again."""
    generator = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(20):
        items = generator.integers(0, 15, generator.integers(5, 21))
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    path = tmp_path / "data" / "long" / "long.inter"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


def loaders_of(given):
    config = Config("SASRec", "long", config_dict=given)
    return data_preparation(config, create_dataset(config))


def had_before(loaders, part: int) -> list[set[int]]:
    """By row of a part, from the file."""
    dataset = loaders[0]._dataset
    table = pd.read_csv(
        "data/long/long.inter", sep="\t", names=["user", "item", "time"], skiprows=1
    )
    histories = {
        dataset.token2id("user_id", user): dataset.token2id(
            "item_id", rows["item"].tolist()
        ).tolist()
        for user, rows in table.sort_values("time").groupby("user")
    }
    later = np.concatenate([one._dataset.inter_feat["user_id"].numpy() for one in loaders[part:]])
    found = []
    for row, user in enumerate(loaders[part]._dataset.inter_feat["user_id"].tolist()):
        still_to_come = (later[row:] == user).sum()  # this row's own target among them
        found.append(set(histories[user][:-still_to_come]))
    return found


def seen_by_rows(loaders, part: int, seen: SeenItems) -> list[set[int]]:
    dataset = loaders[part]._dataset
    blocks = BlockDataLoader(
        loaders[part].config, dataset, None, None, earlier=EarlierRows.of(dataset)
    )
    found = []
    for interaction, *_ in blocks:
        rows, items = seen.pairs(interaction)
        found += [set(items[rows == row].tolist()) - {0} for row in range(len(interaction))]
    return found


@pytest.mark.parametrize("part", [1, 2])
def test_all_that_was_before_a_row_is_seen(part, given, write_histories):
    loaders = loaders_of(given)
    seen = SeenItems(loaders[0]._dataset, valid_data=loaders[1] if part == 2 else None)
    assert seen_by_rows(loaders, part, seen) == had_before(loaders, part)


def test_novel_rows_are_those_of_items_not_had_before(given, write_histories):
    loaders = loaders_of(given)
    targets = loaders[1]._dataset.inter_feat["item_id"].tolist()
    before = had_before(loaders, 1)
    novel = [row for row, item in enumerate(targets) if item not in before[row]]
    assert novel_rows(loaders[1], SeenItems(loaders[0]._dataset)).tolist() == novel


def test_both_ways_to_rank_the_test_agree(given, write_histories):
    """The pass over the test rows, and the scores of RecBole's own test."""
    experiment = run_experiment("SASRec", "long", config_dict=given | {"valid_protocol": "novel"})
    loaders = (experiment.train_data, experiment.valid_data, experiment.test_data)
    ranks = rank_test_targets(experiment.trainer.model, *loaders)
    assert experiment.by_protocol == ranks.metrics()
    before = had_before(loaders, 2)
    targets = loaders[2]._dataset.inter_feat["item_id"].tolist()
    assert ranks.repeated.tolist() == [
        item in had for item, had in zip(targets, before, strict=True)
    ]
    model = experiment.trainer.model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(loaders[2]._dataset.inter_feat).view(len(targets), -1)
    for row, (target, had) in enumerate(zip(targets, before, strict=True)):
        scores[row, [0, *(had - {target})]] = -torch.inf
        assert ranks.rank_masked[row] == pytest.approx(
            1 + (scores[row] > scores[row, target]).sum(), abs=1
        )


def test_ready_made_rows_have_none_before_them(settings, write_histories):
    eval_args = {"order": "TO", "mode": "full", **SPLITS["shares of each user"]}
    _, valid_data, _ = loaders_of(
        settings | {"eval_args": eval_args, "train_neg_sample_args": None}
    )
    assert EarlierRows.of(valid_data._dataset) is not None
    valid_data._dataset.config["benchmark_filename"] = ["train", "valid", "test"]
    assert EarlierRows.of(valid_data._dataset) is None
