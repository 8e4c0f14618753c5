"""The loader: RecBole's (user, prefix, target) rows and no others, in repeatable batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.data.utils import load_split_dataloaders, save_split_dataloaders
from tiny import MAX_LENGTH, SHORT, prepare

from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader
from recbole_tslrec.recbole_bridge.pickles import _asked_for

NEGATIVES = {"distribution": "uniform", "sample_num": 1, "dynamic": False}
BPR = {"loss_type": "BPR", "train_neg_sample_args": NEGATIVES}


def make_loader(config, train_data, shuffle=True) -> WholeSequenceDataLoader:
    return WholeSequenceDataLoader(config, train_data._dataset, train_data._sampler, shuffle)


def predictions(batch: Interaction) -> list[tuple]:
    """(user, items up to the prediction, target) for every target that counts in the batch."""
    return [
        (user, tuple(items[: position + 1]), target)
        for user, items, targets in zip(
            batch["user_id"].tolist(),
            batch["item_id_list"].tolist(),
            batch["item_id"].tolist(),
            strict=True,
        )
        for position, target in enumerate(targets)
        if target != 0
    ]


def rows(dataset) -> list[tuple]:
    """The same of RecBole's rows."""
    feat = dataset.inter_feat
    lists = zip(feat["item_id_list"].tolist(), feat["item_length"].tolist(), strict=True)
    prefixes = [tuple(items[:length]) for items, length in lists]
    return list(zip(feat["user_id"].tolist(), prefixes, feat["item_id"].tolist(), strict=True))


@pytest.mark.parametrize("keys", [{"lengths": SHORT}, {"train_window_context": 1.0}])
def test_the_predictions_are_recboles_rows(keys):
    config, train_data, _ = prepare(**keys)
    loader = make_loader(config, train_data)
    for _ in range(2):
        made = [prediction for batch in loader for prediction in predictions(batch)]
        assert Counter(made) == Counter(rows(train_data._dataset))


def test_windows_of_longer_histories_predict_recboles_targets_from_a_part_of_the_context():
    config, train_data, _ = prepare()
    expected = {}
    for user, prefix, target in rows(train_data._dataset):
        expected.setdefault((user, target), []).append(prefix)
    loader = make_loader(config, train_data)
    made = [prediction for batch in loader for prediction in predictions(batch)]
    assert Counter((user, target) for user, _, target in made) == Counter(
        {pair: len(prefixes) for pair, prefixes in expected.items()}
    )
    for user, items, target in made:
        assert any(
            prefix[-len(items) :] == items and len(items) >= min(MAX_LENGTH // 2, len(prefix))
            for prefix in expected[user, target]
        )


def test_batches_are_padded_rows_of_about_the_batch_size():
    config, train_data, _ = prepare(train_batch_size=50)
    loader = make_loader(config, train_data)
    batches = list(loader)
    assert len(loader) == len(batches) == len(train_data)
    for batch in batches:
        items, targets = batch["item_id_list"], batch["item_id"]
        assert items.shape == targets.shape == (len(batch), batch["item_length"].max())
        assert all(value.dtype == torch.int64 for value in batch.interaction.values())
        assert torch.equal((items != 0).sum(dim=1), batch["item_length"])
        assert not targets[items == 0].any()
        assert abs(int((targets != 0).sum()) - 50) <= 2 * MAX_LENGTH


def test_epochs_differ_and_follow_from_the_seed():
    def two_epochs(**keys):
        config, train_data, _ = prepare(**keys)
        loader = make_loader(config, train_data)
        return [[batch["user_id"].tolist() for batch in loader] for _ in range(2)]

    first, second = two_epochs()
    assert first != second
    assert [first, second] == two_epochs()
    assert first != two_epochs(seed=7)[0]


def test_without_shuffling_epochs_are_the_same():
    config, train_data, _ = prepare()
    loader = make_loader(config, train_data, shuffle=False)
    first, second = ([batch["user_id"].tolist() for batch in loader] for _ in range(2))
    assert first == second


def test_a_smaller_batch_size_than_a_window_gives_no_empty_batch():
    config, train_data, _ = prepare(train_batch_size=2)
    loader = make_loader(config, train_data)
    assert all(predictions(batch) for batch in loader)


def test_workers_give_the_same_batches():
    config, train_data, _ = prepare()
    alone = [predictions(batch) for batch in make_loader(config, train_data)]
    config["worker"] = 1
    assert alone == [predictions(batch) for batch in make_loader(config, train_data)]


def test_recbole_saves_and_loads_it():
    config, train_data, valid_data = prepare()
    loader, untouched = make_loader(config, train_data), make_loader(config, train_data)
    next(iter(loader)), next(iter(untouched))
    save_split_dataloaders(config, (loader, valid_data, make_loader(config, train_data)))
    assert loader.generator is not None  # what was saved goes on as it would have
    path = f"{config['checkpoint_dir']}/tiny-for-SASRec-dataloader.pth"
    _asked_for.add(path)  # as a user does who gives it as a key of the run
    config["dataloaders_save_path"] = path
    loaded = load_split_dataloaders(config)[0]
    assert [predictions(batch) for batch in loaded] == [predictions(batch) for batch in untouched]


def test_bpr_has_one_negative_for_each_target():
    config, train_data, _ = prepare(**BPR)
    for batch in make_loader(config, train_data):
        targets, negatives = batch["item_id"], batch["neg_item_id"]
        assert torch.equal(negatives != 0, targets != 0)
        # RecBole's rule where items may come again, as they may in its sequential models.
        assert not (negatives == targets)[targets != 0].any()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"transform": "crop_itemseq", "crop_eta": 0.5}, "transform"),
        ({"train_window_context": 2}, "share of context"),
        ({**BPR, "train_neg_sample_args": NEGATIVES | {"sample_num": 3}}, "one static"),
        ({**BPR, "train_neg_sample_args": NEGATIVES | {"dynamic": True}}, "one static"),
        ({**BPR, "train_neg_sample_args": NEGATIVES | {"distribution": "none"}}, "one static"),
        ({"loss_type": "BCE"}, "CE or BPR"),
    ],
)
def test_what_it_cannot_do_is_refused(keys, message):
    config, train_data, _ = prepare()
    for key, value in keys.items():
        config[key] = value
    with pytest.raises(ValueError, match=message):
        make_loader(config, train_data)


def test_rows_missing_at_the_beginning_of_histories_are_refused():
    config, train_data, _ = prepare()
    dataset = train_data._dataset
    later = np.flatnonzero(dataset.inter_feat["item_length"].numpy() > 1)
    dataset.inter_feat = dataset.inter_feat[later]
    with pytest.raises(ValueError, match="beginning of histories"):
        make_loader(config, train_data)
