"""Tuning the language model on the items' words: items that follow each other come to be alike.

The loss is that of the linear map (``contrastive_map.py``), InfoNCE on pairs of consecutive items of the
training histories; what changes is the language model, by LoRA, and not what is made of its vectors.
It starts from the words' own similarity, as the map does. One example is one user: the language model
reads the words of each item of the batch's histories once, whatever the number of pairs. The wrong
answers are the other users' items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.language_model.learner import TrainedParts
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.task import HeldOut, Task
from recbole_tslrec.language_model.text_encoder import TextEncoder
from recbole_tslrec.paradigms.tslrec.augmentation.contrastive_map import consecutive, info_nce

_GROUPS = 6  # in which a batch's texts are read


class TextTuner(TrainedParts):
    """The loss of a batch of users: of each pair, naming the one item from the other.

    Args:
        reader: the language model with adapters, which reads a text alone.
        mean: of the items' vectors before tuning, [hidden]: what all texts have in common is left out
            of the cosine.
        log_frequency: of every item, the logarithm of its share in the pairs, [n_items - 1].
        pairs_a_user: the mean number over the users that are learned from; every pair of the epoch
            counts the same.
    """

    mean: Tensor
    log_frequency: Tensor

    def __init__(
        self, reader: TextEncoder, mean: Tensor, log_frequency: Tensor, pairs_a_user: float
    ):
        super().__init__(reader)
        self.pairs_a_user = pairs_a_user
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("log_frequency", log_frequency, persistent=False)

    def forward(
        self, user: Tensor, pairs: Tensor, items: Tensor, n_users: Tensor, **prompts: Tensor
    ) -> dict[str, Tensor]:
        """Each user's term of the loss, and the share of pairs that are named right.

        Args:
            user: the number in the batch of each pair's user, [N] int64.
            pairs: places in the batch's prompts, [N, 2] int64.
            items: of each prompt, [P] int64, from 0 on.
            n_users: how many there are, [] int64; each has a pair.
            prompts: as ``Template.batch`` makes them, one an item.

        Returns:
            of each user, [B]: ``error``, the sum over its pairs in units of ``pairs_a_user``;
            ``named_right``, how many pairs are, and ``n_pairs`` of how many.
        """
        read = self._read(prompts)
        with torch.autocast(user.device.type, enabled=False):  # bf16 has many cosines equal
            vectors = functional.normalize(read - self.mean, dim=1)
            found = info_nce(vectors[pairs], items[pairs], self.log_frequency, user)
        each = torch.stack([found.loss, found.right, torch.ones_like(found.loss)])
        loss, right, count = torch.zeros(3, int(n_users), device=user.device).index_add(
            1, user, each
        )
        return {"error": loss / self.pairs_a_user, "named_right": right, "n_pairs": count}

    def _read(self, prompts: Mapping[str, Tensor]) -> Tensor:
        """The texts' vectors, [P, hidden]: read in a few groups of like length, for little padding."""
        lengths = prompts["attention_mask"].sum(dim=1)
        by_length = lengths.argsort()
        read = []
        for group in by_length.chunk(_GROUPS):
            longest = int(lengths[group[-1]])
            cut = {name: tensor[group, :longest] for name, tensor in prompts.items()}
            read.append(self.reader(**cut))
        return torch.cat(read)[by_length.argsort()]


