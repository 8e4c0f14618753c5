"""LRURec: blocks of a linear recurrence with complex, learned decay, and a feed-forward.

Reference:
    Zhenrui Yue et al. "Linear Recurrent Units for Sequential Recommendation." in WSDM 2024
    (arXiv 2310.02367).
"""

from __future__ import annotations

import math

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.loss import BPRLoss
from torch import Tensor, nn
from torch.nn import functional

# Between these |λ| starts, uniform in its square.
_SLOWEST, _FASTEST = 0.99, 0.8


def linear_recurrence(inputs: Tensor, decay: Tensor) -> Tensor:
    """h_t = λ ⊙ h_{t−1} + u_t with h_{−1} = 0, in log2(L) steps over all positions at once.

    A step doubles the stretch that a state sums up: h_t = Σ_{j < n} λ^j u_{t−j}, with n = 1, 2, 4, …

    Args:
        inputs: u, complex [B, L, C].
        decay: λ, complex [C].

    Returns:
        h, complex [B, L, C].
    """
    states, reach = inputs, 1
    while reach < inputs.shape[1]:
        earlier = functional.pad(states[:, :-reach], (0, 0, reach, 0))
        states, decay, reach = states + decay * earlier, decay * decay, 2 * reach
    return states


class LinearRecurrentUnit(nn.Module):
    """``LayerNorm(x + dropout(Re(C h + c)))`` with h_t = λ ⊙ h_{t−1} + γ ⊙ (B x_t + b) (§3.2).

    λ = exp(−exp(ν) + i·exp(θ)), so |λ| < 1; ν, θ and log γ are learned for each of the 2H channels.
    All parameters are real: B makes real and imaginary parts, C takes them. So optimisers, checkpoints
    and the clipping of gradients see nothing unusual. The recurrence itself is in single precision at
    least, whatever autocast says.

    Args:
        hidden_size: H.
        dropout: after C.
        layer_norm_eps: the LayerNorm's epsilon.
    """

    def __init__(self, hidden_size: int, dropout: float, layer_norm_eps: float):
        super().__init__()
        channels = 2 * hidden_size
        self.into_channels = nn.Linear(hidden_size, 2 * channels)  # B and b
        self.out_of_channels = nn.Linear(2 * channels, hidden_size)  # C and c
        squared = torch.empty(channels).uniform_(_FASTEST**2, _SLOWEST**2)  # |λ|²
        self.log_rate = nn.Parameter((-0.5 * squared.log()).log())  # ν
        self.log_phase = nn.Parameter((2 * math.pi * (1 - torch.rand(channels))).log())  # θ
        self.log_gain = nn.Parameter((1 - squared).sqrt().log())  # log γ
        self.dropout = nn.Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def decay(self) -> Tensor:
        """λ, complex [2H]."""
        return torch.polar((-self.log_rate.exp()).exp(), self.log_phase.exp())

    def forward(self, states: Tensor) -> Tensor:
        inputs = self.into_channels(states).to(self.log_gain.dtype)  # [B, L, 4H]
        inputs = torch.view_as_complex(inputs.unflatten(-1, (-1, 2)))  # [B, L, 2H]
        hidden = linear_recurrence(self.log_gain.exp() * inputs, self.decay())
        outputs = self.out_of_channels(torch.view_as_real(hidden).flatten(-2))
        return self.LayerNorm(self.dropout(outputs) + states)  # [B, L, H]


class PositionwiseFeedForward(nn.Module):
    """``LayerNorm(x + dropout(W₂ dropout(GELU(W₁ x))))``; RecBole's has no dropout inside."""

    def __init__(self, hidden_size: int, inner_size: int, dropout: float, layer_norm_eps: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, inner_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(inner_size, hidden_size),
            nn.Dropout(dropout),
        )
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(self.layers(states) + states)


class LRURec(SequentialRecommender):
    """A causal backbone without positions: what is long ago has decayed.

    The reference code pads on the left and carries no state over from padding; here padding is on the
    right, where no state reaches an item. Both are the same. An item's score is the product with its
    row of the item table plus a bias of its own.

    Raises:
        NotImplementedError: ``loss_type`` is neither BPR nor CE.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden_size, eps = config["hidden_size"], config["layer_norm_eps"]
        dropout = config["hidden_dropout_prob"]
        self.initializer_range = config["initializer_range"]
        self.loss_type = config["loss_type"]
        self.item_embedding = nn.Embedding(self.n_items, hidden_size, padding_idx=0)
        self.item_bias = nn.Parameter(torch.zeros(self.n_items))
        self.dropout = nn.Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.blocks = nn.Sequential()
        for _ in range(config["n_layers"]):
            self.blocks.append(LinearRecurrentUnit(hidden_size, dropout, eps))
            self.blocks.append(
                PositionwiseFeedForward(hidden_size, config["inner_size"], dropout, eps)
            )
        if self.loss_type == "BPR":
            self.loss_fct = BPRLoss()
        elif self.loss_type == "CE":
            self.loss_fct = nn.CrossEntropyLoss()
        else:
            raise NotImplementedError("Make sure 'loss_type' in ['BPR', 'CE']!")
        self._init_weights()

    def _init_weights(self) -> None:
        """Truncated normal everywhere, but for norms and what says how fast states decay."""
        for name, weight in self.named_parameters():
            if "LayerNorm" not in name and "log_" not in name:
                limit = 2 * self.initializer_range
                nn.init.trunc_normal_(weight, 0.0, self.initializer_range, -limit, limit)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The users' representations.

        Args:
            item_seq: int64 [B, L], padded with 0 on the right.
            item_seq_len: int64 [B].

        Returns:
            [B, H].
        """
        states = self.LayerNorm(self.dropout(self.item_embedding(item_seq)))
        return self.gather_indexes(self.blocks(states), item_seq_len - 1)

    def calculate_loss(self, interaction) -> Tensor:
        positives = interaction[self.POS_ITEM_ID]
        if self.loss_type == "CE":
            return self.loss_fct(self.full_sort_predict(interaction), positives)
        states = self._states(interaction)
        negatives = interaction[self.NEG_ITEM_ID]
        return self.loss_fct(self._scores(states, positives), self._scores(states, negatives))

    def predict(self, interaction) -> Tensor:
        return self._scores(self._states(interaction), interaction[self.ITEM_ID])  # [B]

    def full_sort_predict(self, interaction) -> Tensor:
        states = self._states(interaction)
        return functional.linear(states, self.item_embedding.weight, self.item_bias)  # [B, n_items]

    def _states(self, interaction) -> Tensor:
        return self(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])  # [B, H]

    def _scores(self, states: Tensor, items: Tensor) -> Tensor:
        return (states * self.item_embedding(items)).sum(dim=-1) + self.item_bias[items]
