"""What a prompt is made of: words, items, a field of free text, learned vectors.

Each segment is tokenised by itself and without special tokens, and so are each label, each item's text
and each separator: a position never depends on what stands beside it, and texts are tokenised once, not
in every prompt. Where a tokenizer joins a blank to the word after it, the blank belongs to that word's
segment: write the label ``(A)`` and the text ``" Nail file"``, not ``(A) `` and ``Nail file``.

A segment's ``positions`` are the arrays of a batch that it writes, of all prompts one after the other:
``token_ids``, ``item_rows`` or ``soft_rows``; where it writes two, each holds its own in place of the
other's (0 among token ids, -1 among rows). Items that are numbered write ``item_numbers``, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from recbole_tslrec.language_model.prompts.ragged import Ragged, spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Positions = dict[str, np.ndarray]
_NOTHING = {"token_ids": 0, "item_rows": -1}


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The token ids of words of ours by themselves; special tokens are those that they name."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def tokens_of_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts that others wrote, items' or a language model's, each by itself.

    A special token's name in them is read as the letters that it is written in: a title with ``[SEP]``
    or ``<|im_end|>`` must not end a prompt.
    """
    if not len(texts):
        return []
    options = {"add_special_tokens": False, "split_special_tokens": True}
    try:
        return tokenizer(list(texts), **options)["input_ids"]
    except ValueError:  # mistral-common's refuses to be told
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Many short texts as token ids: one a row of the item table, or one a label.

    Attributes:
        tokens: all texts' token ids, one after the other, [n] int64.
        lengths: how many tokens each text has, [rows] int64.
    """

    tokens: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int | None = None
    ) -> TokenTable:
        """Tokenise ``texts``, of each the first ``most`` tokens."""
        ids = tokens_of_texts(tokenizer, texts)
        rows = Ragged.of([np.array(row, dtype=np.int64) for row in ids], most, keep="start")
        return cls(rows.flat, rows.counts)

    @classmethod
    def behind(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        before: str,
        texts: Sequence[str],
        most: int | None = None,
    ) -> TokenTable:
        """As ``of``, with the tokens that the texts have behind some words.

        A tokenizer that puts a word's start before whatever it reads puts none there.
        """
        (front,) = tokens_of_texts(tokenizer, [before])
        whole = tokens_of_texts(tokenizer, [before + text for text in texts])
        # Where the words' own tokens change, a text has those that it has by itself.
        ids = [
            row[len(front) :]
            if row[: len(front)] == front
            else tokens_of_texts(tokenizer, [text])[0]
            for row, text in zip(whole, texts, strict=True)
        ]
        rows = Ragged.of([np.array(row, dtype=np.int64) for row in ids], most, keep="start")
        return cls(rows.flat, rows.counts)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each text begins in ``tokens``. [rows]"""
        return np.cumsum(self.lengths) - self.lengths

    def first_alike(self, examples: Sequence[np.ndarray]) -> np.ndarray:
        """Of each row the place of the first of its example with the same text.

        Where a text is scored at several places of a prompt, sums of another order would tell it from
        itself in the last digits.

        Args:
            examples: rows of the table, int64 [any] each.

        Returns:
            [n] int64, places among all rows of all examples, one after the other.
        """
        first: dict[tuple[int, bytes], int] = {}
        numbers = np.repeat(np.arange(len(examples)), [len(rows) for rows in examples])
        rows = np.concatenate(examples)
        spans = zip(self.starts[rows], self.lengths[rows], strict=True)
        texts = [self.tokens[start : start + length].tobytes() for start, length in spans]
        keys = zip(numbers.tolist(), texts, strict=True)
        return np.array([first.setdefault(key, place) for place, key in enumerate(keys)])


@dataclass(frozen=True)
class Words:
    """The same token ids in every prompt."""

    ids: tuple[int, ...]

    @property
    def size(self) -> int:
        """The positions in a prompt."""
        return len(self.ids)

    def positions(self) -> Positions:
        """Those of one prompt, as the head of this file says."""
        return {"token_ids": np.array(self.ids, dtype=np.int64)}


@dataclass(frozen=True)
class Soft:
    """Learned vectors (DELRec §5.2; POD's P_task): the rows ``first`` to ``first + size - 1``."""

    first: int
    size: int

    def positions(self) -> Positions:
        """Those of one prompt."""
        return {"soft_rows": np.arange(self.first, self.first + self.size)}


@dataclass(frozen=True, eq=False)
class Field:
    """Free text of each example, as token ids, such as a summary (LLM-TRSR).

    Attributes:
        name: under which a batch's values give it.
        most: the most tokens.
        keep: which side stays where it is cut, ``start`` or ``end``; None: it is never cut.
    """

    name: str
    most: int | None = None
    keep: str | None = "start"

    def read(self, sequences: Sequence[np.ndarray]) -> Ragged:
        """A batch's values for this segment."""
        return Ragged.of(sequences, self.most, self.keep)

    def sizes(self, values: Ragged) -> np.ndarray:
        """The positions in each prompt. [B]"""
        return values.counts

    def positions(self, values: Ragged) -> Positions:
        """Those of all prompts. [sum of sizes]"""
        return {"token_ids": values.flat}

    def cut(self, values: Ragged, room: np.ndarray) -> Ragged:
        """As much of each text as takes no more than ``room`` positions. [B]"""
        return values.cut(np.maximum(room, 0), self.keep)


