"""What POD learns from: one random segment of each user's history an epoch, and candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.store.arrays import arrays_hash


def longest_segment(history: np.ndarray, sizes: np.ndarray, most: int) -> np.ndarray:
    """The segment of a history that takes the most positions.

    Args:
        history: internal ids.
        sizes: the positions of each item, by internal id.
        most: how many items of a segment enter a prompt.
    """
    n = min(most, len(history))
    ends = np.cumsum(np.append(0, sizes[history]))
    start = int(np.argmax(ends[n:] - ends[: len(ends) - n]))
    return history[start : start + n]


class Segments:
    """Examples for the training loop: each user once an epoch in each task.

    Sequential (POD §3.3): a segment of the history begins anywhere before its last item, and ends
    anywhere behind that beginning; the item after it is the target. Top-N: one item of the history is
    the positive, and the other candidates are drawn evenly from all items outside it, as many as are
    asked for and fit the prompt; all are shuffled. What is drawn follows from the seed and the epoch
    alone. Only training histories are read, so that an item that was held out may be a negative, as
    anything unseen may.

    Args:
        histories: the users' training histories, of two items or more each.
        users: their token ids, [n_users, L] int64.
        sentences: the numbers of each task's sentences, in the order of the tasks.
        sizes: the positions of each item in a prompt, by internal id, [n_items + 1] int64.
        n_candidates: of a top-N prompt.
        room: the positions of each user's candidates at the most, [n_users] int64.
        seed: of what is drawn.
    """

    def __init__(
        self,
        histories: Histories,
        users: np.ndarray,
        sentences: Sequence[range],
        sizes: np.ndarray,
        n_candidates: int,
        room: np.ndarray,
        seed: int,
    ):
        self.histories, self.users, self.sentences = histories, users, sentences
        self.sizes, self.n_candidates, self.room, self.seed = sizes, n_candidates, room, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's sentences and segments."""
        self._epoch = epoch
        generator = np.random.default_rng((self.seed, epoch))
        n_users, lengths = len(self.histories), self.histories.lengths
        self._sentences = [
            generator.integers(part.start, part.stop, n_users) for part in self.sentences
        ]
        self.starts = generator.integers(0, lengths - 1)
        self.ends = generator.integers(self.starts + 1, lengths)

    def __len__(self) -> int:
        return len(self.histories) * len(self.sentences)

    def __getitem__(self, number: int) -> tuple[int, np.ndarray, np.ndarray, int]:
        task, user = divmod(number, len(self.histories))
        history = self.histories[user]
        if task == 0:
            items, target = history[self.starts[user] : self.ends[user]], history[self.ends[user]]
        else:
            items, target = self._candidates(number, history, self.room[user])
        return self._sentences[task][user], self.users[user], items, int(target)

    def _candidates(self, number: int, history: np.ndarray, room: int) -> tuple[np.ndarray, int]:
        generator = np.random.default_rng((self.seed, self._epoch, number))
        positive = generator.choice(history)
        others = np.setdiff1d(np.arange(1, len(self.sizes)), history)
        size = min(self.n_candidates - 1, len(others))
        others = generator.choice(others, size, replace=False)
        fit = np.cumsum(self.sizes[others]) <= room - self.sizes[positive]
        return generator.permutation(np.append(others[fit], positive)), positive

    def content_hash(self) -> str:
        """A hash of all that they are drawn from."""
        return arrays_hash(self.histories.items, self.histories.offsets, self.users)
