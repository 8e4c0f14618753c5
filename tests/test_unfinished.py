"""A training that was stopped goes on, and ends bit for bit where an unbroken one does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_trainer import prepared

from recbole_tslrec.recbole_bridge import unfinished
from recbole_tslrec.recbole_bridge.unfinished import (
    SUFFIX,
    UnfinishedTraining,
    clear_but_unfinished,
)
from recbole_tslrec.store.checkpoints import load_checkpoint

MODELS = {
    "whole sequences": ("SASRec", {"train_batching": "sequence"}),
    "prefixes": ("SASRec", {"train_batching": "prefix"}),
    "one negative": ("GRU4Rec", {"loss_type": "BPR", "train_neg_sample_args": None}),
    "draws in its loss": ("FEARec", {"train_neg_sample_args": None}),
    "the gate and a term": (
        "TSLRec_SASRec",
        {"enhancement": "backbone_embedding", "score_term": "after", "stopping_step": 10},
    ),
    "a term alone": (
        "TSLRec_GRU4Rec",
        {"enhancement": "random", "fusion": "none", "score_term": "after"},
    ),
}
PLAIN = list(MODELS)[:4]
ONE_NEGATIVE = {
    "train_neg_sample_args": {
        "distribution": "uniform",
        "sample_num": 1,
        "alpha": 1.0,
        "dynamic": False,
        "candidate_num": 0,
    }
}


class Stopped(BaseException):
    """As a kill: no code of ours takes it."""


@pytest.fixture(autouse=True)
def every_epoch_is_kept(monkeypatch):
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(unfinished, "SHARE_OF_WRITING", float("inf"))


@pytest.fixture
def train(small_data, settings, monkeypatch):
    """Train a model to its end, or stop it after some epochs; its trainer, and what ``fit`` gave."""

    def train(which: str, epochs: int | None = None, **changes):
        model, own = MODELS[which]
        own = own | (ONE_NEGATIVE if own.get("loss_type") == "BPR" else {})
        given = settings | {"epochs": 6, "stopping_step": 2, "learning_rate": 0.01} | own | changes
        trainer, train_data, valid_data = prepared(model, given, small_data)
        done, epoch_ends = [], UnfinishedTraining.epoch_ends

        def stop(self, epoch, score):  # a backbone's epochs in a stage count, too
            epoch_ends(self, epoch, score)
            done.append(epoch)
            if len(done) == epochs:
                raise Stopped

        with monkeypatch.context() as stopping:
            stopping.setattr(UnfinishedTraining, "epoch_ends", stop)
            try:
                return trainer, trainer.fit(train_data, valid_data)
            except Stopped:
                return trainer, None

    return train


def kept() -> list[Path]:
    return sorted(Path("saved").rglob(f"*{SUFFIX}"))


def assert_same(first: Path | str, second: Path | str) -> None:
    """Two checkpoints of the same training."""
    first, second = load_checkpoint(first), load_checkpoint(second)
    assert first["epoch"] == second["epoch"]
    assert first["best_valid_score"] == second["best_valid_score"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, weight in first["state_dict"].items():
        assert torch.equal(weight, second["state_dict"][name]), name


@pytest.mark.parametrize(
    "which, epochs",
    [(which, epochs) for which in PLAIN for epochs in (1, 4)]
    + [("the gate and a term", epochs) for epochs in (2, 9)]
    + [("a term alone", 2)],
)
def test_it_ends_where_the_unbroken_one_does(which, epochs, train):
    unbroken, expected = train(which)
    assert not kept()
    shutil.rmtree("saved/tslrec", ignore_errors=True)
    assert train(which, epochs)[1] is None
    assert len(kept()) == 1
    trainer, found = train(which)
    if which in PLAIN:
        assert trainer.start_epoch == epochs
    assert found == expected
    assert not kept()
    assert_same(trainer.saved_model_file, unbroken.saved_model_file)
    for name, weight in unbroken.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name


def test_it_goes_on_after_several_stops(train):
    unbroken, expected = train("whole sequences")
    for epochs in (1, 1, 2):
        train("whole sequences", epochs)
    trainer, found = train("whole sequences")
    assert found == expected
    assert_same(trainer.saved_model_file, unbroken.saved_model_file)


def test_one_that_was_stopped_after_its_last_epoch_trains_none(train, monkeypatch):
    which = "the gate and a term"
    unbroken, expected = train(which)

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as stopping:
        stopping.setattr("recbole_tslrec.recbole_bridge.trainers.choose_settings", stop)
        assert train(which)[1] is None
    assert len(kept()) == 1
    trainer, found = train(which)
    assert not trainer.train_loss_dict  # no epoch
    assert found == expected
    assert_same(trainer.saved_model_file, unbroken.saved_model_file)


def test_another_training_starts_anew(train):
    train("whole sequences", 2)
    trainer, _ = train("whole sequences", learning_rate=0.02)
    assert trainer.start_epoch == 0
    assert len(kept()) == 1  # the other one's


def test_a_damaged_file_is_left_aside_with_a_warning(train, caplog):
    _, expected = train("whole sequences")
    train("whole sequences", 2)
    (file,) = kept()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    trainer, found = train("whole sequences")
    assert trainer.start_epoch == 0
    assert found == expected
    assert "is damaged or cut short. The training starts anew." in caplog.text


def test_a_short_training_keeps_nothing(train, monkeypatch):
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 60.0)
    train("whole sequences", 2)
    assert not kept()


def test_seconds_count_what_was_before(train):
    first, _ = train("whole sequences", 2)
    before = load_checkpoint(kept()[0])["unfinished"]["seconds"]
    trainer, _ = train("whole sequences")
    assert trainer.unfinished.seconds_before == before > 0


def test_what_is_not_of_a_training_is_cleared(tmp_path):
    for name in ("SASRec-1.pth", f"SASRec-2{SUFFIX}"):
        (tmp_path / name).touch()
    clear_but_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"SASRec-2{SUFFIX}"]
    clear_but_unfinished(tmp_path / "none")
