"""The loop with a toy task: numbers in, their mean out. No language model, no RecBole."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from recbole_tslrec.language_model import training
from recbole_tslrec.language_model.task import (
    Epoch,
    HeldOut,
    Task,
    TrainingReport,
    TrainingSettings,
)
from recbole_tslrec.language_model.training import train

CPU = torch.device("cpu")


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.values = nn.Embedding(10, 1)

    def forward(self, token_ids, attention_mask):
        values = self.values(token_ids).squeeze(2) * attention_mask
        return values.sum(dim=1) / attention_mask.sum(dim=1)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.reader = Reader()
        self.calls: list[int] = []

    def forward(self, target, **prompts):
        self.calls.append(len(target))
        distance = (self.reader(**prompts) - target).abs()
        return {"error": distance.pow(2), "distance": distance.detach()}

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), Path(folder) / "toy.safetensors")

    def load(self, folder):
        self.load_state_dict(load_file(Path(folder) / "toy.safetensors"))


def texts(n: int = 40) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 10, size=generator.integers(1, 9)) for _ in range(n)]


def collate(examples):
    width = max(len(text) for text in examples)
    rows = [np.pad(text, (0, width - len(text))) for text in examples]
    mask = [np.arange(width) < len(text) for text in examples]
    return {
        "token_ids": torch.from_numpy(np.stack(rows)),
        "attention_mask": torch.from_numpy(np.stack(mask)).long(),
        "target": torch.tensor([text.mean() for text in examples]).float(),
    }


def task_of(**changes) -> Task:
    examples = texts()
    values = {
        "name": "Toy-task",
        "unit": "texts",
        "learning_rate_key": "toy_learning_rate",
        "examples": examples,
        "lengths": np.array([len(text) for text in examples]),
        "collate": collate,
    }
    return Task(**values | changes)


def settings_of(**changes) -> TrainingSettings:
    values = {
        "epochs": 4,
        "learning_rate": 0.3,
        "batch_positions": 24,
        "optimizer": "adamw_torch",
        "stopping_step": 4,
        "seed": 1,
    }
    return TrainingSettings(**values | changes)


def run(task: Task, folder: Path, model: Toy | None = None, log: str | None = None, **changes):
    model = model or Toy()
    report = train(model, task, settings_of(**changes), folder, CPU, False, log)
    return model, report


def test_it_learns_and_keeps_the_best_epoch_on_held_out_examples(tmp_path):
    held_out = HeldOut(texts(10), 4)
    model, report = run(task_of(validation=held_out), tmp_path, epochs=6)
    errors = [epoch.metrics["error"] for epoch in report.epochs]
    assert report.epochs[-1].loss < 0.3 * report.epochs[0].loss
    assert set(report.epochs[0].metrics) == {"error", "distance"}
    with torch.no_grad():
        outputs = model.eval()(**collate(held_out.examples))
    assert outputs["error"].mean().item() == pytest.approx(min(errors), rel=1e-4)
    assert report.cost["examples"] == 6 * (40 + 10) and report.cost["positions"] > 0


def test_every_example_of_an_epoch_counts_the_same(tmp_path):
    """Batches differ in size, and the loss of an epoch is the mean over the examples all the same."""
    model, report = run(task_of(), tmp_path, epochs=1, learning_rate=1e-12)
    assert len(set(model.calls)) > 1 and sum(model.calls) == 40
    with torch.no_grad():
        mean = model(**collate(texts()))["error"].mean().item()
    assert report.epochs[0].loss == pytest.approx(mean, rel=1e-5)
    assert report.epochs[0].metrics == {}


def test_a_steps_gradient_is_cut_down_to_a_norm_of_one(tmp_path):
    """One batch, whose gradient is larger: the weights move by the learning rate."""
    model, start = Toy(), Toy().reader.values.weight
    once = {"epochs": 1, "batch_positions": 9999, "optimizer": "sgd", "schedule": "constant"}
    run(task_of(), tmp_path, model, learning_rate=0.25, **once)
    moved = torch.linalg.vector_norm((model.reader.values.weight - start).detach())
    assert model.calls == [40] and moved.item() == pytest.approx(0.25, rel=1e-4)


def scored(scores: list[float], weights: dict[int, torch.Tensor], model: Toy, numbers: list[int]):
    """A validation of the task's own, which notes the weights that it found."""

    def validate(number: int) -> dict[str, float]:
        numbers.append(number)
        weights[number] = model.reader.values.weight.detach().clone()
        return {"score": scores[number - 1], "other": 0.0}

    return validate


@pytest.mark.parametrize(("larger", "best", "last"), [(True, 2, 4), (False, 1, 3)])
def test_a_validation_of_its_own_chooses_the_epoch_and_stops(larger, best, last, tmp_path):
    weights, numbers, model = {}, [], Toy()
    validate = scored([0.1, 0.3, 0.2, 0.3, 0.9, 0.0], weights, model, numbers)
    task = task_of(validation=validate, metric="score", larger_is_better=larger)
    _, report = run(task, tmp_path, model, epochs=6, stopping_step=2)
    assert numbers == list(range(1, last + 1))
    assert torch.equal(model.reader.values.weight, weights[best])
    assert report.best(task).number == best
    assert report.epochs[best - 1].metrics == {"score": (0.1, 0.3)[best - 1], "other": 0.0}
    assert TrainingReport.of(report.as_dict()) == report


