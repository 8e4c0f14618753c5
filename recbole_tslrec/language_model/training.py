"""The one training loop for language models, on transformers' Trainer; it is handed a task.

It knows of batches, steps, epochs, checkpoints and processes. What an example is, what it costs, which
number chooses the epoch and what is saved, the task and the model say (``task.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from logging import getLogger
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.language_model.batches import (
    Batches,
    PositionBudgetSampler,
    Weighted,
    make_batches,
)
from recbole_tslrec.language_model.checkpoints import (
    remove_broken_checkpoints,
    state_of,
    stopped_early,
)
from recbole_tslrec.language_model.meter import Meter, metered
from recbole_tslrec.language_model.task import (
    Epoch,
    HeldOut,
    Learner,
    Task,
    TrainingReport,
    TrainingSettings,
)
from recbole_tslrec.store import processes
from recbole_tslrec.store.duration import Pace
from recbole_tslrec.store.files import broken_seal, seal

# The rate is told after so many batches, and the first that warms up.
_FIRST_BATCHES = 5
# Within an epoch a checkpoint is written every so many seconds: what a kill can cost at the most.
_SECONDS_A_CHECKPOINT = 600
# The norm to which a step's gradient is cut down: transformers' own default. A large batch has the
# larger gradient, so it is cut more often, and its examples then count for less than a small one's.
_MOST_GRADIENT = 1.0
_HELD_OUT = "eval_"  # what transformers puts before the name of a metric
_NOT_METRICS = {"loss", "runtime", "samples_per_second", "steps_per_second"}  # it adds these


# ---- batches ----------------------------------------------------------------------------------------


def _collate(task: Task, examples: Sequence[tuple[Any, float]]) -> dict[str, Tensor]:
    contents, weights = zip(*examples, strict=True)
    return task.collate(contents) | {"weight": torch.tensor(weights)}


# ---- transformers' Trainer --------------------------------------------------------------------------


class _TaskTrainer(Trainer):
    """transformers' Trainer with batches of our own, that saves only what is trained.

    Args:
        task: what to learn.
        sampler: the batches of the training examples.
        **kwargs: as transformers' Trainer takes them.
    """

    def __init__(self, task: Task, sampler: PositionBudgetSampler, **kwargs):
        self._task, self._sampler = task, sampler
        self.steps_an_epoch = len(sampler)
        self.last_loss = float("nan")
        self.best_before: str | None = None  # of the run that this one goes on from
        self._outputs: list[str] = []  # the names of what the model returns
        held_out = isinstance(task.validation, HeldOut)
        super().__init__(
            data_collator=partial(_collate, task),
            train_dataset=Weighted(task.examples),
            # None is refused where epochs end with an evaluation; a task's own function reads no loader.
            eval_dataset=Weighted(task.validation.examples if held_out else []),
            compute_metrics=self._means,
            **kwargs,
        )

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate, which would deal out whole batches to the processes.
        return Batches(
            self.train_dataset, batch_sampler=self._sampler, collate_fn=self.data_collator
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        weight = inputs.pop("weight")
        outputs = dict(model(**inputs))
        self._outputs = list(outputs)
        if model.training:
            # Batches differ in size. In the loss every example of the epoch counts the same: the sum
            # over the batch, divided by the mean number of examples in one. DDP averages over the
            # processes. In a step whose gradient is clipped each counts for less (_MOST_GRADIENT).
            share = self.args.world_size / self._sampler.examples_a_batch
            loss = (outputs["error"] * weight).sum() * share
            self.last_loss = loss.item()
            self._check_finite()
        else:
            loss = outputs["error"].mean()
        outputs["error"] = outputs["error"].detach()
        return (loss, outputs) if return_outputs else loss

    def _check_finite(self) -> None:
        # Before the step is taken: the last checkpoint stays good.
        if not np.isfinite(self.last_loss):
            raise ValueError(
                f"{self._task.name}: the loss is {self.last_loss} at step {self.state.global_step + 1} "
                f"(epoch {self.state.epoch:.2f}). Try a smaller {self._task.learning_rate_key}, or "
                f"llm_quantization: none. The last checkpoint before it is kept, and the next run goes "
                f"on from there."
            )

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        if isinstance(self._task.validation, HeldOut):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if processes.is_first():
            metrics = dict(self._task.validation(round(self.state.epoch)))
            processes.tell(metrics)
        else:
            metrics = processes.hear()
        metrics = {f"{_HELD_OUT}{name}": float(value) for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _means(self, output: EvalPrediction) -> dict[str, float]:
        """Means over held-out examples.

        transformers' own eval_loss is a mean over batches, and with several processes some examples are
        read twice to fill the last one.
        """
        found = output.predictions
        columns = found if isinstance(found, tuple) else (found,)
        return {
            name: float(column.mean()) for name, column in zip(self._outputs, columns, strict=True)
        }

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        self.model.save(Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        # transformers writes its files one by one and flushes none: the seal makes them count.
        processes.wait_for_all()  # each has written its random state
        if processes.is_first():
            seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        self.model.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = Path(self.args.output_dir, Path(self.state.best_model_checkpoint).name)
        if problem := broken_seal(best):
            raise ValueError(
                f"{self._task.name}: its best epoch, [{best}], cannot be used: {problem}. The next run "
                f"starts anew."
            )
        self.model.load(best)


class _Watch(TrainerCallback):
    """Positions a second, a line an epoch, TensorBoard's curves, and when to write a checkpoint."""

    def __init__(self, task: Task, meter: Meter, log_folder: str | None, bar: tqdm):
        self.trainer: _TaskTrainer | None = None
        self.task, self.meter, self.bar = task, meter, bar
        self.writer = SummaryWriter(log_folder) if log_folder else None
        self._saved_at = monotonic()
        self._pace = Pace(task.name, skip=1, after=_FIRST_BATCHES)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.best_model_checkpoint is None and self.trainer.best_before is not None:
            # transformers looks where it was written, and the folder may have moved since.
            best = Path(args.output_dir, Path(self.trainer.best_before).name)
            state.best_model_checkpoint = str(best)
        done = state.global_step / max(state.max_steps, 1)
        self.bar.initial = self.bar.n = round(done * self.bar.total)

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs) -> None:
        done = self.meter.trained_positions + self.bar.initial
        self.bar.update(done - self.bar.n)
        self._pace.tell(done, self.bar.total, round(self.bar.total / args.num_train_epochs))
        self._draw("loss", self.trainer.last_loss, state.global_step)
        self._draw("learning_rate", lr_scheduler.get_last_lr()[0], state.global_step)
        ends_an_epoch = state.global_step % self.trainer.steps_an_epoch == 0
        # An epoch's own checkpoint comes after its evaluation, and would be passed over.
        if not ends_an_epoch and processes.agree(
            monotonic() - self._saved_at > _SECONDS_A_CHECKPOINT
        ):
            control.should_save = True

    def on_save(self, args, state, control, **kwargs) -> None:
        self._saved_at = monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        epoch, metrics = round(state.epoch), _metrics_in(logs)
        if metrics:
            getLogger(__name__).info(
                f"{self.task.name} epoch {epoch} {self.task.describe(metrics)}"
            )
            for name, value in metrics.items():
                self._draw(f"held_out_{name}", value, state.global_step)
        elif "loss" in logs:
            getLogger(__name__).info(
                f"{self.task.name} epoch {epoch} training [loss: {logs['loss']:.4f}]"
            )

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()

    def _draw(self, curve: str, value: float, step: int) -> None:
        if self.writer:
            self.writer.add_scalar(f"{self.task.tag}/{curve}", value, step)


