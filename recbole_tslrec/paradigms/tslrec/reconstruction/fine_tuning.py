"""Information reconstruction: the language model learns the users' preferences (paper §4.1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.language_model.prompt import Prompt
from recbole_tslrec.language_model.task import Epoch, TrainingSettings
from recbole_tslrec.language_model.training import train
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    constant_loss,
    constant_prediction,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel
from recbole_tslrec.paradigms.tslrec.reconstruction.task import reconstruction_task


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


@dataclass
class EpochReport:
    """What an epoch of fine-tuning came to; None where no users are held out."""

    epoch: int
    train_loss: float
    valid_loss: float | None = None
    valid_cosine: float | None = None

    @classmethod
    def of(cls, epoch: Epoch) -> EpochReport:
        """The same, as the training loop reports it."""
        metrics = epoch.metrics
        return cls(epoch.number, epoch.loss, metrics.get("error"), metrics.get("cosine"))


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
        checkpoints, device, log_folder, and what is raised: as for ``training.train``.
    """
    learned, watched = split_users(len(histories), settings.valid_ratio, settings.seed)
    mean = constant_prediction(preferences[learned])
    constant = constant_loss(preferences[watched], mean) if len(watched) else None
    task = reconstruction_task(
        prompt, histories, preferences, learned, watched, settings.batch_positions, constant
    )
    how = TrainingSettings(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_positions=settings.batch_positions,
        optimizer=settings.optimizer,
        stopping_step=settings.stopping_step,
        seed=settings.seed,
    )
    report = train(model, task, how, checkpoints, device, show_progress, log_folder)
    epochs = [EpochReport.of(epoch) for epoch in report.epochs]
    return FineTuningReport(len(learned), len(watched), constant, epochs, report.cost)
