"""Words that open every prompt, read once a batch: fewer positions, equal results.

A causal model's states at a position depend on earlier positions alone, so the keys and values of the
instruction are the same in every prompt. They are computed once and every prompt goes on from them, in
fine-tuning, where the gradient flows back through them, as in augmentation.

In fine-tuning it needs the model's cache, which transformers switches off under gradient checkpointing:
the two exclude each other.
"""

from __future__ import annotations

import inspect
from logging import getLogger

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from recbole_tslrec.language_model.packed_prefixes import (
    Prompts,
    packs,
    read_packed,
    takes_positions,
)

# How far the states may be off, as a share of what the prefix changes in them: rounding in 8 bits or
# bf16 stays far below it, and a model that looks ahead or forgets its cache is off by about 1.
_TOLERANCE = 0.3
# How far two passes over the same positions may be off. An encoder of random weights is at 0.004.
_ROUNDING = 1e-3
# What a model raises that does not take a cache, positions or a mask; LookupError comes from one
# some of whose layers are no attention and ask the cache for a state of their own.
_REFUSED = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)


def continue_prefix(
    model: nn.Module, prefix: Tensor, embeddings: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The hidden states of prompts that begin with the same words.

    Args:
        model: a causal transformers model, with or without adapters.
        prefix: the embeddings of the shared words, [P, H].
        embeddings: what follows them in each prompt, [B, T, H], padded on the right.
        attention_mask: [B, T], 0 at padding.

    Returns:
        The states of the prefix, [1, P, H], and of what follows, [B, T, H].
    """
    cache = DynamicCache()
    # The mask is needed: without one, a model that pads by itself would guess.
    output = model(
        inputs_embeds=prefix[None],
        attention_mask=attention_mask.new_ones(1, len(prefix)),
        past_key_values=cache,
        use_cache=True,
    )
    cache.layers = [_PrefixLayer(layer) for layer in cache.layers]
    rest = model(
        inputs_embeds=embeddings,
        attention_mask=with_prefix(attention_mask, len(prefix)),
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state, rest.last_hidden_state


def continue_prefixes(model: nn.Module, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """The hidden states of prompts several of which go on from each prefix (DELRec, LLM-TRSR).

    Packed in one row where the model's attention allows it, from a cache of the prefixes elsewhere.

    Args:
        model: as for ``continue_prefix``; one that numbers positions must take ``position_ids``.

    Returns:
        The states of the prefixes, [U, P, H], and of what follows, [N, T, H].
    """
    return read_packed(model, prompts) if packs(model) else continue_from_a_cache(model, prompts)


def continue_from_a_cache(model: nn.Module, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """As ``continue_prefixes``, for every causal model that keeps a cache of keys and values."""
    prefix_mask, prefix_of = prompts.prefix_mask, prompts.prefix_of
    cache = DynamicCache()
    output = model(
        inputs_embeds=prompts.prefixes,
        attention_mask=prefix_mask,
        past_key_values=cache,
        use_cache=True,
        **_positions(model, (prefix_mask.cumsum(dim=1) - 1).clamp(min=0)),
    )
    cache.layers = [_PrefixLayer(layer, prefix_of) for layer in cache.layers]
    after = torch.arange(prompts.rest.shape[1], device=prompts.rest.device)
    followed = model(
        inputs_embeds=prompts.rest,
        attention_mask=torch.cat([prefix_mask[prefix_of], prompts.mask], dim=1),
        past_key_values=cache,
        use_cache=True,
        **_positions(model, prefix_mask.sum(dim=1)[prefix_of, None] + after),
    )
    return output.last_hidden_state, followed.last_hidden_state


def _positions(model: nn.Module, position_ids: Tensor) -> dict[str, Tensor]:
    """The positions for a model that would else count padding; some count by the mask alone."""
    return {"position_ids": position_ids} if takes_positions(model) else {}


class _PrefixLayer(DynamicLayer):
    """A layer's keys and values of the prefix, put before those of a pass and not kept with them.

    transformers' own layer would hold the prompts' keys and values of all layers until the pass is
    over, as for words still to come. Nothing comes here, and without gradients one layer's is enough.

    Args:
        layer: the prefix's, [1, heads, P, d], or those of several prefixes, [U, heads, P, d].
        prefix_of: which of several prefixes each prompt has, [B]; None for one that all have.
    """

    def __init__(self, layer: DynamicLayer, prefix_of: Tensor | None = None):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values
        self.prefix_of = prefix_of

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """[B, heads, T, d] each -> [B, heads, P + T, d] each."""
        n_prompts = len(key_states)
        return tuple(
            torch.cat([self._of_each(prefix, n_prompts), states], dim=-2)
            for prefix, states in ((self.keys, key_states), (self.values, value_states))
        )

    def _of_each(self, prefix: Tensor, n_prompts: int) -> Tensor:
        if self.prefix_of is None:
            return prefix.expand(n_prompts, -1, -1, -1)
        return prefix.index_select(0, self.prefix_of)


def with_prefix(attention_mask: Tensor, n_prefix: int) -> Tensor:
    """The mask of whole prompts: [B, T] -> [B, P + T]."""
    return torch.cat(
        [attention_mask.new_ones(len(attention_mask), n_prefix), attention_mask], dim=1
    )


@torch.no_grad()
def looks_back_only(model: nn.Module) -> bool:
    """Whether a position's state depends on no later position: whether the model is causal."""
    was_training = model.training
    model.eval()
    prefix, rest, other_rest = _texts(model, 3)
    mask = torch.ones(2, 8, dtype=torch.int64, device=prefix.device)
    whole = torch.stack([torch.cat([prefix, last]) for last in (rest, other_rest)])
    try:
        states = model(inputs_embeds=whole, attention_mask=mask).last_hidden_state.float()
    finally:
        model.train(was_training)
    first, other = states
    return bool((first[:4] - other[:4]).norm() < _ROUNDING * (first[4:] - other[4:]).norm())


def _texts(model: nn.Module, number: int) -> Tensor:
    """Embeddings of some times four tokens, [number, 4, H].

    From the middle of the vocabulary: the first tokens are special ones in many models, of whose large
    states rounding in bf16 leaves little (SmolLM2: half of the effect that is looked for).
    """
    words = model.get_input_embeddings()
    tokens = words.num_embeddings // 2 + torch.arange(4 * number, device=words.weight.device)
    return words(tokens % words.num_embeddings).view(number, 4, -1)


@torch.no_grad()
def can_share_prefix(model: nn.Module) -> bool:
    """Whether going on from a cached prefix gives this model's own hidden states.

    Tried out on a few positions rather than looked up by the model's name: encoders look ahead, some
    models keep no cache of keys and values, and whichever comes next is judged by what it does.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # under adapters
    if "past_key_values" not in inspect.signature(plain.forward).parameters:
        return False
    was_training = model.training
    model.eval()
    prefix, other_prefix, rest = _texts(model, 3)
    mask = torch.ones(2, 4, dtype=torch.int64, device=prefix.device)
    try:
        whole = torch.stack([torch.cat([first, rest]) for first in (prefix, other_prefix)])
        states = model(inputs_embeds=whole, attention_mask=with_prefix(mask, 4)).last_hidden_state
        begun, continued = continue_prefix(model, prefix, rest.expand(2, 4, -1), mask)
    except torch.OutOfMemoryError:
        raise
    except _REFUSED as error:
        getLogger(__name__).info(
            f"The instruction is read in every prompt, not once a batch: {error!r}"
        )
        return False
    finally:
        model.train(was_training)
    expected, otherwise = states.float()
    effect = (expected[4:] - otherwise[4:]).norm()
    errors = (begun[0] - expected[:4], continued[1] - expected[4:])
    return all(error.norm() < _TOLERANCE * effect for error in errors)


@torch.no_grad()
def can_continue_prefixes(model: nn.Module) -> bool:
    """Whether going on from prefixes of different lengths gives this model's own hidden states.

    Tried out, as ``can_share_prefix`` is, with two prompts behind each prefix: a model must take
    positions that begin behind padding, and a mask of its own where prompts are packed.
    """
    if not can_share_prefix(model):
        return False
    was_training = model.training
    model.eval()
    long, padded, first, second = _texts(model, 4)
    rest = torch.stack([first, second, first, second])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]], device=rest.device)
    prefix_of = torch.tensor([0, 0, 1, 1], device=rest.device)
    try:
        alone = [
            _states_behind(model, prefix, own) for prefix in (long, padded[2:]) for own in rest[:2]
        ]
        prompts = Prompts(
            torch.stack([long, padded]), mask, prefix_of, rest, torch.ones_like(mask)[prefix_of]
        )
        _, continued = continue_prefixes(model, prompts)
    except torch.OutOfMemoryError:
        raise
    except _REFUSED as error:
        getLogger(__name__).info(f"Each prompt is read as a whole: {error!r}")
        return False
    finally:
        model.train(was_training)
    effect = (alone[0] - alone[2]).norm()
    errors = (states - expected for states, expected in zip(continued, alone, strict=True))
    return all(error.norm() < _TOLERANCE * effect for error in errors)


def _states_behind(model: nn.Module, prefix: Tensor, rest: Tensor) -> Tensor:
    """The states of what follows a prefix, read as one text. [T, H] float32"""
    whole = torch.cat([prefix, rest])[None]
    mask = torch.ones(whole.shape[:2], dtype=torch.int64, device=whole.device)
    states = model(inputs_embeds=whole, attention_mask=mask).last_hidden_state
    return states[0, len(prefix) :].float()
