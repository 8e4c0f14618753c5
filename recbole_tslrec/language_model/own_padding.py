"""Whether padding is nothing to a model: tried, not looked up by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# How far padding may move the states, as a share of what other words do. all-MiniLM is off by 1e-6 in
# float32, .004 in bf16 and .03 in 8 bits; what reads padding by .2 to .7, if its weights are not tiny.
_EXACT, _ROUNDED = 1e-3, 0.1
_LENGTH = 4


@torch.no_grad()
def check_padding(encoder: nn.Module, name: str) -> None:
    """Raise ValueError if a prompt's states depend on the padding behind it, on a few positions.

    What a model gives for a prompt would hang on what shares its batch.
    """
    words = encoder.get_input_embeddings()
    tokens = words.num_embeddings // 2 + torch.arange(2 * _LENGTH, device=words.weight.device)
    first, other = words(tokens % words.num_embeddings).view(2, _LENGTH, -1)
    padding = words(torch.zeros_like(tokens[:_LENGTH]))  # as a template has it

    def states(*texts: Tensor) -> Tensor:
        mask = torch.arange(_LENGTH * len(texts), device=tokens.device) < _LENGTH
        read = {"inputs_embeds": torch.cat(texts)[None], "attention_mask": mask[None].long()}
        return encoder(**read).last_hidden_state[0, :_LENGTH].float()

    alone = states(first)
    moved, effect = (states(first, padding) - alone).norm(), (states(other) - alone).norm()
    exact = encoder.dtype == torch.float32 and not getattr(encoder, "is_quantized", False)
    if moved > (_EXACT if exact else _ROUNDED) * effect:
        raise ValueError(
            f"llm: [{name}], a {encoder.config.model_type}, reads the padding behind a prompt: what it "
            f"gives would hang on what shares the batch. Give another language model."
        )
