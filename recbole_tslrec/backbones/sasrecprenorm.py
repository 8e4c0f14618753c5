"""SASRec near the form of published logs; RecBole's has BERT's layers, these are nearer to its authors'.

Item embeddings enter times √d; LayerNorm comes before attention, where queries alone go through it,
and before the feed-forward part, which is as narrow as the rest; weights start by Xavier's rule. The
authors' own residual around attention is of the normalised queries, and their attention has no output
layer.

Reference:
    Wang-Cheng Kang and Julian McAuley. "Self-Attentive Sequential Recommendation." in ICDM 2018.
    Reference code, with the softmax over all items: https://github.com/MTandHJ/CE-SCE-LLMRec
    (arXiv 2402.06216). It pads on the left, and its positions count from the latest item. Other than
    here padding takes part in its attention, as rows of zeros; its feed-forward layers start as torch's
    convolutions do; and its softmax has no column for padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor, nn


class Block(nn.Module):
    """``x + attention(LayerNorm(x), x, x)``, then ``y + feed_forward(y)`` with y its LayerNorm.

    Args:
        model: whose sizes and dropouts it has.
        activation: between the two layers of the feed-forward part.
    """

    def __init__(self, model: SASRec, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        hidden_size, inner_size = model.hidden_size, model.inner_size
        self.attention_norm = nn.LayerNorm(hidden_size, eps=model.layer_norm_eps)
        self.attention = nn.MultiheadAttention(
            hidden_size, model.n_heads, dropout=model.attn_dropout_prob, batch_first=True
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=model.layer_norm_eps)
        self.dense_1 = nn.Linear(hidden_size, inner_size)
        self.dense_2 = nn.Linear(inner_size, hidden_size)
        self.activation = activation
        self.dropout = nn.Dropout(model.hidden_dropout_prob)

    def forward(self, states: Tensor, later: Tensor) -> Tensor:
        """The states after the block.

        Args:
            states: [B, L, H].
            later: bool [L, L], true where a position must not look.
        """
        queries = self.attention_norm(states)
        attended, _ = self.attention(queries, states, states, attn_mask=later, need_weights=False)
        states = self.feed_forward_norm(attended + states)
        inner = self.dropout(self.activation(self.dense_1(states)))
        return states + self.dropout(self.dense_2(inner))


class SASRecPreNorm(SASRec):
    """SASRec as above; positions count from the first item on, as in RecBole's."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        activations = [layer.feed_forward.intermediate_act_fn for layer in self.trm_encoder.layer]
        del self.trm_encoder
        self.blocks = nn.ModuleList(Block(self, activation) for activation in activations)
        self.blocks.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.xavier_normal_(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The users' representations.

        Args:
            item_seq: int64 [B, L], padded with 0 on the right; L is at most ``MAX_ITEM_LIST_LENGTH``.
            item_seq_len: int64 [B].

        Returns:
            [B, H].
        """
        length = item_seq.shape[1]
        states = self.item_embedding(item_seq) * self.hidden_size**0.5
        states = self.dropout(
            states + self.position_embedding(self.positions(length, item_seq_len))
        )
        later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        for block in self.blocks:
            states = block(states, later)
        return self.gather_indexes(self.LayerNorm(states), item_seq_len - 1)

    def positions(self, length: int, item_seq_len: Tensor) -> Tensor:
        """The number of each place of the histories.

        Args:
            length: L.
            item_seq_len: int64 [B].

        Returns:
            int64, [B, L] or, if they are the same for all histories, [1, L].
        """
        return torch.arange(length, device=item_seq_len.device)[None]


class SASRecPreNormLatest(SASRecPreNorm):
    """SASRecPreNorm whose positions count from the latest item back, as the published code's do.

    The latest item has the last of ``MAX_ITEM_LIST_LENGTH`` positions, whatever the history's length.
    Whole-sequence training leaves an item at one position, that from the end of the whole window; on
    prefixes it would move with the target.
    """

    def positions(self, length: int, item_seq_len: Tensor) -> Tensor:
        """As of SASRecPreNorm, int64 [B, L]; what they are on padding is meaningless."""
        n_positions = self.position_embedding.num_embeddings
        first = n_positions - item_seq_len[:, None]
        return (first + super().positions(length, item_seq_len)).clamp(max=n_positions - 1)
