"""Information reconstruction: the language model learns the users' preferences (paper §4.1).

One example is one user: the prompt holds the items of the training history, the target is the user's
prior preference distribution. Equations 1 to 3 of the paper are in ``reconstruction_model.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from logging import getLogger
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
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

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.language_model.batches import PositionBudgetSampler
from recbole_tslrec.language_model.checkpoints import (
    remove_broken_checkpoints,
    state_of,
    stopped_early,
)
from recbole_tslrec.language_model.load import bf16_is_fast
from recbole_tslrec.language_model.meter import Meter, metered
from recbole_tslrec.language_model.prompt import Prompt
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    constant_loss,
    constant_prediction,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel
from recbole_tslrec.store import processes
from recbole_tslrec.store.files import broken_seal, seal

# Within an epoch a checkpoint is written every so many seconds: what a kill can cost at the most.
_SECONDS_A_CHECKPOINT = 600


@dataclass(frozen=True)
class FineTuningSettings:
    """How to fine-tune; the keys ``sft_*`` of ``properties/TSLRec.yaml``, and RecBole's seed."""

    epochs: int
    learning_rate: float
    batch_positions: int
    optimizer: str
    valid_ratio: float
    stopping_step: int
    seed: int

    def split(self, n_examples: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples to learn from and those to watch by."""
        return split_users(n_examples, self.valid_ratio, self.seed)


@dataclass
class EpochReport:
    """What an epoch of fine-tuning came to; None where no users are held out."""

    epoch: int
    train_loss: float
    valid_loss: float | None = None
    valid_cosine: float | None = None


@dataclass
class FineTuningReport:
    """The course of fine-tuning.

    ``constant_loss`` is Eq. 3 on the held-out users for the predictor that knows no history: the
    mean of ḡ over the other users. A language model that has learned anything stays below it.
    """

    n_train_users: int
    n_valid_users: int
    constant_loss: float | None
    epochs: list[EpochReport]
    cost: dict[str, Any]

    def as_dict(self) -> dict:
        return asdict(self)


class _UserExamples(Dataset):
    """One example a user: the history, ḡ as a dense row, and the example's weight."""

    def __init__(self, histories: Histories, preferences: csr_matrix, users: np.ndarray):
        self.histories, self.preferences, self.users = histories, preferences, users

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, example: int | tuple[int, float]) -> tuple[np.ndarray, np.ndarray, float]:
        index, weight = example if isinstance(example, tuple) else (example, 1.0)
        user = self.users[index]
        return self.histories[user], self.preferences[user].toarray()[0], weight