@dataclass(frozen=True, eq=False)
class Items:
    """Items of each example, by their rows in the item table: a history, or candidates.

    An item is, in this order: its label, its slot, its text; a separator stands between two items.

    Attributes:
        name: under which a batch's values give it.
        slots: whether an item has a slot, a position that holds its projected embedding.
        texts: the items' texts by row, or None for none.
        labels: the first kept item has the first label, and so on; or None for none.
        separator: token ids between two items.
        most: the most items; of more, the most recent enter.
        candidates: whether all must enter: they are never cut.
        numbered: whether a batch says of each position to which item it belongs, in ``item_numbers``: 0
            for the first kept item of a prompt; an item's separator belongs to it.
    """

    name: str
    slots: bool = False
    texts: TokenTable | None = None
    labels: TokenTable | None = None
    separator: tuple[int, ...] = ()
    most: int | None = None
    candidates: bool = False
    numbered: bool = False

    def __post_init__(self):
        if not self.slots and self.texts is None:
            raise ValueError(f"{self.name}: its items have neither slots nor texts. Give one.")

    def read(self, sequences: Sequence[np.ndarray]) -> Ragged:
        """A batch's values for this segment.

        Raises:
            ValueError: a prompt has more items than there are labels, or more candidates than ``most``.
        """
        values = Ragged.of(sequences, None if self.candidates else self.most)
        largest = int(values.counts.max(initial=0))
        limits = [self.most] if self.candidates and self.most is not None else []
        limits += [len(self.labels.lengths)] if self.labels is not None else []
        if limits and largest > min(limits):
            raise ValueError(
                f"{self.name}: [{largest}] items stand in one prompt, and {min(limits)} can. Give "
                f"fewer items, or more labels."
            )
        return values

    def sizes(self, values: Ragged) -> np.ndarray:
        """The positions in each prompt. [B]"""
        counts = values.counts
        sizes = values.sums(self.texts.lengths[values.flat]) if self.texts is not None else 0
        return sizes + self.slots * counts + self._around(counts)

    def positions(self, values: Ragged) -> Positions:
        """Those of all prompts. [sum of sizes]"""
        alone = self.slots and self.texts is self.labels is None and not self.separator
        if alone and not self.numbered:
            return {"item_rows": values.flat}
        parts = self._parts(values)
        lengths = np.stack([own for _, _, _, own in parts], axis=1)  # [items, parts]
        starts = (np.cumsum(lengths) - lengths.reshape(-1)).reshape(lengths.shape)
        written = {
            name: np.full(lengths.sum(), _NOTHING[name]) for name in {name for name, *_ in parts}
        }
        for at, (name, source, first, own) in zip(starts.T, parts, strict=True):
            written[name][spans(at, own)] = source[spans(first, own)]
        if self.numbered:
            written["item_numbers"] = np.repeat(values.positions(), lengths.sum(axis=1))
        return written

    def _parts(self, values: Ragged) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """What an item is made of, in order.

        Returns:
            of each part the array it writes, all there is to write, and where in that the part of each
            item begins and how much of it that is, [items] each.
        """
        rows, place, parts = values.flat, values.positions(), []
        if self.labels is not None:
            labels = self.labels
            parts.append(("token_ids", labels.tokens, labels.starts[place], labels.lengths[place]))
        if self.slots:
            parts.append(("item_rows", rows, np.arange(len(rows)), np.ones_like(rows)))
        if self.texts is not None:
            texts = self.texts
            parts.append(("token_ids", texts.tokens, texts.starts[rows], texts.lengths[rows]))
        if self.separator:
            between = np.array(self.separator, dtype=np.int64)
            is_last = place + 1 == np.repeat(values.counts, values.counts)
            own = np.where(is_last, 0, len(between))
            parts.append(("token_ids", between, np.zeros_like(rows), own))
        return parts

    def cut(self, values: Ragged, room: np.ndarray) -> Ragged:
        """The most recent items that take no more than ``room`` positions, one at least. [B]"""
        own = np.full(len(values.flat), int(self.slots))
        if self.texts is not None:
            own += self.texts.lengths[values.flat]
        # What an item and all after it take, were it the first: it rises from the last to the first.
        place = values.positions()
        first = np.repeat(np.cumsum(values.counts) - values.counts, values.counts)
        running = np.cumsum(own) - own
        before = running - running[first]
        taken = np.repeat(values.sums(own), values.counts) - before
        taken = taken + self._around(np.repeat(values.counts, values.counts) - place)
        fitting = values.sums(taken <= np.repeat(room, values.counts))
        return values.cut(np.maximum(fitting, 1), "end")

    def _around(self, counts: np.ndarray) -> np.ndarray:
        """The positions of labels and separators where ``counts`` items stand."""
        taken = len(self.separator) * np.maximum(counts - 1, 0)
        if self.labels is not None:
            taken = taken + np.concatenate([[0], np.cumsum(self.labels.lengths)])[counts]
        return taken
