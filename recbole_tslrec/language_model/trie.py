"""Exact scores of all items whose codes are token sequences: a trie of the codes, level by level.

    s(u, v) = sum_t log p(y_t^v | y_<t^v, x_u)    over the tokens y^v of item v's code

P5 (arXiv 2203.13366, with the codes of arXiv 2305.06569) writes codes by a beam search over such a
trie. Here every inner node, a beginning that several codes may share, is decoded once a prompt, so all
items have a score and none depends on a beam's width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from recbole_tslrec.language_model.prompts.ragged import spans
from recbole_tslrec.language_model.readout import States, head_of


@dataclass(frozen=True, eq=False)
class _Level:
    """The branches from the inner nodes at one depth to their children.

    Attributes:
        tokens: the token of each branch, [E]; the branches of a node stand together.
        counts: how many branches each inner node has, [N], in the nodes' order.
        inner: which branches lead to an inner node of the next depth, [N'], in those nodes' order.
        parents: the inner node of this depth below which each of those is, [N'].
        items, ends: the items whose code ends here, and at which branch.
    """

    tokens: np.ndarray
    counts: np.ndarray
    inner: np.ndarray
    parents: np.ndarray
    items: np.ndarray
    ends: np.ndarray

    def branches_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The branches of some inner nodes: from which of them each is, and which it is."""
        first = np.cumsum(self.counts) - self.counts
        counts = self.counts[nodes]
        return np.repeat(np.arange(len(nodes)), counts), spans(first[nodes], counts)


class Trie:
    """The trie of items' codes.

    Args:
        codes: the token ids of each item's code, [n_items, L] int64, filled up with -1 at the end. No
            two are equal and none begins another: let codes end in a token of their own where one may.

    Raises:
        ValueError: a code is empty, equals another or begins another.
    """

    def __init__(self, codes: np.ndarray):
        self.lengths = (codes >= 0).sum(axis=1)
        if not self.lengths.all():
            raise ValueError(f"the code of item {int(np.argmin(self.lengths))} is empty.")
        self.levels: list[_Level] = []
        node_of = np.zeros(len(codes), dtype=np.int64)  # of the items that go on, at this depth
        alive = np.arange(len(codes))
        while len(alive):
            depth = len(self.levels)
            pairs = np.stack([node_of, codes[alive, depth]], axis=1)
            branches, branch_of = np.unique(pairs, axis=0, return_inverse=True)
            branch_of = branch_of.reshape(-1)
            goes_on = self.lengths[alive] > depth + 1
            inner, node_of = np.unique(branch_of[goes_on], return_inverse=True)
            level = _Level(
                tokens=branches[:, 1],
                counts=np.bincount(branches[:, 0]),
                inner=inner,
                parents=branches[inner, 0],
                items=alive[~goes_on],
                ends=branch_of[~goes_on],
            )
            self._check(level)
            self.levels.append(level)
            alive = alive[goes_on]

    @staticmethod
    def _check(level: _Level) -> None:
        first = {int(end): int(item) for end, item in zip(level.ends, level.items, strict=True)}
        if len(first) < len(level.ends):
            raise ValueError("two items have the same code, and would have the same score.")
        both = np.intersect1d(level.ends, level.inner)
        if len(both):
            raise ValueError(
                f"the code of item {first[int(both[0])]} begins another item's. Let the codes end in a "
                f"token of their own."
            )

    @property
    def widest(self) -> int:
        """The most inner nodes at one depth."""
        return max(len(level.counts) for level in self.levels)


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, states: States, trie: Trie, rows_at_once: int = 512
) -> Tensor:
    """The log-likelihood of every item's code, for each prompt.

    Args:
        model: an encoder-decoder with its head (T5), in evaluation mode.
        states: of its encoder, for B prompts.
        trie: of n_items codes.
        rows_at_once: the most decoder positions computed at once; it changes memory and speed alone.
            A prompt's keys and values are copied for each of them.

    Returns:
        [B, n_items] float32.
    """
    users = max(1, rows_at_once // trie.widest)
    parts = [
        _of_some(model, States(hidden, mask), trie, rows_at_once)
        for hidden, mask in zip(
            states.hidden.split(users), states.attention_mask.split(users), strict=True
        )
    ]
    return torch.cat(parts)


def _of_some(model: nn.Module, states: States, trie: Trie, rows_at_once: int) -> Tensor:
    """The same for few prompts, all of whose nodes at one depth are held at once."""
    device, n_prompts = states.hidden.device, len(states.hidden)
    scores = torch.empty(n_prompts, len(trie.lengths), device=device)
    reached = torch.zeros(n_prompts, 1, device=device)  # the nodes' log-likelihoods, [B, N]
    tokens, parents = np.array([model.config.decoder_start_token_id]), np.zeros(1, np.int64)
    n_before, past, head = 1, None, head_of(model)
    for level in trie.levels:
        branches = torch.empty(n_prompts, len(level.tokens), device=device)
        caches = []
        for prompt, node in _rows(n_prompts, len(tokens), rows_at_once):
            cache = _past_of(past, prompt, prompt * n_before + parents[node], device)
            hidden = _decode(model, states, prompt, tokens[node], cache)
            caches.append(cache)
            logits = head(hidden)  # [rows, vocabulary]
            row, branch = level.branches_of(node)
            gained = logits[row, level.tokens[branch]] - logits.logsumexp(dim=1)[row]
            branches[prompt[row], branch] = reached[prompt[row], node[row]] + gained
        scores[:, level.items] = branches[:, level.ends]
        n_before, past = len(tokens), _joined(caches, past)
        reached, tokens, parents = (
            branches[:, level.inner],
            level.tokens[level.inner],
            level.parents,
        )
    return scores


def _rows(
    n_prompts: int, n_nodes: int, rows_at_once: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a prompt and a node, prompt by prompt, some at a time."""
    for start in range(0, n_prompts * n_nodes, rows_at_once):
        end = min(start + rows_at_once, n_prompts * n_nodes)
        yield np.divmod(np.arange(start, end), n_nodes)


def _decode(
    model: nn.Module,
    states: States,
    prompt: np.ndarray,
    tokens: np.ndarray,
    cache: EncoderDecoderCache,
) -> Tensor:
    """The hidden states of nodes whose last tokens are given, [rows, H]; ``cache`` grows by them."""
    device = states.hidden.device
    known = cache.cross_attention_cache.get_seq_length() > 0
    # Once the cache has the prompts' keys and values, the states themselves are looked at no more.
    prompts = states.hidden[:1].expand(len(prompt), -1, -1) if known else states.hidden
    output = model.get_decoder()(
        input_ids=torch.from_numpy(tokens).to(device)[:, None],
        encoder_hidden_states=prompts,
        encoder_attention_mask=states.attention_mask[torch.from_numpy(prompt).to(device)],
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state[:, 0]


def _past_of(
    past: EncoderDecoderCache | None, prompt: np.ndarray, before: np.ndarray, device: torch.device
) -> EncoderDecoderCache:
    """The keys and values that nodes go on from: of their prompts, and of the nodes before them."""
    if past is None:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    chosen = []
    for cache, rows in ((past.self_attention_cache, before), (past.cross_attention_cache, prompt)):
        part = DynamicCache()
        part.layers = [copy.copy(layer) for layer in cache.layers]
        part.batch_select_indices(torch.from_numpy(rows).to(device))
        chosen.append(part)
    return EncoderDecoderCache(*chosen)


def _joined(
    caches: list[EncoderDecoderCache], past: EncoderDecoderCache | None
) -> EncoderDecoderCache:
    """The keys and values of all nodes of a depth, and of the prompts, one row each."""
    layers = zip(*(cache.self_attention_cache.layers for cache in caches), strict=True)
    nodes = DynamicCache(
        [
            (torch.cat([part.keys for part in parts]), torch.cat([part.values for part in parts]))
            for parts in layers
        ]
    )
    first = caches[0] if past is None else past  # at the root a row is a prompt
    return EncoderDecoderCache(nodes, first.cross_attention_cache)
