"""BSARec: SASRec whose attention is mixed with a low-pass filter of the history.

Reference:
    Yehjin Shin et al. "An Attentive Inductive Bias for Sequential Recommendation beyond the
    Self-Attention." in AAAI 2024 (arXiv 2312.10325).
    Reference code: https://github.com/yehjin-shin/BSARec
"""

from __future__ import annotations

import torch
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor, nn

from recbole_tslrec.backbones.fmlprec import roll_padding_to_left


def low_pass(length: int, n_frequencies: int) -> Tensor:
    """The matrix that keeps the lowest frequencies of a real signal and sets the others to 0.

    It is ``irfft(first n_frequencies of rfft(·))``. A product with it takes less time than the two
    transforms, since histories are short.

    Args:
        length: L, the number of positions.
        n_frequencies: how many are kept, the constant among them.

    Returns:
        float32 [L, L].
    """
    spectrum = torch.fft.rfft(torch.eye(length, dtype=torch.float64), dim=0)  # [L//2+1, L]
    spectrum[n_frequencies:] = 0
    return torch.fft.irfft(spectrum, n=length, dim=0).float()


class FrequencyLayer(nn.Module):
    """``LayerNorm(x + dropout(low(x) + β² ⊙ high(x)))`` with high(x) = x − low(x) (Eq. 8, 9).

    Args:
        max_seq_length: L, the number of positions; the input must have exactly so many.
        hidden_size: H; β is learned for each feature.
        cutoff: c; the lowest c // 2 + 1 frequencies are left as they are.
        dropout: after the filter.
        layer_norm_eps: the LayerNorm's epsilon.
    """

    low_pass: Tensor  # [L, L]

    def __init__(
        self,
        max_seq_length: int,
        hidden_size: int,
        cutoff: int,
        dropout: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        # Not in checkpoints: it follows from the settings.
        self.register_buffer(
            "low_pass", low_pass(max_seq_length, cutoff // 2 + 1), persistent=False
        )
        self.sqrt_beta = nn.Parameter(torch.randn(hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        # What high frequencies are is a difference, for which half precision has no digits.
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.sqrt_beta.dtype)
            low = self.low_pass.to(states.dtype) @ states  # [B, L, H]
            filtered = torch.lerp(low, states, self.sqrt_beta.square())  # low + β² (x − low)
        return self.LayerNorm(self.dropout(filtered) + states)


class FilteredAttention(nn.Module):
    """α · filter + (1 − α) · self-attention, each with its own residual and LayerNorm (Eq. 7).

    Takes the place of RecBole's ``MultiHeadAttention`` in a transformer layer.
    """

    def __init__(self, attention: nn.Module, frequency_layer: FrequencyLayer, alpha: float):
        super().__init__()
        self.attention = attention
        self.frequency_layer = frequency_layer
        self.alpha = alpha

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        attended = self.attention(states, attention_mask)
        return torch.lerp(attended, self.frequency_layer(states).to(attended), self.alpha)


class BSARec(SASRec):
    """SASRec with a frequency filter beside each self-attention.

    As the reference code does, and FMLP-Rec: padding stands on the left and takes part in the filter,
    and the last position is read. So the model is not causal.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        for layer in self.trm_encoder.layer:
            frequency_layer = FrequencyLayer(
                self.max_seq_length,
                self.hidden_size,
                config["cutoff"],
                self.hidden_dropout_prob,
                self.layer_norm_eps,
            )
            layer.multi_head_attention = FilteredAttention(
                layer.multi_head_attention, frequency_layer, config["alpha"]
            )

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The users' representations.

        Args:
            item_seq: int64 [B, MAX_ITEM_LIST_LENGTH], padded with 0 on the right.
            item_seq_len: int64 [B].

        Returns:
            [B, H].
        """
        item_seq = roll_padding_to_left(item_seq, item_seq_len)
        attention_mask = self.get_attention_mask(item_seq)
        states = self.item_embedding(item_seq) + self.position_embedding.weight  # [B, L, H]
        states = self.dropout(self.LayerNorm(states))
        *layers, last = self.trm_encoder.layer
        for layer in layers:
            states = layer(states, attention_mask)
        # Of the last layer no more is read than the last position: the feed-forward is most of it.
        return last.feed_forward(last.multi_head_attention(states, attention_mask)[:, -1])
