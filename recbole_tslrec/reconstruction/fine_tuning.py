"""Information reconstruction: the language model learns the users' preferences (paper §4.1).

One example is one user: the prompt holds the items of the training history, the target is the user's
prior preference distribution. Equations 1 to 3 of the paper are ``ReconstructionModel.forward``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint

from recbole_tslrec.language_model.item_prompt_model import ItemPromptModel
from recbole_tslrec.language_model.load import bf16_is_fast, load_adapters, save_adapters
from recbole_tslrec.language_model.prompt import Prompt
from recbole_tslrec.reconstruction.histories import Histories
from recbole_tslrec.reconstruction.preferences import constant_loss, constant_prediction

_PROJECTIONS = "projections.safetensors"
_ADAPTERS = "adapters"


class ReconstructionModel(nn.Module):
    """Eq. 1 to 3: the prompt's hidden state, the distribution over categories, the loss.

    Args:
        reader: the language model that reads items.
        hidden_size: the width of its hidden states.
        n_categories: K.
    """

    def __init__(self, reader: ItemPromptModel, hidden_size: int, n_categories: int):
        super().__init__()
        self.reader = reader
        self.preference_head = nn.Linear(hidden_size, n_categories)  # W_gp, b_gp

    def distribution(self, hidden: Tensor) -> Tensor:
        """Eq. 2: ĝ = softmax(W_gp h + b_gp). [B, hidden] -> [B, K]"""
        return self.preference_head(hidden).float().softmax(dim=1)

    def forward(
        self, token_ids: Tensor, item_rows: Tensor, attention_mask: Tensor, preference: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch of users.

        Args:
            token_ids, item_rows, attention_mask: prompts, as ``Prompt.batch`` makes them.
            preference: ḡ^u, [B, K], rows sum to 1.

        Returns:
            ``loss``, Eq. 3 as the mean over users; ``error`` [B], each user's term of it;
            ``cosine`` [B], the similarity of ĝ^u and ḡ^u.
        """
        hidden = self.reader(token_ids, item_rows, attention_mask)
        predicted = self.distribution(hidden)
        error = (preference - predicted).pow(2).sum(dim=1)
        cosine = F.cosine_similarity(preference, predicted.detach())
        return {"loss": error.mean(), "error": error.detach(), "cosine": cosine}

    def save(self, folder: Path) -> None:
        """Write what is trained: the adapters, and the projections in full precision."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapters(self.reader.language_model, folder / _ADAPTERS)
        projections = {
            f"{name}.{key}": value.float().contiguous().cpu()
            for name, module in self._projections().items()
            for key, value in module.state_dict().items()
        }
        save_file(projections, folder / _PROJECTIONS)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote into a model made under the same settings."""
        load_adapters(self.reader.language_model, Path(folder) / _ADAPTERS)
        stored = load_file(Path(folder) / _PROJECTIONS)
        for name, module in self._projections().items():
            module.load_state_dict({key: stored[f"{name}.{key}"] for key in module.state_dict()})

    def _projections(self) -> dict[str, nn.Linear]:
        return {"linear_proj": self.reader.linear_proj, "preference_head": self.preference_head}


@dataclass(frozen=True)
class FineTuningSettings:
    """How to fine-tune; the keys ``sft_*`` of ``properties/TSLRec.yaml``, and RecBole's seed."""

    epochs: int
    learning_rate: float
    batch_size: int
    valid_ratio: float
    stopping_step: int
    seed: int


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

    def as_dict(self) -> dict:
        return asdict(self)


class _UserExamples(Dataset):
    """One example a user: the history, and ḡ as a dense row."""

    def __init__(self, histories: Histories, preferences: csr_matrix, users: np.ndarray):
        self.histories, self.preferences, self.users = histories, preferences, users

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        user = self.users[index]
        return self.histories[user], self.preferences[user].toarray()[0]


