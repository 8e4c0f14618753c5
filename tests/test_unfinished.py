"""A training that was stopped goes on, and ends bit for bit where an unbroken one does."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as metadata_version
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from recbole.model.sequential_recommender.sasrec import SASRec
from support.ready_made import ready_made_sequences
from test_trainer import prepared

from recbole_tslrec.backbones import class_code
from recbole_tslrec.backbones.registry import Backbone
from recbole_tslrec.recbole_bridge import quick_start, unfinished
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.unfinished import (
    SUFFIX,
    UnfinishedTraining,
    clear_but_unfinished,
)
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint
from recbole_tslrec.store.files import DiskError
from recbole_tslrec.store.locks import lock_files

MODELS = {
    "whole sequences": ("SASRec", {"train_batching": "sequence"}),
    "prefixes": ("SASRec", {"train_batching": "prefix"}),
    "one negative": ("GRU4Rec", {"loss_type": "BPR", "train_neg_sample_args": None}),
    "draws in its loss": ("FEARec", {"train_neg_sample_args": None}),
    "the gate and a term": (
        "TSLRec_SASRec",
        {"enhancement": "backbone_embedding", "score_term": "after", "stopping_step": 10},
    ),
    "a chain of stages": ("CI_SASRec", {"stopping_step": 10}),
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

    def train(which: str, stop_after: int | None = None, data: str = small_data, **changes):
        model, own = MODELS[which]
        own = own | (ONE_NEGATIVE if own.get("loss_type") == "BPR" else {})
        given = settings | {"epochs": 6, "stopping_step": 2, "learning_rate": 0.01} | own | changes
        trainer, train_data, valid_data = prepared(model, given, data)
        done, epoch_ends = [], UnfinishedTraining.epoch_ends

        def stop(self, epoch, score):  # a backbone's epochs in a stage count, too
            epoch_ends(self, epoch, score)
            done.append(epoch)
            if len(done) == stop_after:
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
    + [("the gate and a term", epochs) for epochs in (2, 9, 12)]
    + [("a chain of stages", epochs) for epochs in (2, 9)]
    + [("a term alone", 2)],
)
def test_it_ends_where_the_unbroken_one_does(which, epochs, train):
    unbroken, expected = train(which)
    assert not kept()
    shutil.rmtree("saved/tslrec", ignore_errors=True)
    assert train(which, epochs)[1] is None
    assert len(kept()) == 1
    trainer, found = train(which)
    if which in PLAIN or epochs > 6:  # six are the stage's
        assert trainer.start_epoch == epochs - 6 * (which not in PLAIN)
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


@pytest.mark.parametrize(
    "changes",
    [{"stopping_step": 10}, {"stopping_step": 0, "learning_rate": 0.2}],
    ids=["all epochs", "patience"],
)
def test_one_that_was_stopped_after_its_last_epoch_trains_none(changes, train):
    unbroken, expected = train("whole sequences", **changes)
    assert train("whole sequences", len(unbroken.train_loss_dict), **changes)[1] is None
    trainer, found = train("whole sequences", **changes)
    assert trainer.epochs == trainer.start_epoch  # it had none to do
    assert found == expected
    assert_same(trainer.saved_model_file, unbroken.saved_model_file)


def test_an_epoch_after_the_last_validation_is_trained(train):
    """It changes no result of ``fit``, and where the random generators stand for what comes after."""
    changes = {"eval_step": 2, "epochs": 5, "stopping_step": 10}
    unbroken, expected = train("prefixes", **changes)
    drawn = torch.rand(2)
    assert train("prefixes", 2, **changes)[1] is None
    trainer, found = train("prefixes", **changes)
    assert torch.equal(torch.rand(2), drawn)
    assert found == expected and trainer.train_loss_dict == unbroken.train_loss_dict
    assert_same(trainer.saved_model_file, unbroken.saved_model_file)


@pytest.mark.parametrize("changes", [{}, {"eval_step": 2, "epochs": 5}], ids=["", "eval_step"])
def test_one_that_was_stopped_as_its_term_is_chosen(changes, train, monkeypatch):
    unbroken, expected = train("the gate and a term", **changes)

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as stopping:
        stopping.setattr("recbole_tslrec.recbole_bridge.trainers.choose_settings", stop)
        assert train("the gate and a term", **changes)[1] is None
    assert len(kept()) == 1
    trainer, found = train("the gate and a term", **changes)
    assert trainer.start_epoch == (4 if changes else 6)
    assert found == expected
    assert_same(trainer.saved_model_file, unbroken.saved_model_file)


@pytest.mark.parametrize("change", ["learning_rate", "start", "code", "data", "version"])
def test_another_training_starts_anew(change, train, monkeypatch, tmp_path):
    train("whole sequences", 2)
    if change == "start":  # as another file or stage would make it
        monkeypatch.setattr(SASRec, "_init_weights", lambda self, module: None)
    elif change == "code":
        monkeypatch.setattr(class_code, "file_hash", lambda path: "another")
    elif change == "data":
        file = next(tmp_path.rglob("*.inter"))
        file.write_text("\n".join(file.read_text().splitlines()[:-9]) + "\n")
    elif change == "version":
        monkeypatch.setattr(unfinished, "version", lambda package: "0")
    more = {"learning_rate": 0.02} if change == "learning_rate" else {}
    trainer, _ = train("whole sequences", **more)
    assert trainer.start_epoch == 0
    assert len(kept()) == 1  # the other one's


@pytest.mark.parametrize("own", [False, True])
def test_a_users_own_class_may_read_any_column(own, train, monkeypatch, tmp_path):
    monkeypatch.setattr(Backbone, "code", ["of the user"] if own else None)
    train("whole sequences", 2)
    file = next(tmp_path.rglob("*.inter"))
    header, *rows = [line.split("\t") for line in file.read_text().splitlines()]
    at = header.index("timestamp:float")
    later = [[*row[:at], str(float(row[at]) + 1), *row[at + 1 :]] for row in rows]
    file.write_text("\n".join("\t".join(row) for row in (header, *later)) + "\n")
    assert train("whole sequences")[0].start_epoch == (0 if own else 2)


def test_ready_made_rows_that_changed_are_another_training(train):
    keys = ready_made_sequences() | {"epochs": 6}
    train("prefixes", 2, data="sess", **keys)
    file = Path("data/sess/sess.train.inter")
    file.write_text(file.read_text().replace("i0 i1", "i1 i0"))
    assert train("prefixes", data="sess", **keys)[0].start_epoch == 0


def test_keys_that_it_does_not_read_do_not_matter(train):
    train("whole sequences", 2)
    other = {"tslrec_dir": "elsewhere", "sft_epochs": 1, "n_categories": 3}
    assert train("whole sequences", **other)[0].start_epoch == 2


def test_what_is_kept_stays_until_the_test(small_data, settings, monkeypatch):
    """Of ``run`` and a comparison: a stop in the test costs no training."""
    given = settings | {"epochs": 2, "train_neg_sample_args": None}
    experiment = run_experiment("SASRec", small_data, config_dict=given, test=False)
    assert len(kept()) == 1
    again = run_experiment("SASRec", small_data, config_dict=given, test=False)
    assert again.trainer.start_epoch == again.trainer.epochs == 2
    assert again.best_valid_result == experiment.best_valid_result
    again.is_tested()
    assert not kept()
    at_the_test = []
    monkeypatch.setattr(quick_start, "_test", lambda *_: (None, at_the_test.extend(kept())))
    run_experiment("SASRec", small_data, config_dict=given)
    assert len(at_the_test) == 1 and not kept()


def test_its_losses_are_of_all_epochs(train):
    unbroken, _ = train("whole sequences")
    train("whole sequences", 2)
    assert train("whole sequences")[0].train_loss_dict == unbroken.train_loss_dict


def test_while_another_trains_the_same_none_is_taken_up(train, monkeypatch, caplog):
    """Nor kept: the other one keeps it."""
    monkeypatch.setattr(unfinished, "_SECONDS_TO_LET_GO", 0.1)
    train("whole sequences", 2)
    (file,) = kept()
    before = file.read_bytes()
    with FileLock(lock_files(file)[0]):
        trainer, _ = train("whole sequences")
    assert trainer.start_epoch == 0
    assert file.read_bytes() == before
    assert caplog.text.count("another process is at the same training") == 1


@pytest.mark.parametrize("part", ["file", "lock"])
def test_a_full_disk_does_not_stop_it(part, train, monkeypatch, caplog):
    _, expected = train("whole sequences")

    def full(*_, **__):
        raise DiskError(28, "no space")

    where, what = (unfinished, "write_checkpoint") if part == "file" else (FileLock, "acquire")
    monkeypatch.setattr(where, what, full)
    assert train("whole sequences")[1] == expected
    assert "could not be written (no space). The training goes on" in caplog.text


FORGED = {
    "nothing beside": lambda content: content.pop("unfinished"),
    "a string beside": lambda content: content.update(unfinished="x"),
    "another kind": lambda content: content["unfinished"].update(best="x"),
    "no result": lambda content: content["unfinished"].update(best_valid_result={"ndcg@10": None}),
    "ended": lambda content: content["unfinished"].update(ended=[1]),
    "seconds": lambda content: content["unfinished"].update(seconds=float("nan")),
    "an epoch to come": lambda content: content.update(epoch=10**6),
    "an epoch before all": lambda content: content.update(epoch=-5),
    "no loaders": lambda content: content["unfinished"].update(loaders=[]),
    "a short state": lambda content: content["unfinished"]["generators"].update(
        torch=torch.zeros(3, dtype=torch.uint8)
    ),
    "no generators": lambda content: content["unfinished"].update(generators={}),
    "no weights": lambda content: content["unfinished"].update(best={"state_dict": 3}),
    "other weights": lambda content: content["state_dict"].update(
        {"position_embedding.weight": torch.zeros(2, 2)}
    ),
    "no config": lambda content: content.pop("config"),
    "nothing in it": lambda content: content.update(state_dict={}),
    "no optimizer": lambda content: content.pop("optimizer"),
}


@pytest.mark.parametrize("how", FORGED)
def test_what_no_training_has_written_is_refused_by_name(how, train):
    train("whole sequences", 2)
    (file,) = kept()
    content = load_checkpoint(file)
    FORGED[how](content)
    write_checkpoint(content, file)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        train("whole sequences")


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


def test_a_source_tree_that_is_not_installed_keeps_its_trainings(train, monkeypatch):
    def version(package):
        if package == "recbole_tslrec":
            raise PackageNotFoundError(package)
        return metadata_version(package)

    monkeypatch.setattr(unfinished, "version", version)
    train("whole sequences", 2)
    assert kept()


def test_seconds_count_what_was_before(train):
    first, _ = train("whole sequences", 2)
    before = load_checkpoint(kept()[0])["unfinished"]["seconds"]
    trainer, _ = train("whole sequences")
    assert trainer.unfinished.seconds_before == before > 0


def test_what_is_not_of_a_training_is_cleared(tmp_path):
    stay = {f"SASRec-2{SUFFIX}", f".SASRec-2{SUFFIX}.lock"}
    for name in ("SASRec-1.pth", ".SASRec-3.pth.here-1.tmp", *stay):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "saved").touch()
    clear_but_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == stay
    clear_but_unfinished(tmp_path / "none")


class Prefetched:
    """A loader of a user's own."""

    def __init__(self, loader):
        self.batches = list(loader)

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_a_loader_of_the_users_own_is_trained_on_and_nothing_kept(model, small_data, settings):
    own = {"train_batching": "prefix", "epochs": 2}
    own |= ONE_NEGATIVE if model == "BPR" else {}
    trainer, train_data, valid_data = prepared(model, settings | own, small_data)
    trainer.fit(Prefetched(train_data), valid_data)
    assert load_checkpoint(trainer.saved_model_file)["config"]["trained_on"] is None
    assert not kept()