def _metrics_in(logs: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a validation in what transformers logs; none in other lines."""
    named = {
        name.removeprefix(_HELD_OUT): logs[name] for name in logs if name.startswith(_HELD_OUT)
    }
    return {name: value for name, value in named.items() if name not in _NOT_METRICS}


# ---- the loop ---------------------------------------------------------------------------------------


def train(
    model: Learner,
    task: Task,
    settings: TrainingSettings,
    checkpoints: Path,
    device: torch.device,
    show_progress: bool = True,
    log_folder: str | None = None,
) -> TrainingReport:
    """Train a language model on a task.

    Args:
        model: trained in place; at the end it holds its best epoch, or the last without validation.
        task: what to learn.
        settings: how.
        checkpoints: a folder for the checkpoints, one an epoch at least; if it holds any, training
            goes on from the last.
        device: where ``model`` lives.
        log_folder: for TensorBoard; None for none.

    Raises:
        ValueError: the loss became NaN or infinite.
        RuntimeError: a batch does not fit the device's memory.
    """
    sampler, positions = make_batches(task, settings)
    # Log lines stand above the bar, not in it.
    with metered(model.reader) as meter, logging_redirect_tqdm():
        bar = tqdm(
            total=settings.epochs * positions,
            desc=task.name,
            unit=" positions",
            unit_scale=True,
            disable=not show_progress,
        )
        watch = _Watch(task, meter, log_folder if processes.is_first() else None, bar)
        trainer = _TaskTrainer(
            task,
            sampler,
            model=model,
            args=_training_arguments(task, settings, checkpoints, device),
            callbacks=[watch],
        )
        watch.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        if task.validation is not None:
            trainer.add_callback(EarlyStoppingCallback(settings.stopping_step))
        _run(trainer, task.name, checkpoints)
    return TrainingReport(_epochs(trainer.state.log_history), meter.cost())


def _run(trainer: _TaskTrainer, name: str, checkpoints: Path) -> None:
    """Train, from the last checkpoint if there is one, and leave nothing of the engines behind."""
    allowed = torch.serialization.get_safe_globals()
    if processes.is_first():
        remove_broken_checkpoints(checkpoints)
    processes.wait_for_all()
    last = get_last_checkpoint(checkpoints)
    trainer.best_before = last and state_of(Path(last)).best_model_checkpoint
    stopped = last and stopped_early(Path(last))
    try:
        if stopped:
            # transformers forgets on resuming that it had stopped, and would train for one more epoch.
            trainer.state = stopped
            trainer._load_best_model()
            trainer.callback_handler.on_train_end(trainer.args, stopped, trainer.control)
        else:
            trainer.train(resume_from_checkpoint=last)
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"{name}: a batch does not fit the GPU's memory. With llm_gradient_checkpointing: True "
            f"the next run goes on from the last checkpoint; with a smaller sft_batch_positions or "
            f"llm_quantization: nf4 it starts anew. torch says: {error}"
        ) from error
    finally:
        # On resuming, transformers takes NumPy's types off torch's list of what a file may hold, also
        # where others have put them there: RecBole could not read its own checkpoints any more.
        torch.serialization.add_safe_globals(allowed)
        # accelerate leaves its autocast around the model's forward; give the model back as it came.
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _training_arguments(
    task: Task, settings: TrainingSettings, checkpoints: Path, device: torch.device
) -> TrainingArguments:
    watched = task.validation is not None
    held_out = task.validation if isinstance(task.validation, HeldOut) else None
    arguments = TrainingArguments(
        output_dir=str(checkpoints.resolve()),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=_MOST_GRADIENT,
        warmup_steps=0.05 if settings.schedule == "linear" else 0,  # below 1: a share of all steps
        optim=settings.optimizer,
        per_device_eval_batch_size=held_out.batch_size if held_out else 1,
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        bf16=bf16_is_fast(device),
        eval_strategy="epoch" if watched else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # a NaN must be seen, not averaged away
        save_total_limit=3,  # the best, the last, and the one before while the last is being written
        load_best_model_at_end=watched,
        metric_for_best_model=task.metric if watched else None,
        greater_is_better=task.larger_is_better,
        label_names=["weight"],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        restore_callback_states_from_checkpoint=True,  # the count of epochs without a better metric
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        disable_tqdm=True,  # a bar of our own counts positions
        report_to="none",
    )
    arguments._n_gpu = 1  # else transformers divides every batch among all GPUs it sees
    return arguments


def _epochs(log_history: Sequence[Mapping[str, float]]) -> list[Epoch]:
    epochs: dict[int, Epoch] = {}
    for entry in log_history:
        number = round(entry["epoch"])
        if "loss" in entry:
            epochs[number] = Epoch(number, entry["loss"])
        elif metrics := _metrics_in(entry):
            epochs[number].metrics = metrics
    return list(epochs.values())
