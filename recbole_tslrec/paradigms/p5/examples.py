"""What P5 learns from: interactions, each in another sentence every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_tslrec.store.arrays import arrays_hash


class Interactions:
    """Examples for the training loop: a sentence, a user, a history, and the item that came next.

    Every epoch each interaction is written in a sentence drawn anew, by the seed and the epoch alone.

    Args:
        users: token ids of each interaction's user, [n, L] int64.
        histories: int64 [n, MAX_ITEM_LIST_LENGTH], padded on the right.
        lengths: the items of each history, [n] int64.
        targets: [n] int64.
        n_sentences: how many there are.
        seed: of what is drawn.
    """

    def __init__(
        self,
        users: np.ndarray,
        histories: np.ndarray,
        lengths: np.ndarray,
        targets: np.ndarray,
        n_sentences: int,
        seed: int,
    ):
        self.users, self.histories, self.lengths = users, histories, lengths
        self.targets, self.n_sentences, self.seed = targets, n_sentences, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's sentences."""
        generator = np.random.default_rng((self.seed, epoch))
        self.sentences = generator.integers(self.n_sentences, size=len(self.targets))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> tuple[int, np.ndarray, np.ndarray, int]:
        history = self.histories[number, : self.lengths[number]]
        return self.sentences[number], self.users[number], history, self.targets[number]

    def content_hash(self) -> str:
        """A hash of all of them in their order."""
        return arrays_hash(self.users, self.histories, self.lengths, self.targets)


def user_numbers(tokens: Sequence[str]) -> np.ndarray:
    """A number for each internal user id: its place among the sorted tokens. [n_users] int64

    Args:
        tokens: of the internal ids, padding's first.
    """
    numbers = np.empty(len(tokens), dtype=np.int64)
    numbers[sorted(range(len(tokens)), key=tokens.__getitem__)] = np.arange(len(tokens))
    return numbers