def test_without_validation_the_last_epoch_stays(tmp_path):
    task = task_of()
    _, report = run(task, tmp_path, epochs=3)
    assert [epoch.number for epoch in report.epochs] == [1, 2, 3]
    assert report.best(task) == report.epochs[-1]
    assert report.best(task) == Epoch(3, report.epochs[-1].loss)


@pytest.mark.parametrize("stop_in", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_bits(stop_in, tmp_path):
    """Interrupted in the validation, before the epoch's checkpoint: the epoch is done again."""
    scores, numbers = [0.1, 0.3, 0.2, 0.25], []

    def task_for(model, stop=None):
        validate = scored(scores, {}, model, numbers)

        def validate_or_stop(number):
            if number == stop:
                raise KeyboardInterrupt
            return validate(number)

        return task_of(validation=validate_or_stop, metric="score", larger_is_better=True)

    unbroken = Toy()
    _, whole = run(task_for(unbroken), tmp_path / "whole", unbroken)
    broken = Toy()
    with pytest.raises(KeyboardInterrupt):
        run(task_for(broken, stop_in), tmp_path / "broken", broken)
    numbers.clear()
    resumed = Toy()
    _, report = run(task_for(resumed), tmp_path / "broken", resumed)
    assert numbers == list(range(stop_in, 5))
    assert torch.equal(resumed.reader.values.weight, unbroken.reader.values.weight)
    assert report.epochs == whole.epochs


class Drawn:
    """Examples that are other ones every epoch; they note which was set and which are read."""

    def __init__(self):
        self.epoch, self.read = -1, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> np.ndarray:
        self.read.append((self.epoch, number))
        return texts()[number][::-1] if self.epoch % 2 else texts()[number]


@pytest.mark.parametrize("stop_at", [3, 13, 26])
def test_within_an_epoch_the_examples_are_told_which_it_is(stop_at, tmp_path, monkeypatch):
    """transformers then reads by another loader, and tells the epoch to the sampler alone."""
    monkeypatch.setattr(training, "_SECONDS_A_CHECKPOINT", -1)
    whole, broken, resumed = Drawn(), Drawn(), Drawn()
    unbroken, _ = run(task_of(examples=whole), tmp_path / "whole")
    assert {epoch for epoch, _ in whole.read} == {0, 1, 2, 3}
    take_step = Toy.forward

    def stop(self, target, **prompts):
        if len(self.calls) == stop_at:
            raise KeyboardInterrupt
        return take_step(self, target, **prompts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Toy, "forward", stop)
        run(task_of(examples=broken), tmp_path / "broken")
    model, _ = run(task_of(examples=resumed), tmp_path / "broken")
    assert 0 < len(resumed.read) % 40
    assert resumed.read == whole.read[-len(resumed.read) :]
    assert torch.equal(model.reader.values.weight, unbroken.reader.values.weight)


def test_a_loss_that_is_not_finite_names_the_task_and_its_key(tmp_path):
    model = Toy()
    with torch.no_grad():
        model.reader.values.weight[3] = float("inf")
    with pytest.raises(ValueError, match="Toy-task: the loss is .* smaller toy_learning_rate"):
        run(task_of(), tmp_path, model)


def test_want_of_memory_says_what_to_do(tmp_path, monkeypatch):
    def short(self, **batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Toy, "forward", short)
    with pytest.raises(RuntimeError, match="Toy-task: a batch does not fit .*sft_batch_positions"):
        run(task_of(), tmp_path)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_curves_and_lines_carry_the_tasks_name(schedule, tmp_path, caplog):
    caplog.set_level("INFO")
    task = task_of(validation=HeldOut(texts(4), 4), more_positions=(7, 0))
    run(task, tmp_path / "c", log=str(tmp_path / "log"), epochs=2, schedule=schedule)
    curves = EventAccumulator(str(tmp_path / "log")).Reload()
    drawn = {"loss", "learning_rate", "held_out_error", "held_out_distance"}
    assert set(curves.Tags()["scalars"]) == {f"toy_task/{name}" for name in drawn}
    rates = {event.value for event in curves.Scalars("toy_task/learning_rate")}
    assert (len(rates) == 1) == (schedule == "constant")
    assert re.search(r"Toy-task on 40 texts in \d+ batches .* 7 positions shared", caplog.text)
    assert re.search(r"Toy-task epoch 2 error: [\d.]+, distance: [\d.]+", caplog.text)
    assert re.search(r"Toy-task epoch 2 training \[loss: [\d.]+\]", caplog.text)


def test_a_checkpoint_comes_within_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_SECONDS_A_CHECKPOINT", -1)
    saved, save = [], Toy.save

    def noting(self, folder):
        saved.append(int(Path(folder).name.split("-")[1]))
        save(self, folder)

    monkeypatch.setattr(Toy, "save", noting)
    run(task_of(), tmp_path, epochs=1)
    assert saved == list(range(1, saved[-1] + 1)) and len(saved) > 5