class _ReconstructionTrainer(Trainer):
    """transformers' Trainer that forms batches by length and saves only what is trained."""

    def _get_train_sampler(self, train_dataset=None):
        examples = train_dataset or self.train_dataset
        lengths = examples.histories.lengths[examples.users].tolist()
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        self.model.save(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        self.model.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self.model.load(Path(self.state.best_model_checkpoint))


class _QuietProgressBar(ProgressCallback):
    """The progress bar without transformers' dictionaries of figures between its lines."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        pass


class _EpochLog(TrainerCallback):
    """One line an epoch in RecBole's log, against the constant predictor."""

    def __init__(self, constant: float | None):
        self.constant = constant

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        epoch = round(state.epoch)
        if "eval_loss" in logs:
            getLogger().info(
                f"fine-tuning epoch {epoch} held-out users [loss: {logs['eval_loss']:.4f}, "
                f"constant predictor: {self.constant:.4f}, cosine: {logs['eval_cosine']:.4f}]"
            )
        elif "loss" in logs:
            if not np.isfinite(logs["loss"]):
                # Before this epoch's checkpoint is written: the one before stays the last.
                raise ValueError(
                    f"Fine-tuning: the loss is {logs['loss']} in epoch {epoch} (step "
                    f"{state.global_step}). Try a smaller sft_learning_rate, or "
                    f"llm_quantization: none."
                )
            getLogger().info(f"fine-tuning epoch {epoch} training [loss: {logs['loss']:.4f}]")


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
) -> FineTuningReport:
    """Fit the adapters and projections to the users' prior preferences.

    Args:
        model: trained in place; at the end it holds its best epoch on the held-out users.
        prompt: the words around the history.
        histories: the training histories, of n users.
        preferences: ḡ, [n, K], rows in the order of ``histories``.
        checkpoints: a folder for a checkpoint an epoch; if it holds any, training goes on from the
            last.
        device: where ``model`` lives.

    Raises:
        ValueError: the loss became NaN or infinite.
    """
    train_users, valid_users = split_users(len(histories), settings.valid_ratio, settings.seed)
    watched = len(valid_users) > 0
    constant = None
    if watched:
        mean = constant_prediction(preferences[train_users])
        constant = constant_loss(preferences[valid_users], mean)

    def collate(examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
        batch = prompt.batch([history for history, _ in examples])
        batch["preference"] = torch.from_numpy(np.stack([target for _, target in examples])).float()
        return batch

    trainer = _ReconstructionTrainer(
        model=model,
        args=_training_arguments(settings, checkpoints, device, watched, show_progress),
        data_collator=collate,
        train_dataset=_UserExamples(histories, preferences, train_users),
        eval_dataset=_UserExamples(histories, preferences, valid_users) if watched else None,
        compute_metrics=lambda output: {"cosine": float(output.predictions[1].mean())},
        callbacks=[_EpochLog(constant)],
    )
    trainer.remove_callback(PrinterCallback)
    if show_progress:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_QuietProgressBar)
    if watched:
        trainer.add_callback(EarlyStoppingCallback(settings.stopping_step))
    _run(trainer, checkpoints)
    epochs = _epoch_reports(trainer.state.log_history)
    return FineTuningReport(len(train_users), len(valid_users), constant, epochs)


def _run(trainer: Trainer, checkpoints: Path) -> None:
    """Train, from the last checkpoint if there is one, and leave nothing of the engines behind."""
    allowed = torch.serialization.get_safe_globals()
    try:
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(checkpoints))
    finally:
        # On resuming, transformers takes NumPy's types off torch's list of what a file may hold, also
        # where others have put them there: RecBole could not read its own checkpoints any more.
        torch.serialization.add_safe_globals(allowed)
        # accelerate leaves its autocast around the model's forward; give the model back as it came.
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _last_whole_checkpoint(checkpoints: Path) -> str | None:
    """The last checkpoint that was written to its end; later ones, cut short by a kill, are removed.

    transformers writes trainer_state.json last.
    """
    while (last := get_last_checkpoint(checkpoints)) is not None:
        if (Path(last) / "trainer_state.json").is_file():
            return str(Path(last).resolve())
        shutil.rmtree(last)
    return None


def _training_arguments(
    settings: FineTuningSettings,
    checkpoints: Path,
    device: torch.device,
    watched: bool,
    show_progress: bool,
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=0.05,  # below 1 it is a share of all steps
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        bf16=bf16_is_fast(device),
        eval_strategy="epoch" if watched else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # a NaN must be seen, not averaged away
        save_total_limit=2,  # the last and the best
        load_best_model_at_end=watched,
        metric_for_best_model="loss" if watched else None,
        label_names=["preference"],
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        restore_callback_states_from_checkpoint=True,  # the count of epochs without a better loss
        disable_tqdm=not show_progress,
        report_to="none",
    )
    arguments._n_gpu = 1  # else transformers divides every batch among all GPUs it sees
    return arguments


def _epoch_reports(log_history: list[dict]) -> list[EpochReport]:
    reports: dict[int, EpochReport] = {}
    for entry in log_history:
        epoch = round(entry["epoch"])
        if "loss" in entry:
            reports[epoch] = EpochReport(epoch, entry["loss"])
        elif "eval_loss" in entry:
            reports[epoch].valid_loss = entry["eval_loss"]
            reports[epoch].valid_cosine = entry["eval_cosine"]
    return list(reports.values())
