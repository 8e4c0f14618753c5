"""Prompts that go on from their users' prefixes, each prefix and all that follow it in one row.

A row is [padding, prefix, first continuation, second, ...]. The attention mask lets a continuation see
its prefix and itself, and it counts its positions from the prefix on: so its states are those of the
whole prompt. Against a cache of the prefixes it is one pass in place of two, and copies no keys and
values: DELRec's training takes half the time on a CPU (docs/methods/delrec.md). It needs no cache, so
activations may be computed again.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from torch import Tensor, nn

_MASKED = ("eager", "sdpa")  # the attentions that take any mask
# What a config says of attention that looks at columns, or at a part of what is before.
_NARROWER = (
    "sliding_window",
    "window_size",
    "attention_window_size",
    "attention_chunk_size",
    "alibi",
)
_PADDING, _PREFIX, _FIRST = -1, 0, 1  # what stands at a position: from _FIRST on, continuations


class Prompts(NamedTuple):
    """Prompts several of which go on from each prefix.

    Attributes:
        prefixes: embeddings, [U, P, H], padded on the left, so that nothing stands between a prefix
            and what follows it.
        prefix_mask: [U, P], 0 at padding.
        prefix_of: which prefix each prompt goes on from, [N] int64.
        rest: embeddings of what follows in each prompt, [N, T, H], padded on the right.
        mask: of ``rest``, [N, T], 0 at padding.
    """

    prefixes: Tensor
    prefix_mask: Tensor
    prefix_of: Tensor
    rest: Tensor
    mask: Tensor


def takes_positions(model: nn.Module) -> bool:
    """Whether a model can be told at which position each token stands."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # under adapters
    return "position_ids" in inspect.signature(plain.forward).parameters


def packs(model: nn.Module) -> bool:
    """Whether a model takes positions, and a mask [B, 1, T, T] is all that says which sees which.

    A window (Mistral, GPT-Neo) is a second mask, ALiBi (Falcon) makes its own of two dimensions, and
    flash attention takes none.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    whole = kinds == {"full_attention"} and not any(getattr(config, key, None) for key in _NARROWER)
    return takes_positions(model) and config._attn_implementation in _MASKED and whole


def read_packed(model: nn.Module, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """The hidden states, as ``shared_prefix.continue_prefixes`` returns them; those of padding are 0."""
    prefixes, prefix_mask, prefix_of, rest, mask = prompts
    number, place = mask.nonzero(as_tuple=True)  # of each token that is no padding
    row = prefix_of[number]
    column = prefixes.shape[1] + _places_in_rows(row, len(prefixes))
    width = int(column.max()) + 1 - prefixes.shape[1]

    def packed(of_prefix: Tensor, of_rest: Tensor, filling: int) -> Tensor:
        room = of_prefix.new_full((len(of_prefix), width, *of_prefix.shape[2:]), filling)
        return torch.cat([of_prefix, room], dim=1).index_put((row, column), of_rest)

    part = packed(torch.where(prefix_mask == 1, _PREFIX, _PADDING), number + _FIRST, _PADDING)
    within = (prefix_mask.cumsum(dim=1) - 1).clamp(min=0)
    positions = packed(within, prefix_mask.sum(dim=1)[row] + place, 0)
    states = model(
        inputs_embeds=packed(prefixes, rest[number, place], 0),
        attention_mask=_mask(model, part, rest.dtype),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    followed = states.new_zeros(*rest.shape[:2], states.shape[2])
    followed = followed.index_put((number, place), states[row, column])
    return states[:, : prefixes.shape[1]], followed


def _places_in_rows(row: Tensor, n_rows: int) -> Tensor:
    """Of each token its place among its row's, in the order in which they come. [tokens] int64"""
    counts = torch.bincount(row, minlength=n_rows)
    order = torch.argsort(row, stable=True)
    starts = counts.cumsum(dim=0) - counts
    places = torch.empty_like(row)
    places[order] = torch.arange(len(row), device=row.device) - starts[row[order]]
    return places


def _mask(model: nn.Module, part: Tensor, dtype: torch.dtype) -> Tensor:
    """Which position sees which, as the model's attention takes it.

    Args:
        part: what stands at each position, [B, T] int64.

    Returns:
        [B, 1, T, T]; of ``dtype``, to be added, for eager attention, else bool.
    """
    seen, sees = part[:, None, :], part[:, :, None]
    # Padding sees padding: a softmax over nothing has no value.
    mask = ((seen == sees) | ((seen == _PREFIX) & (sees >= _FIRST))).tril()[:, None]
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
