"""The tokens of prompts and answers: words, users' numbers, item codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from recbole_tslrec.paradigms.p5.item_codes import BASE, pairs_of_digits

PAD, END = 0, 1  # of a T5; the first also begins an answer
_USER, _ITEM, _DIGITS = (
    0,
    1,
    2,
)  # what is added to the words: two marks, then pairs of digits, then codes
_CODES = _DIGITS + BASE


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token ids: a language model's words, and behind them what users and items are written with.

    A user is a mark and a number in pairs of digits, an item a mark and its code. None of them is in
    the words' own tokenizer: the papers draw the digits' embeddings anew before training, too.

    Attributes:
        words: the token ids of a text without special tokens.
        starts_word: of each id below ``n_words`` whether a word begins with it, [n_words] bool.
        codes: of the items by internal id, [n_items, L] int64, -1 at the end; row 0 is padding's.
    """

    words: Callable[[str], tuple[int, ...]]
    starts_word: np.ndarray
    codes: np.ndarray

    @property
    def n_words(self) -> int:
        """The ids that the language model has by itself."""
        return len(self.starts_word)

    @property
    def size(self) -> int:
        """All ids."""
        return self.n_words + _CODES + int(self.codes.max()) + 1

    def users(self, numbers: np.ndarray, largest: int) -> np.ndarray:
        """Users' numbers, up to ``largest``, as token ids. [n] -> [n, L]"""
        digits = pairs_of_digits(numbers, largest) + self.n_words + _DIGITS
        return np.insert(digits, 0, self.n_words + _USER, axis=1)

    def answers(self) -> np.ndarray:
        """The items' codes as token ids, -1 at the end. [n_items, L] int64"""
        return np.where(self.codes >= 0, self.codes + self.n_words + _CODES, -1)

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """How the items stand in a prompt: all their token ids in one array, and how many each has."""
        written = np.insert(self.answers(), 0, self.n_words + _ITEM, axis=1)
        is_token = written >= 0
        return written[is_token], is_token.sum(axis=1)

    def whole_words(self, of_all: bool) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens begin a whole word, and which belong to one, [size] bool each.

        Args:
            of_all: whether words are whole words as users and items are (P5), or those alone (POD).
        """
        starts, inside = np.zeros((2, self.size), dtype=bool)
        starts[[self.n_words + _USER, self.n_words + _ITEM]] = True
        inside[self.n_words :] = True
        if of_all:
            starts[: self.n_words] = self.starts_word
            inside[END + 1 :] = True
        return starts, inside


def own_words(texts: Iterable[str]) -> tuple[Callable[[str], tuple[int, ...]], np.ndarray]:
    """A vocabulary of the blank-separated words of some texts.

    Returns:
        what gives a text's ids, and which ids begin a word: all but padding and the end.
    """
    found = sorted({word for text in texts for word in text.split()})
    ids = {word: number for number, word in enumerate(found, END + 1)}
    starts = np.arange(END + 1 + len(found)) > END
    return lambda text: tuple(ids[word] for word in text.split()), starts
