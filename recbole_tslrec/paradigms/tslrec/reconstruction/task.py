"""What the language model learns in fine-tuning (paper §4.1): one example is one user.

The prompt holds the items of the training history, the target is the user's prior preference
distribution. Equations 1 to 3 of the paper are in ``reconstruction_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.language_model.batches import instruction_positions, own_lengths
from recbole_tslrec.language_model.prompt import Prompt
from recbole_tslrec.language_model.task import HeldOut, Task


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
    prompt: Prompt,
    histories: Histories,
    preferences: csr_matrix,
    train_users: np.ndarray,
    valid_users: np.ndarray,
    batch_positions: int,
    constant: float | None,
) -> Task:
    """Fitting the users' prior preferences; its metrics are Eq. 3 and the cosine on held-out users.

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
        lengths=own_lengths(prompt, [histories[user] for user in train_users]),
        collate=partial(_collate, prompt),
        more_positions=instruction_positions(prompt),
        validation=held_out if len(valid_users) else None,
        describe=partial(_describe, constant),
    )


def _collate(
    prompt: Prompt, examples: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Tensor]:
    users, targets = zip(*examples, strict=True)
    return prompt.batch(users) | {"preference": torch.from_numpy(np.stack(targets)).float()}


def _users_a_batch(prompt: Prompt, histories: Sequence[np.ndarray], batch_positions: int) -> int:
    """Held-out users in a batch, were they all of the longest history."""
    longest = len(prompt.before) + prompt.max_history + len(prompt.after)
    if prompt.texts is not None and len(histories):
        longest = int(replace(prompt, shared_prefix=False).lengths_of(histories).max())
    return max(batch_positions // longest, 1)


def _describe(constant: float | None, metrics: Mapping[str, float]) -> str:
    return (
        f"held-out users [loss: {metrics['error']:.4f}, constant predictor: {constant:.4f}, "
        f"cosine: {metrics['cosine']:.4f}]"
    )
