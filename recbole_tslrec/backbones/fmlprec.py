"""FMLP-Rec, the one backbone of the paper that RecBole 1.2.1 does not have.

Reference:
    Kun Zhou et al. "Filter-enhanced MLP is All You Need for Sequential Recommendation."
    in WWW 2022.
    Reference code: https://github.com/RUCAIBox/FMLP-Rec
"""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.layers import FeedForward
from recbole.model.loss import BPRLoss
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor, nn


class FilterLayer(nn.Module):
    """A learned complex filter per feature, applied in the frequency domain over time.

    ``LayerNorm(x + dropout(irfft(rfft(x) * W)))``, both transforms orthonormal.

    Args:
        max_seq_length: L, the number of positions; the input must have exactly so many.
        hidden_size: H.
        hidden_dropout_prob: dropout after the inverse transform.
        layer_norm_eps: the LayerNorm's epsilon.
    """

    def __init__(
        self,
        max_seq_length: int,
        hidden_size: int,
        hidden_dropout_prob: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        # Real and imaginary part apart, as in the reference code: optimizers, checkpoints and mixed
        # precision then see an ordinary real parameter.
        self.complex_weight = nn.Parameter(
            torch.randn(max_seq_length // 2 + 1, hidden_size, 2) * 0.02
        )
        self.dropout = nn.Dropout(hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, input_tensor: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(input_tensor, dim=1, norm="ortho")  # [B, L//2+1, H]
        spectrum = spectrum * torch.view_as_complex(self.complex_weight)
        filtered = torch.fft.irfft(spectrum, n=input_tensor.size(1), dim=1, norm="ortho")
        return self.LayerNorm(self.dropout(filtered) + input_tensor)  # [B, L, H]


class FMLPRec(SequentialRecommender):
    """Item and position embedding, then blocks of a learned filter over time and a feed-forward.

    The reference code pads on the left, lets the padding take part in the transform and reads the
    last position. RecBole pads on the right, so the rows are rolled first. Every output position
    depends on all input positions: the model is not causal.

    Raises:
        NotImplementedError: ``loss_type`` is neither BPR nor CE.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        hidden_size = config["hidden_size"]
        dropout = config["hidden_dropout_prob"]
        eps = config["layer_norm_eps"]
        self.initializer_range = config["initializer_range"]
        self.loss_type = config["loss_type"]

        self.item_embedding = nn.Embedding(self.n_items, hidden_size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential()
        for _ in range(config["n_layers"]):
            self.blocks.append(FilterLayer(self.max_seq_length, hidden_size, dropout, eps))
            self.blocks.append(
                FeedForward(hidden_size, config["inner_size"], dropout, config["hidden_act"], eps)
            )

        if self.loss_type == "BPR":
            self.loss_fct = BPRLoss()
        elif self.loss_type == "CE":
            self.loss_fct = nn.CrossEntropyLoss()
        else:
            raise NotImplementedError("Make sure 'loss_type' in ['BPR', 'CE']!")
        self.apply(self._init_weights)

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The users' representations.

        Args:
            item_seq: int64 [B, MAX_ITEM_LIST_LENGTH], padded with 0 on the right.
            item_seq_len: int64 [B].

        Returns:
            [B, H].
        """
        item_seq = roll_padding_to_left(item_seq, item_seq_len)
        positions = torch.arange(item_seq.size(1), device=item_seq.device)
        hidden = self.item_embedding(item_seq) + self.position_embedding(positions)  # [B, L, H]
        hidden = self.blocks(self.dropout(self.LayerNorm(hidden)))
        return hidden[:, -1]  # [B, H]

    # Weights, losses and scores are SASRec's: both models score a user's representation against
    # `item_embedding`. Their constructors differ, so this is no subclass of SASRec.
    _init_weights = SASRec._init_weights
    calculate_loss = SASRec.calculate_loss
    predict = SASRec.predict
    full_sort_predict = SASRec.full_sort_predict


def roll_padding_to_left(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """Moves the padding of every row from its right end to its left.

    Args:
        item_seq: int64 [B, L], padded on the right.
        item_seq_len: int64 [B], the number of items of each row, from 0 to L.

    Returns:
        int64 [B, L]; the items keep their order and end at the last position.
    """
    length = item_seq.size(1)
    positions = torch.arange(length, device=item_seq.device)
    return item_seq.gather(1, (positions + item_seq_len.unsqueeze(1)) % length)
