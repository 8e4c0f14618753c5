"""A second task beside Eq. 3: the words of each next item of the history (next-title prediction).

The items' words stand in the prompt, and a causal language model has at each position read what stands
before it: its states there give the next word, so that the task takes no more positions than Eq. 3.
LLM2Rec (arXiv 2506.21579) tunes on it alone, one example an interaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from recbole_tslrec.language_model.readout import Head
    from recbole_tslrec.language_model.source import LanguageModelSource

# Logits over a whole vocabulary are kept for so many words at a time.
_WORDS_AT_A_TIME = 1024


def next_title_loss(head: Head, hidden: Tensor, token_ids: Tensor, item_numbers: Tensor) -> Tensor:
    """The mean cross-entropy, in nats, of the words of a history's items from the second on.

    The separator behind an item is one of its words: it says that the title ends there.

    Args:
        head: of the language model, over its whole vocabulary.
        hidden: the last hidden states, [B, T, H].
        token_ids: what stands at each position, [B, T] int64.
        item_numbers: the item to which a position belongs, 0 for the first, -1 for none. [B, T] int64

    Returns:
        [B] float32; 0 where a history has one item.
    """
    is_read = item_numbers[:, 1:] > 0
    states, words = hidden[:, :-1][is_read], token_ids[:, 1:][is_read]
    head = replace(head, weight=head.weight.float())  # once, and not for each piece
    pieces = zip(states.split(_WORDS_AT_A_TIME), words.split(_WORDS_AT_A_TIME), strict=True)
    losses = [checkpoint(_cross_entropy, head, *piece, use_reentrant=False) for piece in pieces]
    users = is_read.nonzero()[:, 0]
    total = torch.zeros(len(hidden), device=hidden.device).index_add(0, users, torch.cat(losses))
    return total / is_read.sum(dim=1).clamp(min=1)


def _cross_entropy(head: Head, states: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(head(states), words, reduction="none")


def check_next_title(config, source: LanguageModelSource) -> None:
    """Raise ValueError if words are to be predicted that are not in the prompt or are seen before, or
    by a language model without its head.

    Args:
        source: the opened language model.
    """
    from recbole_tslrec.language_model.readout import stores_a_head

    weight = config["sft_next_title"]
    if not weight:
        return
    if config["item_prompt"] != "text":
        why = {
            "slot": "an item has no words in the prompt",
            "both": "the slot before an item's words tells them",
        }[config["item_prompt"]]
        raise ValueError(
            f"sft_next_title={weight}: with item_prompt: [{config['item_prompt']}] {why}. Set "
            f"item_prompt=text, or sft_next_title=0."
        )
    if source.kind != "causal":
        raise ValueError(
            f"sft_next_title={weight}: llm: [{source.name}] is no causal model: it reads the words that "
            f"it would predict. Set llm to a causal model such as smollm2, or sft_next_title=0."
        )
    tied = source.config.get_text_config().tie_word_embeddings
    if not (source.is_random or tied or stores_a_head(source)):
        raise ValueError(
            f"sft_next_title={weight}: the weights of llm: [{source.name}] hold no language-model head, "
            f"which gives the words. Set llm to a model that was saved with it, or sft_next_title=0."
        )
