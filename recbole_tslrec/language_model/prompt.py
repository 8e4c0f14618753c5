"""The prompt of histories: a template of words, the items of the history, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from recbole_tslrec.language_model.prompts.segments import Items, Words, tokens_of
from recbole_tslrec.language_model.prompts.template import Template, Values, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HISTORY = "history"  # the name of the items


def of_histories(histories: Sequence[np.ndarray]) -> Values:
    """What ``Template.batch`` and ``Template.lengths`` of such a prompt take.

    Args:
        histories: rows of the item table, oldest first, at least one each.
    """
    return {HISTORY: histories}


def items_of(prompt: Template) -> Items:
    """The items of such a prompt."""
    return next(segment for segment in prompt.segments if isinstance(segment, Items))


def with_numbers(prompt: Template) -> Template:
    """The same prompt, whose batches say of each position to which item of the history it belongs."""
    segments = [
        replace(segment, numbered=True) if isinstance(segment, Items) else segment
        for segment in prompt.segments
    ]
    return replace(prompt, segments=tuple(segments))


def n_words(prompt: Template) -> int:
    """The positions of such a prompt's own words."""
    return sum(segment.size for segment in prompt.segments if isinstance(segment, Words))


def make_prompt(
    tokenizer: PreTrainedTokenizerBase,
    instruction: str,
    response: str,
    max_history: int,
    context_length: int,
    key: str,
) -> Template:
    """Turn the words into a prompt with a slot an item that fits the language model's context.

    The tokenizer's opening tokens ([CLS], <s>) stand before the instruction and its closing ones ([SEP])
    behind the response, if it has any.

    Args:
        max_history: the most items; of a longer history the most recent enter.
        key: by which the user chooses the instruction.

    Returns:
        a template whose context is no longer than its longest prompt.

    Raises:
        ValueError: the words leave no room for a single item, or the tokenizer finds no instruction.
    """
    # Where the opening and closing tokens are is told by an instruction between them.
    if not tokens_of(tokenizer, instruction):
        raise ValueError(
            f"{key}: the tokenizer finds no word in [{instruction!r}]. Set {key}: <words to read>."
        )
    opening, closing = special_tokens(tokenizer, instruction)
    before = Words(opening + tokens_of(tokenizer, instruction))
    after = Words(tokens_of(tokenizer, response) + closing)
    words = before.size + after.size
    if words >= context_length:
        raise ValueError(
            f"{key} and llm_response: they take {words} positions, and the language model's context has "
            f"{context_length}: no room for an item. Shorten the words."
        )
    most = min(max_history, context_length - words)
    return Template((before, Items(HISTORY, slots=True, most=most), after), words + most)
