"""Numbers that go wrong stop the training, say where, and leave the last sound checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import write_atomic
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_tslrec.paradigms.e4srec.model import NextItemModel
from recbole_tslrec.paradigms.tslrec.augmentation import stages as augmentation
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.store.checkpoints import load_checkpoint

WRONG = [float("nan"), float("inf")]
FOUR_ITEMS = {"topk": [2], "valid_metric": "NDCG@2", "n_categories": 2}
# A few negative items a user in place of all.
SAMPLED = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    | {"mode": "uni5"}
}


def prepared(model: str, settings: dict, dataset: str):
    """A trainer and its data."""
    config = Config(model, dataset, config_dict={"train_neg_sample_args": None} | settings)
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
    return trainer, train_data, valid_data


def spoil_call(trainer, method: str, number: int, value: float) -> None:
    """From its ``number``-th call on, one number of what the model's method gives is ``value``."""
    original, calls = getattr(trainer.model, method), []

    def spoilt(*args):
        calls.append(method)
        result = original(*args)
        if len(calls) < number:
            return result
        result = result.clone()
        result.view(-1)[-1] = value
        return result

    setattr(trainer.model, method, spoilt)


@pytest.mark.parametrize("length", [2, 3])
def test_nobody_to_validate_on_is_refused_before_any_stage(length, tmp_path, settings):
    rows = [(f"u{user}", f"i{(user + k) % 4}", k) for user in range(4) for k in range(length)]
    write_atomic(tmp_path / "data", "small", rows)
    trainer, train_data, valid_data = prepared("TSLRec_GRU4Rec", settings | FOUR_ITEMS, "small")
    with pytest.raises(ValueError, match=r"dataset: \[small\].* has no user with the four"):
        trainer.fit(train_data, valid_data)
    assert not Path("saved/tslrec").exists()


@pytest.mark.parametrize("model", ["TSLRec_GRU4Rec", "E4SRec"])
def test_a_metric_that_is_not_computed_is_refused_before_any_stage(model, small_data, settings):
    wrong = settings | {"valid_metric": "NDCG@20"}
    trainer, train_data, valid_data = prepared(model, wrong, small_data)
    with pytest.raises(ValueError, match=r"valid_metric: \[NDCG@20\] is not computed"):
        trainer.fit(train_data, valid_data)
    assert not Path("saved/tslrec").exists()


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_without_validation_no_metric_is_missed(model, small_data, settings):
    changes = {"valid_metric": "MRR@10", "topk": [20], "enhancement": "random"}
    trainer, train_data, _ = prepared(model, settings | changes, small_data)
    trainer.fit(train_data, None)
    assert Path(trainer.saved_model_file).is_file()


def test_three_interactions_a_user_do_without_validation(tmp_path, settings):
    rows = [(f"u{user}", f"i{(user + k) % 4}", k) for user in range(4) for k in range(3)]
    write_atomic(tmp_path / "data", "small", rows)
    changes = {"eval_step": 0} | FOUR_ITEMS
    trainer, train_data, valid_data = prepared("TSLRec_GRU4Rec", settings | changes, "small")
    trainer.fit(train_data, valid_data)
    assert Path(trainer.saved_model_file).is_file()


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("batching", ["prefix", "sequence"])
def test_recboles_mixed_precision_is_where_the_loss_is(
    batching, asked, small_data, settings, monkeypatch
):
    changes = {"epochs": 1, "train_batching": batching, "enable_amp": asked}
    trainer, train_data, _ = prepared("SASRec", settings | changes, small_data)
    loss, on = trainer._loss, set()

    def watched(interaction):
        on.add(torch.is_autocast_enabled("cpu"))
        return loss(interaction)

    monkeypatch.setattr(trainer, "_loss", watched)
    trainer.fit(train_data, None)
    assert on == {asked}


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("batching", ["prefix", "sequence"])
def test_a_loss_that_is_not_finite(value, batching, small_data, settings, monkeypatch):
    changes = {"epochs": 2, "train_batch_size": 32, "train_batching": batching}
    trainer, train_data, valid_data = prepared("SASRec", settings | changes, small_data)
    trainer.fit(train_data, None)
    steps = trainer._step
    assert steps > 2
    trainer, train_data, valid_data = prepared("SASRec", settings | changes, small_data)
    monkeypatch.setattr(trainer, "_loss", once_wrong(trainer._loss, steps + 2, value))
    with pytest.raises(ValueError) as caught:
        trainer.fit(train_data, valid_data)
    message = str(caught.value)
    assert f"[SASRec] epoch 1, step 2: the training loss is [{value}]" in message
    assert "learning_rate: [0.001]" in message and "clip_grad_norm: {'max_norm': 1}" in message
    kept = Path(re.search(r"checkpoint is \[(.*)\]", message).group(1))
    assert load_checkpoint(kept)["epoch"] == 0


