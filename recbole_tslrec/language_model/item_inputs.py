"""What stands for an item in a prompt: a slot of its embedding, of its text's vector, or its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_tslrec.data.item_catalogue import check_item_text
from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.prompts.segments import TokenTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN_ITEMS = ";"  # where their words stand in a prompt


def has_slots(config: Mapping[str, Any]) -> bool:
    """Whether an item has a position in the prompt that holds a projected vector."""
    return config["item_prompt"] != "text"


def has_words(config: Mapping[str, Any]) -> bool:
    """Whether an item's words stand in the prompt."""
    return config["item_prompt"] != "slot"


def slots_hold_text(config: Mapping[str, Any]) -> bool:
    """Whether the slots are made of text vectors, with or without e_v."""
    return has_slots(config) and config["item_slots"] != "embedding"


def reads_text(config: Mapping[str, Any]) -> bool:
    """Whether the prompts depend on the items' texts."""
    return has_words(config) or slots_hold_text(config)


def unread_texts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of the items' texts, where the prompts do not depend on them."""
    return () if reads_text(config) else ITEM_TEXT.names


def reads_text_alone(config: Mapping[str, Any]) -> bool:
    """Whether the prompts hold nothing of an item but its words, or their vector."""
    return not has_slots(config) or config["item_slots"] == "text"


def within_a_sentence(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What a fingerprint says of how items' words are read; nothing where that makes no difference.

    Stages that were kept before it was told apart are another tokenizer's only where it does: one that
    puts a word's start before whatever it reads, as Llama 2's.
    """
    alone = TokenTable.of(tokenizer, [" a"])
    within = TokenTable.behind(tokenizer, BETWEEN_ITEMS, [" a"])
    return {} if alone.tokens.tolist() == within.tokens.tolist() else {"words": "within a sentence"}


def check_item_inputs(config: Mapping[str, Any]) -> None:
    """Raise ValueError if texts are asked for and no column of them is chosen."""
    for key, asks in (("item_slots", slots_hold_text), ("item_prompt", has_words)):
        if asks(config):
            check_item_text(config, f"{key}={config[key]}:")


def slot_inputs(
    config: Mapping[str, Any], embeddings: Tensor | None, texts: Tensor | None
) -> Tensor:
    """What the slots project, by the key ``item_slots``.

    Side by side both have unit size, so that neither drowns the other; a text vector is without the
    part that all have in common, which of a language model's states is most of their length.

    Args:
        embeddings: e_v, [n_items - 1, d], if the slots hold them.
        texts: vectors of the texts, [n_items - 1, width], if the slots hold them.

    Returns:
        [n_items - 1, d], [n_items - 1, width] or [n_items - 1, d + width].
    """
    if texts is None:
        return embeddings
    own = _to_unit_size(texts - texts.mean(dim=0))
    if config["item_slots"] == "text":
        return own
    return torch.cat([_to_unit_size(embeddings), own], dim=1)


def _to_unit_size(vectors: Tensor) -> Tensor:
    """With a root mean square of 1; zeros stay."""
    size = vectors.pow(2).mean().sqrt()
    return vectors / size if size > 0 else vectors
