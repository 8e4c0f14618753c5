"""The prompt of histories: words, the items of the history, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recbole_tslrec.language_model.prompts.segments import Items, TokenTable, Words, tokens_of
from recbole_tslrec.language_model.prompts.template import Template, special_tokens


@dataclass(frozen=True)
class Prompt:
    """A template of three segments whose values are histories alone.

    Attributes:
        before: the first words' token ids, behind the tokenizer's opening tokens ([CLS], <s>).
        after: those of the last words, before its closing tokens ([SEP]).
        max_history: the most items; of a longer history the most recent enter.
        shared_prefix: whether ``before``, the same in every prompt, stands once beside a batch
            instead of in each of its prompts; see ``shared_prefix.can_share_prefix``.
        slots: whether an item has a slot, a position that holds its projected vector.
        texts: the items' texts by row, or None for none; with slots, a text follows its slot.
        separator: token ids between two items.
        context_length: the most positions; None: those of ``max_history`` slots and the words.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    max_history: int
    shared_prefix: bool = False
    slots: bool = True
    texts: TokenTable | None = None
    separator: tuple[int, ...] = ()
    context_length: int | None = None

    @cached_property
    def template(self) -> Template:
        """What makes its batches."""
        history = Items(
            "history",
            slots=self.slots,
            texts=self.texts,
            separator=self.separator,
            most=self.max_history,
        )
        own = len(self.before) + self.max_history + len(self.after)
        return Template(
            (Words(self.before), history, Words(self.after)),
            own if self.context_length is None else self.context_length,
            self.shared_prefix,
        )

    def lengths(self, histories: np.ndarray) -> np.ndarray:
        """The positions of prompts of slots alone, a shared prefix not counted.

        Args:
            histories: the number of items of each history, [n] int.

        Returns:
            [n] int.
        """
        own_words = len(self.after) + (0 if self.shared_prefix else len(self.before))
        return np.minimum(histories, self.max_history) + own_words

    def lengths_of(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """The positions of the prompts that ``batch`` makes, a shared prefix not counted. [n] int"""
        return self.template.lengths({"history": histories})

    def batch(self, histories: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Prompts for several histories, padded on the right, as ``Template.batch`` gives them.

        Args:
            histories: rows of the item table, oldest first, at least one each.
        """
        return self.template.batch({"history": histories})


def make_prompt(
    tokenizer: PreTrainedTokenizerBase,
    instruction: str,
    response: str,
    max_history: int,
    context_length: int,
    key: str,
) -> Prompt:
    """Turn the words into a prompt that fits the language model's context.

    Args:
        key: by which the user chooses the instruction.

    Raises:
        ValueError: the words leave no room for a single item.
    """
    opening, closing = special_tokens(tokenizer, instruction)
    before = opening + tokens_of(tokenizer, instruction)
    after = tokens_of(tokenizer, response) + closing
    room = context_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"{key} and llm_response: they take {len(before) + len(after)} positions, and the "
            f"language model's context has {context_length}: no room for an item. Shorten the words."
        )
    return Prompt(before, after, min(max_history, room))