class _Batches(DataLoader):
    """torch's loader, which passes the epoch on to the sampler of batches."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class _ReconstructionTrainer(Trainer):
    """transformers' Trainer with batches of our own, that saves only what is trained.

    Args:
        sampler: the batches of the training examples.
        **kwargs: as transformers' Trainer takes them.
    """

    def __init__(self, sampler: PositionBudgetSampler, **kwargs):
        self._sampler = sampler
        self.steps_an_epoch = len(sampler)
        self.last_loss = float("nan")
        self.best_before: str | None = None  # of the run that this one goes on from
        super().__init__(**kwargs)

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate, which would deal out whole batches to the processes.
        return _Batches(
            self.train_dataset, batch_sampler=self._sampler, collate_fn=self.data_collator
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        weight = inputs.pop("weight")
        outputs = model(**inputs)
        loss = outputs["loss"]
        if model.training:
            # Batches differ in size. Every user of the epoch counts the same: the sum over the batch,
            # divided by the mean number of users in one. DDP averages over the processes.
            share = self.args.world_size / self._sampler.examples_a_batch
            loss = (outputs["error"] * weight).sum() * share
            self.last_loss = loss.item()
            self._check_finite()
        outputs["error"] = outputs["error"].detach()
        return (loss, outputs) if return_outputs else loss

    def _check_finite(self) -> None:
        # Before the step is taken: the last checkpoint stays good.
        if not np.isfinite(self.last_loss):
            raise ValueError(
                f"Fine-tuning: the loss is {self.last_loss} at step {self.state.global_step + 1} (epoch "
                f"{self.state.epoch:.2f}). Try a smaller sft_learning_rate, or llm_quantization: none. "
                f"The last checkpoint before it is kept, and the next run goes on from there."
            )

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
                f"Fine-tuning: its best epoch, [{best}], cannot be used: {problem}. The next run "
                f"starts anew."
            )
        self.model.load(best)


class _Watch(TrainerCallback):
    """Positions a second, a line an epoch, TensorBoard's curves, and when to write a checkpoint."""

    def __init__(self, meter: Meter, constant: float | None, log_folder: str | None, bar: tqdm):
        self.trainer: _ReconstructionTrainer | None = None
        self.meter, self.constant, self.bar = meter, constant, bar
        self.writer = SummaryWriter(log_folder) if log_folder else None
        self._saved_at = monotonic()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.best_model_checkpoint is None and self.trainer.best_before is not None:
            # transformers looks where it was written, and the folder may have moved since.
            best = Path(args.output_dir, Path(self.trainer.best_before).name)
            state.best_model_checkpoint = str(best)
        done = state.global_step / max(state.max_steps, 1)
        self.bar.initial = self.bar.n = round(done * self.bar.total)

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs) -> None:
        self.bar.update(self.meter.trained_positions + self.bar.initial - self.bar.n)
        if self.writer:
            self.writer.add_scalar("fine_tuning/loss", self.trainer.last_loss, state.global_step)
            rate = lr_scheduler.get_last_lr()[0]
            self.writer.add_scalar("fine_tuning/learning_rate", rate, state.global_step)
        ends_an_epoch = state.global_step % self.trainer.steps_an_epoch == 0
        # An epoch's own checkpoint comes after its evaluation, and would be passed over.
        if not ends_an_epoch and processes.agree(
            monotonic() - self._saved_at > _SECONDS_A_CHECKPOINT
        ):
            control.should_save = True

    def on_save(self, args, state, control, **kwargs) -> None:
        self._saved_at = monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        epoch = round(state.epoch)
        if "eval_error" in logs:
            getLogger().info(
                f"fine-tuning epoch {epoch} held-out users [loss: {logs['eval_error']:.4f}, "
                f"constant predictor: {self.constant:.4f}, cosine: {logs['eval_cosine']:.4f}]"
            )
            if self.writer:
                loss = logs["eval_error"]
                self.writer.add_scalar("fine_tuning/held_out_loss", loss, state.global_step)
        elif "loss" in logs:
            getLogger().info(f"fine-tuning epoch {epoch} training [loss: {logs['loss']:.4f}]")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()