@dataclass(frozen=True, eq=False)
class UserPairs:
    """The pairs of consecutive items of each user who has one, users in the order of their tokens.

    Attributes:
        pairs: [n_pairs, 2] int64, from 0 on, those of a user together.
        offsets: [n_users + 1] int64; the pairs of user i are ``pairs[offsets[i]:offsets[i + 1]]``.
    """

    pairs: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> np.ndarray:
        return self.pairs[self.offsets[user] : self.offsets[user + 1]]

    @cached_property
    def log_frequency(self) -> Tensor:
        """For ``TextTuner``, of the items up to the last that is in a pair."""
        counts = torch.from_numpy(np.bincount(self.pairs.flatten()))
        return (counts / counts.sum()).log()

    @classmethod
    def of(
        cls, histories: Histories, user_tokens: np.ndarray, known: np.ndarray, most: int
    ) -> UserPairs:
        """Those of histories.

        Args:
            histories, user_tokens: as ``consecutive`` takes them.
            known: of every item whether it has words, [n_items - 1] bool; others are in no pair.
            most: the most pairs of a user, the latest.
        """
        pairs, users = consecutive(histories, user_tokens)
        kept = known[pairs].all(axis=1)
        pairs, users = pairs[kept], users[kept]
        from_the_end = np.searchsorted(users, users, side="right") - np.arange(len(users))
        pairs, users = pairs[from_the_end <= most], users[from_the_end <= most]
        starts = np.flatnonzero(np.diff(users, prepend=-1))
        return cls(pairs, np.append(starts, len(users)))


class _Users:
    """One example a user: its pairs."""

    def __init__(self, pairs: UserPairs, users: np.ndarray):
        self.pairs, self.users = pairs, users

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.pairs[self.users[number]]


def tuning_task(
    prompt: Template,
    pairs: UserPairs,
    train_users: np.ndarray,
    valid_users: np.ndarray,
    batch_positions: int,
) -> Task:
    """Naming the item beside another; watched by the loss on held-out users, if there are two.

    Args:
        prompt: of an item's words alone.
        pairs: of all users.
        train_users, valid_users: whom to learn from and to watch by, places in ``pairs``.
        batch_positions: the budget of a batch.
    """
    n_items = int(pairs.pairs.max()) + 1
    of_items = prompt.lengths(of_histories(np.arange(1, n_items + 1)[:, None]))

    def positions(users: np.ndarray) -> int:
        return int(of_items[np.unique(np.concatenate([pairs[user] for user in users]))].sum())

    def lengths(users: np.ndarray) -> np.ndarray:
        # A batch compares each of its pairs with all others: many of few items take room as well.
        return np.array([max(positions([user]), len(pairs[user])) for user in users])

    def collate(examples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        items, places = np.unique(np.concatenate(examples), return_inverse=True)
        return {
            "user": torch.from_numpy(np.repeat(np.arange(len(examples)), list(map(len, examples)))),
            "pairs": torch.from_numpy(places.reshape(-1, 2)),
            "items": torch.from_numpy(items),
            "n_users": torch.tensor(len(examples)),
            **prompt.batch(of_histories(items[:, None] + 1)),
        }

    held_out = None
    if len(valid_users) > 1:  # one user alone has no wrong answers
        watched = lengths(valid_users)
        by_length = valid_users[np.argsort(watched, kind="stable")]
        fitting = int(batch_positions // watched.max(initial=1))
        held_out = HeldOut(_Users(pairs, by_length), _users_a_batch(len(watched), fitting))
    return Task(
        name="Text tuning",
        unit="users",
        learning_rate_key="sft_learning_rate",
        examples=_Users(pairs, train_users),
        lengths=lengths(train_users),
        collate=collate,
        least_examples=2,  # one alone has no wrong answers, and teaches nothing
        positions_of=lambda numbers: positions(train_users[numbers]),
        validation=held_out,
        describe=_describe,
    )


def _users_a_batch(n_users: int, fitting: int) -> int:
    """Two at least and, if that can be, no more than fit, so that the last batch is not of one user."""
    sizes = (*range(fitting, 1, -1), *range(max(fitting + 1, 2), n_users + 1))
    return next(size for size in sizes if n_users % size != 1)


def _describe(metrics: Mapping[str, float]) -> str:
    return (
        f"held-out users [loss: {metrics['error']:.4f}, pairs named right: "
        f"{100 * metrics['named_right'] / metrics['n_pairs']:.1f} %]"
    )
