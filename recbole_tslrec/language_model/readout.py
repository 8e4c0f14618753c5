"""What is read out of a language model's hidden states: a pooled state, logits of chosen tokens.

TSLRec and E4SRec pool (Eq. 1). LlamaRec ranks by the logits of letters behind the prompt (arXiv
2311.02089, §3.2.2), LLM-TRSR by those of "yes" and "no" (arXiv 2403.13325), DELRec by those of letters
at a T5's first position. Logits over a whole vocabulary are never taken at all positions of a prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from recbole_tslrec.language_model.load import meta_model
from recbole_tslrec.language_model.source import LanguageModelSource
from recbole_tslrec.language_model.weight_files import weight_files
from recbole_tslrec.language_model.weights import lacks

# Of which configs tied embeddings scale the decoder's states; a T5's says so itself.
_SCALED_IF_TIED = ("umt5", "switch_transformers")


class States(NamedTuple):
    """The last hidden states of a batch of prompts.

    Attributes:
        hidden: [B, T, H], padded on the right; without a prefix that is read apart.
        attention_mask: [B, T], 0 at padding.
        prefix: the states of what leads, [1, P, H], or [U, P, H] of several prefixes; or None.
        prefix_mask: [U, P], 0 at padding; None where there is one prefix.
        prefix_of: which prefix each prompt has, [B]; None where there is one.
    """

    hidden: Tensor
    attention_mask: Tensor
    prefix: Tensor | None = None
    prefix_mask: Tensor | None = None
    prefix_of: Tensor | None = None


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector a prompt.

    Args:
        hidden: the language model's last hidden states, [B, T, H].
        attention_mask: [B, T], 0 at padding, which is on the right.
        pooling: ``last``, the state at the last prompt position (Eq. 1), or ``mean``.

    Returns:
        [B, H] float32.
    """
    if pooling == "last":
        last = attention_mask.sum(dim=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    weights = attention_mask.unsqueeze(2).float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


def pooled(states: States, pooling: str) -> Tensor:
    """One vector a prompt, as ``pool`` has it; the mean is over a prefix, too. [B, H] float32"""
    hidden, mask, prefix = states.hidden, states.attention_mask, states.prefix
    if prefix is None or pooling == "last":
        return pool(hidden, mask, pooling)
    if states.prefix_of is None:
        prefix = prefix.expand(len(hidden), -1, -1)
        prefix_mask = mask.new_ones(prefix.shape[:2])
    else:
        prefix, prefix_mask = prefix[states.prefix_of], states.prefix_mask[states.prefix_of]
    return pool(torch.cat([prefix, hidden], dim=1), torch.cat([prefix_mask, mask], dim=1), pooling)


@dataclass(frozen=True, eq=False)
class Head:
    """Rows of a language-model head: from hidden states to the logits of some tokens, or of all.

    Attributes:
        weight: [k, H].
        bias: [k], or None.
        scale: what hidden states are multiplied by (in a T5 whose embeddings are its head's).
        factor: what logits are multiplied by (Cohere, Granite).
        cap: what logits are softly kept below (Gemma 2), c tanh(logit / c); None: nothing.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    factor: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., k] float32; call it on the positions that are wanted alone."""
        bias = None if self.bias is None else self.bias.float() * self.factor
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden.float() * (self.scale * self.factor)
            logits = F.linear(states, self.weight.float(), bias)
            return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def rows(self, token_ids: Sequence[int]) -> Head:
        """The head of these tokens alone, in their order."""
        chosen = torch.tensor(token_ids, device=self.weight.device)
        bias = None if self.bias is None else self.bias[chosen]
        return replace(self, weight=self.weight[chosen], bias=bias)


def head_of(model: nn.Module) -> Head | None:
    """The head of a loaded model; of a trunk the token embeddings, where its config says "tied".

    Returns:
        the head, which follows the model's training; None if the model was loaded without it.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    if head is None and config.tie_word_embeddings:
        head = model.get_input_embeddings()
    if head is None:
        return None
    return Head(head.weight, getattr(head, "bias", None), **_around_the_head(config))


def _around_the_head(config: PretrainedConfig) -> dict[str, float | None]:
    """What a model does to its states and logits before and behind its head, by its config."""
    scaled = config.model_type in _SCALED_IF_TIED and config.tie_word_embeddings
    scaled = getattr(config, "scale_decoder_outputs", scaled)
    scale = config.hidden_size**-0.5 if scaled else 1.0
    factor = getattr(config, "logit_scale", None) or 1.0 / getattr(config, "logits_scaling", 1.0)
    return {
        "scale": scale,
        "factor": factor,
        "cap": getattr(config, "final_logit_softcapping", None),
    }


def stores_a_head(source: LanguageModelSource) -> bool:
    """Whether a model's weights hold a head, its own or one that it shares with its embeddings.

    Of a model that comes quantised: whether its safetensors do, under the head's own name.
    """
    whole = meta_model(source, head=True)
    name = f"{_head_name(whole)}.weight"
    if getattr(source.config, "quantization_config", None) is None:
        return not lacks(source, whole, name)
    return any(name in _tensors(file) for file in weight_files(source))


def _head_name(whole: nn.Module) -> str:
    names = {module: name for name, module in whole.named_modules()}
    return names[whole.get_output_embeddings()]


def _tensors(file: Path) -> Collection[str]:
    """The names of a file's tensors; none of what is no safetensors."""
    if file.suffix != ".safetensors":
        return ()
    with safe_open(file, "pt") as stored:
        return set(stored.keys())


def first_answer_states(model: nn.Module, states: States) -> Tensor:
    """The states that give an encoder-decoder's first answered token. [B, H] float32

    Args:
        model: an encoder-decoder.
        states: of its encoder.
    """
    start = torch.full(
        (len(states.hidden), 1), model.config.decoder_start_token_id, device=states.hidden.device
    )
    output = model.get_decoder()(
        input_ids=start,
        encoder_hidden_states=states.hidden,
        encoder_attention_mask=states.attention_mask,
        use_cache=False,
    )
    return output.last_hidden_state[:, 0].float()
