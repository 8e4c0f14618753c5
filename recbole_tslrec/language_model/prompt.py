"""The prompt: words, one slot an item of the history, words (paper §4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """The words around the slots, as token ids.

    Attributes:
        before: d_inst, with the tokenizer's opening tokens ([CLS], <s>) if it has any.
        after: d_res, with the closing tokens ([SEP]) if it has any.
        max_history: the most slots; of a longer history the most recent items enter.
        shared_prefix: whether ``before``, the same in every prompt, stands once beside a batch
            instead of in each of its prompts; see ``shared_prefix.can_share_prefix``.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    max_history: int
    shared_prefix: bool = False

    def lengths(self, histories: np.ndarray) -> np.ndarray:
        """The positions of the prompts themselves, a shared prefix not counted.

        Args:
            histories: the number of items of each history, [n] int.

        Returns:
            [n] int.
        """
        own_words = len(self.after) + (0 if self.shared_prefix else len(self.before))
        return np.minimum(histories, self.max_history) + own_words

    def batch(self, histories: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Prompts for several histories, padded on the right.

        Args:
            histories: rows of the item table, oldest first, at least one each.

        Returns:
            ``token_ids`` [B, T] int64, meaningless at slots and padding; ``item_rows`` [B, T] int64,
            -1 where the position is not a slot; ``attention_mask`` [B, T] int64, 0 at padding. With
            a shared prefix, T counts what follows it, and ``prefix_ids`` [P] int64 holds it.
        """
        histories = [history[-self.max_history :] for history in histories]
        before = () if self.shared_prefix else self.before
        n_before, n_after = len(before), len(self.after)
        slots = np.array([len(history) for history in histories])
        total = n_before + slots + n_after
        position = np.arange(total.max())[None, :]  # [1, T]
        ends = (n_before + slots)[:, None]  # where the words after begin
        is_slot = (position >= n_before) & (position < ends)
        is_after = (position >= ends) & (position < total[:, None])

        token_ids = np.zeros(is_slot.shape, dtype=np.int64)
        token_ids[:, :n_before] = before
        token_ids[is_after] = np.tile(self.after, len(histories))
        item_rows = np.full(is_slot.shape, -1, dtype=np.int64)
        item_rows[is_slot] = np.concatenate(histories)
        mask = (position < total[:, None]).astype(np.int64)
        arrays = {"token_ids": token_ids, "item_rows": item_rows, "attention_mask": mask}
        if self.shared_prefix:
            arrays["prefix_ids"] = np.array(self.before, dtype=np.int64)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def make_prompt(
    tokenizer: PreTrainedTokenizerBase,
    instruction: str,
    response: str,
    max_history: int,
    context_length: int,
) -> Prompt:
    """Turn the words into a prompt that fits the language model's context.

    Raises:
        ValueError: the words leave no room for a single item.
    """
    opening, closing = _special_tokens(tokenizer, instruction)
    before = [*opening, *tokenizer(instruction, add_special_tokens=False)["input_ids"]]
    after = [*tokenizer(response, add_special_tokens=False)["input_ids"], *closing]
    room = context_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"the instruction and llm_response: they take {len(before) + len(after)} positions, and the "
            f"language model's context has {context_length}: no room for an item. Shorten the words."
        )
    return Prompt(tuple(before), tuple(after), min(max_history, room))


def _special_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text: [CLS] and [SEP] for BERT, <s> for Llama."""
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
