"""Fine-tuning (paper §4.1): the language model learns the users' preferences. One example is one user.

The prompt holds the items of the training history, the target is the user's prior preference
distribution. Equations 1 to 3 of the paper are in ``reconstruction_model.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.language_model.batches import instruction_positions, own_lengths
from recbole_tslrec.language_model.prompt import items_of, of_histories
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.task import HeldOut, Task, TrainingReport, TrainingSettings
from recbole_tslrec.language_model.training import train
from recbole_tslrec.language_model.workload import Workload, training_workload
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    constant_loss,
    constant_prediction,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel


@dataclass(frozen=True)
class FineTuningSettings(TrainingSettings):
    """How to fine-tune; the keys ``sft_*`` of ``properties/TSLRec.yaml``, and RecBole's seed.

    Attributes:
        valid_ratio: the share of users who are held out.
    """

    valid_ratio: float = field(kw_only=True)

    def split(self, n_examples: int) -> tuple[np.ndarray, np.ndarray]:
        """The examples to learn from and those to watch by."""
        return split_users(n_examples, self.valid_ratio, self.seed)


@dataclass
class FineTuningReport(TrainingReport):
    """The course of fine-tuning; an epoch's metrics are those of ``ReconstructionModel``.

    Attributes:
        n_train_users, n_valid_users: who were learned from, and held out.
        constant_loss: Eq. 3 on the held-out users for the predictor that knows no history: the mean of
            ḡ over the other users. A language model that has learned anything stays below it. None if
            no users are held out.
    """

    n_train_users: int
    n_valid_users: int
    constant_loss: float | None


def split_users(
    n_users: int, valid_ratio: float, seed: int, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Users to learn from and users to watch by; ascending positions. One user is learned from.

    Args:
        least: the fewest to watch by, if there are to be any.
    """
    n_valid = min(max(round(n_users * valid_ratio), least if valid_ratio > 0 else 0), n_users - 1)
    shuffled = np.random.default_rng(seed).permutation(n_users)
    return np.sort(shuffled[n_valid:]), np.sort(shuffled[:n_valid])


def fine_tune(
    model: ReconstructionModel,
    prompt: Template,
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
    learned, watched = settings.split(len(histories))
    mean = constant_prediction(preferences[learned])
    constant = constant_loss(preferences[watched], mean) if len(watched) else None
    task = reconstruction_task(
        prompt, histories, preferences, learned, watched, settings.batch_positions, constant
    )
    report = train(model, task, settings, checkpoints, device, show_progress, log_folder)
    return FineTuningReport(report.epochs, report.cost, len(learned), len(watched), constant)


class _UserExamples:
    """One example a user: the history and ḡ as a dense row."""

    def __init__(self, histories: Histories, preferences: csr_matrix, users: np.ndarray):
        self.histories, self.preferences, self.users = histories, preferences, users

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        user = self.users[number]
        return self.histories[user], self.preferences[user].toarray()[0]


def reconstruction_task(
    prompt: Template,
    histories: Histories,
    preferences: csr_matrix,
    train_users: np.ndarray,
    valid_users: np.ndarray,
    batch_positions: int,
    constant: float | None,
) -> Task:
    """Fitting the users' prior preferences; the epoch is chosen by the loss on held-out users.

    Args:
        prompt: the words around the history.
        histories: the training histories, of n users.
        preferences: ḡ, [n, K], rows in the order of ``histories``.
        train_users, valid_users: whom to learn from and to watch by, positions in ``histories``.
        batch_positions: the budget of a batch.
        constant: Eq. 3 of the constant predictor on the held-out users; None if there are none.
    """
    by_length = valid_users[np.argsort(histories.lengths[valid_users], kind="stable")]
    held_out = HeldOut(
        _UserExamples(histories, preferences, by_length),
        _users_a_batch(prompt, [histories[user] for user in by_length], batch_positions),
    )
    return Task(
        name="Fine-tuning",
        unit="users",
        learning_rate_key="sft_learning_rate",
        examples=_UserExamples(histories, preferences, train_users),
        lengths=own_lengths(prompt, of_histories([histories[user] for user in train_users])),
        collate=partial(_collate, prompt),
        more_positions=instruction_positions(prompt),
        validation=held_out if len(valid_users) else None,
        describe=partial(_describe, constant),
    )


def _collate(
    prompt: Template, examples: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Tensor]:
    users, targets = zip(*examples, strict=True)
    preferences = torch.from_numpy(np.stack(targets)).float()
    return prompt.batch(of_histories(users)) | {"preference": preferences}


def _users_a_batch(prompt: Template, histories: Sequence[np.ndarray], batch_positions: int) -> int:
    """Held-out users in a batch, were they all of the longest history."""
    longest = prompt.context_length
    if items_of(prompt).texts is not None and len(histories):
        longest = int(replace(prompt, shared_prefix=False).lengths(of_histories(histories)).max())
    return max(batch_positions // longest, 1)


def _describe(constant: float | None, metrics: Mapping[str, float]) -> str:
    of_eq_3 = metrics.get("reconstruction", metrics["error"])  # with a second task they differ
    words = f", next title: {metrics['next_title']:.4f}" if "next_title" in metrics else ""
    return (
        f"held-out users [loss: {of_eq_3:.4f}, constant predictor: {constant:.4f}, "
        f"cosine: {metrics['cosine']:.4f}{words}]"
    )


# The means that others compute with; beside ours they are the ablation.
BY_LENGTH = "whole prompts, by length"
_BY_BATCH, _TO_MOST = (
    "whole prompts, padded by batch",
    "whole prompts, padded to the longest of all",
)


def workloads(
    model: ReconstructionModel,
    prompt: Template,
    histories: Histories,
    preferences: csr_matrix,
    settings: FineTuningSettings,
    ablation: bool,
) -> Iterator[Workload]:
    """What an epoch asks of the language model; in an ablation also as others compute it.

    Args:
        model, prompt, histories, preferences, settings: as ``fine_tune`` takes them.
        ablation: whether with whole prompts, batches in any order, and all of one length.
    """
    learned, watched = settings.split(len(histories))
    budget, seed = settings.batch_positions, settings.seed

    def part(prompt: Template, *means) -> Workload:
        task = reconstruction_task(
            prompt, histories, preferences, learned, watched, budget, constant=None
        )
        return training_workload("fine-tuning", task, model, budget, seed, *means)

    ours = part(prompt)
    yield ours
    if not ablation:
        return
    whole = replace(prompt, shared_prefix=False)
    shuffled = np.random.default_rng(seed).permutation(len(learned))
    batches = np.array_split(shuffled, len(ours.batches))  # as many prompts in one on average
    read = of_histories([histories[user] for user in learned])
    longest = int(own_lengths(prompt, read).max())
    yield part(whole, BY_LENGTH)
    yield part(whole, _BY_BATCH, batches)
    yield part(whole, _TO_MOST, batches, longest)
