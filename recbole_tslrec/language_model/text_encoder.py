"""A language model that reads a text alone and gives one vector of it."""

from __future__ import annotations

from torch import Tensor, nn

from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.readout import pool


class TextEncoder(ItemEncoder):
    """The mean of the last hidden states over a text's own tokens, special tokens left out.

    Args:
        language_model: a transformers model.
        prompt: a text between the tokenizer's special tokens.
    """

    def __init__(self, language_model: nn.Module, prompt: Template):
        super().__init__(language_model, item_embeddings=None)
        self.n_before, self.n_after = prompt.n_leading, prompt.segments[-1].size

    def forward(self, **prompts: Tensor) -> Tensor:
        """The arguments as ``Template.batch`` makes them. [B, hidden] float32"""
        states = super().forward(**prompts)
        mask = states.attention_mask
        place = mask.cumsum(dim=1)  # from 1 on; padding is on the right
        last = mask.sum(dim=1, keepdim=True) - self.n_after
        own = mask * (place > self.n_before) * (place <= last)
        return pool(states.hidden, own, "mean")