def test_a_language_model_that_diverges_names_the_keys_of_its_own_loop(
    small_data, settings, monkeypatch
):
    trainer, train_data, valid_data = prepared("E4SRec", settings, small_data)
    forward = NextItemModel.forward
    monkeypatch.setattr(
        NextItemModel,
        "forward",
        lambda *args, **batch: {"error": forward(*args, **batch)["error"] / 0},
    )
    with pytest.raises(ValueError) as caught:
        trainer.fit(train_data, valid_data)
    message = str(caught.value)
    assert "the loss is inf at step 1 (epoch " in message
    assert "Try a smaller e4srec_learning_rate" in message
    assert " learning_rate" not in message and "weight_decay" not in message


def test_two_runs_of_the_same_second_keep_two_checkpoints(small_data, settings, monkeypatch):
    monkeypatch.setattr("recbole.trainer.trainer.get_local_time", lambda: "now")
    files = [prepared(name, settings, small_data)[0].saved_model_file for name in ["SASRec"] * 2]
    assert files[0] != files[1]
    assert all(re.fullmatch(r"SASRec-now-[0-9a-f]{6}\.pth", Path(file).name) for file in files)


def once_wrong(loss, step: int, value: float):
    calls = []

    def wrong(interaction):
        calls.append(1)
        return loss(interaction) * (value if len(calls) == step else 1)

    return wrong


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize(("method", "mode"), [("full_sort_predict", {}), ("predict", SAMPLED)])
def test_a_score_that_is_not_finite(method, mode, value, small_data, settings):
    changes = {"epochs": 3, "eval_batch_size": 512} | mode
    trainer, train_data, valid_data = prepared("GRU4Rec", settings | changes, small_data)
    spoil_call(trainer, method, len(valid_data) + 1, value)
    with pytest.raises(ValueError, match=rf"epoch 1, evaluation: the highest score is \[{value}"):
        trainer.fit(train_data, valid_data)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 0
    file = re.escape(trainer.saved_model_file)
    with pytest.raises(ValueError, match=rf"\[GRU4Rec\] evaluation of \[{file}\]: the highest"):
        trainer.evaluate(valid_data)
    with pytest.raises(ValueError, match=r"\[GRU4Rec\] evaluation: the highest score"):
        trainer.evaluate(valid_data, load_best_model=False)


def test_the_last_step_may_break_the_weights(small_data, settings):
    """The loss was sound, and without validation data nothing looks at the model before it is kept."""
    trainer, train_data, _ = prepared("SASRec", settings | {"epochs": 3}, small_data)
    original = trainer._train_epoch

    def break_in_the_second(train_data, epoch, **more):
        loss = original(train_data, epoch, **more)
        if epoch == 1:
            with torch.no_grad():
                trainer.model.item_embedding.weight[3, 0] = float("inf")
        return loss

    trainer._train_epoch = break_in_the_second
    with pytest.raises(ValueError, match=r"epoch 1, end of the epoch: \[item_embedding.weight\]"):
        trainer.fit(train_data, None)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 0