def split_users(n_users: int, valid_ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Users to learn from and users to watch by; ascending positions. One user is learned from."""
    n_valid = min(max(round(n_users * valid_ratio), 1 if valid_ratio > 0 else 0), n_users - 1)
    shuffled = np.random.default_rng(seed).permutation(n_users)
    return np.sort(shuffled[n_valid:]), np.sort(shuffled[:n_valid])


def fine_tune(
    model: ReconstructionModel,
    prompt: Prompt,
    histories: Histories,
    preferences: csr_matrix,
    settings: FineTuningSettings,
    checkpoints: Path,
    device: torch.device,
    show_progress: bool = True,
    log_folder: str | None = None,
) -> FineTuningReport:
    """Fit the adapters and projections to the users' prior preferences.

    Args:
        model: trained in place; at the end it holds its best epoch on the held-out users.
        prompt: the words around the history.
        histories: the training histories, of n users.
        preferences: ḡ, [n, K], rows in the order of ``histories``.
        checkpoints: a folder for the checkpoints, one an epoch at least; if it holds any, training
            goes on from the last.
        device: where ``model`` lives.
        log_folder: for TensorBoard; None for none.

    Raises:
        ValueError: the loss became NaN or infinite.
        RuntimeError: a batch does not fit the device's memory.
    """
    train_users, valid_users = settings.split(len(histories))
    valid_users = valid_users[np.argsort(histories.lengths[valid_users], kind="stable")]
    watched = len(valid_users) > 0
    mean = constant_prediction(preferences[train_users])
    constant = constant_loss(preferences[valid_users], mean) if watched else None
    sampler = _batches_of(prompt, histories.lengths[train_users], settings)
    with metered(model.reader) as meter:
        bar = tqdm(
            total=settings.epochs * sampler.positions_an_epoch(_shared_positions(prompt)),
            desc="Fine-tuning",
            unit=" positions",
            unit_scale=True,
            disable=not show_progress,
        )
        watch = _Watch(meter, constant, log_folder if processes.is_first() else None, bar)
        trainer = _ReconstructionTrainer(
            sampler,
            model=model,
            args=_training_arguments(settings, checkpoints, device, watched, prompt),
            data_collator=partial(_collate, prompt),
            train_dataset=_UserExamples(histories, preferences, train_users),
            eval_dataset=_UserExamples(histories, preferences, valid_users) if watched else None,
            compute_metrics=_held_out_means,
            callbacks=[watch],
        )
        watch.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        if watched:
            trainer.add_callback(EarlyStoppingCallback(settings.stopping_step))
        _run(trainer, checkpoints)
    epochs = _epoch_reports(trainer.state.log_history)
    return FineTuningReport(len(train_users), len(valid_users), constant, epochs, meter.cost())


def _collate(
    prompt: Prompt, examples: Sequence[tuple[np.ndarray, np.ndarray, float]]
) -> dict[str, Tensor]:
    """A batch of ``_UserExamples``."""
    users, targets, weights = zip(*examples, strict=True)
    batch = prompt.batch(users)
    batch["preference"] = torch.from_numpy(np.stack(targets)).float()
    batch["weight"] = torch.tensor(weights)
    return batch


def _held_out_means(output: EvalPrediction) -> dict[str, float]:
    """Eq. 3 and the cosine as means over users.

    transformers' own eval_loss is a mean over batches, and with several processes some users are read
    twice to fill the last one.
    """
    error, cosine = output.predictions
    return {"error": float(error.mean()), "cosine": float(cosine.mean())}


def _batches_of(
    prompt: Prompt, lengths: np.ndarray, settings: FineTuningSettings
) -> PositionBudgetSampler:
    """The batches of an epoch; logs what they are."""
    # The instruction is not counted, so that the batches are the same with and without sharing it.
    own = replace(prompt, shared_prefix=True).lengths(lengths)
    sampler = PositionBudgetSampler(
        own, settings.batch_positions, settings.seed, processes.number(), processes.count()
    )
    getLogger().info(
        f"Fine-tuning on {len(lengths)} users in {len(sampler)} batches an epoch, "
        f"{sampler.examples_a_batch:.1f} users each; {100 * sampler.padding_share():.1f} % of the "
        f"positions are padding; instruction of {len(prompt.before)} positions "
        f"{'shared by a batch' if prompt.shared_prefix else 'in every prompt'}"
    )
    return sampler


def _shared_positions(prompt: Prompt) -> tuple[int, int]:
    """The positions of the instruction: for each batch, for each prompt."""
    return (len(prompt.before), 0) if prompt.shared_prefix else (0, len(prompt.before))


def _run(trainer: Trainer, checkpoints: Path) -> None:
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
            "Fine-tuning: a batch does not fit the GPU's memory. With llm_gradient_checkpointing: True "
            "the next run goes on from the last checkpoint; with a smaller sft_batch_positions or "
            f"llm_quantization: nf4 it starts anew. torch says: {error}"
        ) from error
    finally:
        # On resuming, transformers takes NumPy's types off torch's list of what a file may hold, also
        # where others have put them there: RecBole could not read its own checkpoints any more.
        torch.serialization.add_safe_globals(allowed)
        # accelerate leaves its autocast around the model's forward; give the model back as it came.
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _training_arguments(
    settings: FineTuningSettings,
    checkpoints: Path,
    device: torch.device,
    watched: bool,
    prompt: Prompt,
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(checkpoints.resolve()),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=0.05,  # below 1 it is a share of all steps
        optim=settings.optimizer,
        per_device_eval_batch_size=_users_a_batch(settings, prompt),
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        bf16=bf16_is_fast(device),
        eval_strategy="epoch" if watched else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # a NaN must be seen, not averaged away
        save_total_limit=3,  # the best, the last, and the one before while the last is being written
        load_best_model_at_end=watched,
        metric_for_best_model="error" if watched else None,
        greater_is_better=False,
        label_names=["preference"],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        restore_callback_states_from_checkpoint=True,  # the count of epochs without a better loss
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        disable_tqdm=True,  # a bar of our own counts positions
        report_to="none",
    )
    arguments._n_gpu = 1  # else transformers divides every batch among all GPUs it sees
    return arguments


def _users_a_batch(settings: FineTuningSettings, prompt: Prompt) -> int:
    """Held-out users in a batch, were they all of the longest history."""
    longest = len(prompt.before) + prompt.max_history + len(prompt.after)
    return max(settings.batch_positions // longest, 1)


def _epoch_reports(log_history: list[dict]) -> list[EpochReport]:
    reports: dict[int, EpochReport] = {}
    for entry in log_history:
        epoch = round(entry["epoch"])
        if "loss" in entry:
            reports[epoch] = EpochReport(epoch, entry["loss"])
        elif "eval_error" in entry:
            reports[epoch].valid_loss = entry["eval_error"]
            reports[epoch].valid_cosine = entry["eval_cosine"]
    return list(reports.values())
