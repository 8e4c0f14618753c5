"""P5 and POD in the loop for language models: killed and gone on with."""

import gc
import multiprocessing
import os
import re
import signal
import weakref

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer
from test_contract import assert_same, state_of

from recbole_tslrec.language_model import training
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.summary import summary

WITHOUT_TRACE = {"tslrec_dir": "unbroken", "checkpoint_dir": "unbroken"}


@pytest.fixture
def settings(settings):
    return settings | {"llm": "scratch", "sft_batch_positions": 512, "code_leaf_items": 6}


def die_at(step: int, model: str, dataset: str, settings: dict) -> None:
    """Run, and kill this process after a step, before its checkpoint is written."""
    torch.set_num_threads(1)  # a forked process has no other threads
    take_step = training._Watch.on_step_end

    def step_or_die(self, args, state, control, **kwargs):
        take_step(self, args, state, control, **kwargs)
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    training._Watch.on_step_end = step_or_die
    run_experiment(model, dataset, config_dict=settings)


@pytest.fixture
def read(monkeypatch) -> list[tuple[int, int, list]]:
    """The batches that are trained on: the step, the steps of an epoch, the token ids."""
    batches, compute_loss = [], training._TaskTrainer.compute_loss

    def noting(self, model, inputs, *args, **kwargs):
        if model.training:
            ids = inputs["token_ids"].tolist()
            batches.append((self.state.global_step, self.steps_an_epoch, ids))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(training._TaskTrainer, "compute_loss", noting)
    return batches


@pytest.mark.parametrize(("model", "kill_at"), [("P5", 17), ("POD", 7)])
def test_killed_it_goes_on_to_the_same_bits(
    model, kill_at, small_data, settings, monkeypatch, read
):
    """Within the second epoch, whose sentences and segments are drawn again."""
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "_SECONDS_A_CHECKPOINT", -1)
    unbroken = run_experiment(model, small_data, config_dict=settings | WITHOUT_TRACE)
    of_unbroken = read.copy()
    read.clear()
    process = multiprocessing.get_context("fork").Process(
        target=die_at, args=(kill_at, model, small_data, settings)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    begun = []
    monkeypatch.setattr(
        training._Watch, "on_step_begin", lambda *args, **_: begun.append(args[2].global_step)
    )
    resumed = run_experiment(model, small_data, config_dict=settings)
    steps = read[0][1]
    assert steps < begun[0] == kill_at - 1 < 2 * steps - 1
    assert read == of_unbroken[kill_at - 1 :]
    assert_same(state_of(unbroken), state_of(resumed))
    assert resumed.test_result == unbroken.test_result
    assert re.search(rf", {model.lower()} \d+ s, test \d+ s\n", summary(resumed))


@pytest.mark.parametrize("model", ["P5", "POD"])
def test_nothing_keeps_the_weights_from_before_the_codes(model, small_data, settings):
    config = Config(model, small_data, config_dict=settings | {"sft_epochs": 1})
    train, valid, _ = data_preparation(config, create_dataset(config))
    made = get_model(model)(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, made)
    first = [weakref.ref(weight) for weight in made.parameters()]
    trainer.fit(train, valid)
    gc.collect()
    assert not [weight for weight in first if weight() is not None]
    (group,) = trainer.optimizer.param_groups
    assert {*map(id, group["params"])} == {*map(id, made.parameters())}