def test_a_learning_rate_far_too_high_stops_the_backbone(small_data, settings):
    """Nothing is simulated here: the weights overflow by themselves, in the first epoch."""
    changes = {"learning_rate": 1e30, "epochs": 3, "train_batch_size": 32}
    with pytest.raises(ValueError, match=r"GRU4Rec.*learning_rate: \[1e\+30\].*No checkpoint was"):
        run_experiment("TSLRec_GRU4Rec", small_data, config_dict=settings | changes)
    assert not [path for path in Path("saved/tslrec/small").iterdir() if is_finished(path)]


def is_finished(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def test_item_embeddings_that_are_not_finite_are_named(small_data, settings, monkeypatch):
    def diverged(self, folder):
        tokens = self.pipeline.tokens
        table = torch.randn(len(tokens), 8)
        table[tokens.index("i7"), 3] = float("nan")
        return table

    monkeypatch.setattr(BackboneStage, "train", diverged)
    with pytest.raises(ValueError, match="item_embedding holds NaN .* 1 items.*'i7'"):
        run_experiment("CI_SASRec", small_data, config_dict=settings)


def test_enhanced_embeddings_that_are_not_finite_are_named(small_data, settings, monkeypatch):
    read_items = augmentation.read_items

    def overflown(*args):
        enhanced = read_items(*args)
        enhanced[4, 0] = float("inf")
        return enhanced

    monkeypatch.setattr(augmentation, "read_items", overflown)
    fourth = r"enhanced_embedding holds NaN or infinity for 1 items, among them 'i\d+'"
    with pytest.raises(ValueError, match=fourth):
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    finished = [p.name for p in Path("saved/tslrec/small").iterdir() if is_finished(p)]
    assert finished and not any(name.startswith("augmentation") for name in finished)


def test_epochs_are_judged_alike_before_and_after_a_resume(small_data, settings):
    given = settings | {"valid_protocol": "masked", "epochs": 2, "train_neg_sample_args": None}
    run = run_experiment("SASRec", small_data, config_dict=given)
    config = Config("SASRec", small_data, config_dict=given | {"valid_protocol": "ranked"})
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, run.trainer.model)
    with pytest.raises(ValueError, match=r"valid_protocol: \[ranked\].*Set valid_protocol: masked"):
        trainer.resume_checkpoint(run.checkpoint)


def test_a_model_is_resumed_under_the_keys_that_made_it(small_data, settings):
    given = settings | {"enhancement": "random", "epochs": 1, "fusion": "none"}
    given |= {"score_term": "during", "learning_rate": 0.01}
    run = run_experiment("TSLRec_SASRec", small_data, config_dict=given, test=False)

    def resume(**changes):
        trainer, *_ = prepared("TSLRec_SASRec", given | {"epochs": 2} | changes, small_data)
        trainer.resume_checkpoint(run.checkpoint)

    resume(learning_rate=0.001, stopping_step=2, tslrec_dir="elsewhere")
    for key, value, before in (
        ("score_weight", 3.0, 1.0),
        ("enhancement", "mean_preference", "random"),
    ):
        with pytest.raises(ValueError, match=rf"{key}: \[{value}\].*Set {key}: {before}, or train"):
            resume(**{key: value})


def test_complex_weights_are_looked_at_too(small_data, settings):
    run = run_experiment(
        "SASRec", small_data, config_dict=settings | {"train_neg_sample_args": None}
    )
    trainer = run.trainer
    trainer.model.phase = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    trainer.model.none = torch.nn.Parameter(torch.zeros(0))
    trainer._epoch, trainer.start_epoch = 0, 0
    trainer._save_checkpoint(0, verbose=False)
    trainer.model.phase.data[1] = complex(0, float("nan"))
    with pytest.raises(ValueError, match=r"\[phase\] holds NaN"):
        trainer._save_checkpoint(0, verbose=False)
