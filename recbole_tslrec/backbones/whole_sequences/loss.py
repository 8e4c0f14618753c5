"""The loss over every position of a window, from one pass of a backbone through it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.backbones.hiding import hiding
from recbole_tslrec.backbones.losses import Loss, biased, softmax_loss

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender


def whole_sequence_loss(
    model: SequentialRecommender,
    interaction: Interaction,
    item_table: str = "item_embedding",
    loss: Loss = softmax_loss,
    item_bias: str | None = None,
    added: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The mean over the batch's targets of the model's own loss, CE over all items or BPR.

    Args:
        model: a backbone that is ``causal`` or ``whole_sequences``, whose ``forward`` takes the item
            lists and their lengths and ends in ``gather_indexes``, and which scores an item by the
            dot product with its row in the item table, plus its bias if there is one.
        interaction: a batch of :class:`.WholeSequenceDataLoader`.
        item_table: the attribute of the item table, an ``nn.Embedding`` ``[n_items, H]``.
        loss: what stands for CE.
        item_bias: the attribute of the items' biases, ``[n_items]``; None for a model without.
        added: gives what is added to CE's logits, a constant ``[n, n_items]``, for n histories
            ``[n, L]`` padded on the right; None for nothing.

    Returns:
        The loss, shape ``[]``.
    """
    targets = interaction[model.POS_ITEM_ID]
    is_target = targets != 0  # [B, L]
    states = states_at_all_positions(
        model, interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]
    )[is_target]  # [T, H]
    positives = targets[is_target]  # [T]
    table = getattr(model, item_table).weight
    if item_bias is not None:
        states, table = biased(states, table, getattr(model, item_bias))
    if model.loss_type == "BPR":
        negatives = interaction[model.NEG_ITEM_ID][is_target]
        scores = [
            (states * F.embedding(items, table)).sum(dim=-1) for items in (positives, negatives)
        ]
        return model.loss_fct(*scores)
    if added is not None:
        item_seq = interaction[model.ITEM_SEQ]
        sequences, places = is_target.nonzero(as_tuple=True)  # [T]
        columns = torch.arange(item_seq.shape[1], device=item_seq.device)

        def added_to(rows) -> Tensor:  # as many histories at a time as the loss takes
            return added(item_seq[sequences[rows]] * (columns <= places[rows][:, None]))

        loss = partial(loss, added=added_to)
    return loss(states, table, positives)


def states_at_all_positions(
    model: SequentialRecommender, item_seq: Tensor, item_seq_len: Tensor
) -> Tensor:
    """The model's representation after each item, from one pass.

    Args:
        model: as in :func:`whole_sequence_loss`.
        item_seq: int64 ``[B, L]``, padded with 0 on the right.
        item_seq_len: int64 ``[B]``.

    Returns:
        ``[B, L, H]``; what stands on padding is meaningless.

    Raises:
        ValueError: the model's ``forward`` does not end in ``gather_indexes``.
    """
    # RecBole's sequential models compute them all and end in `self.gather_indexes(states, last)`.
    with hiding(model, gather_indexes=lambda states, gather_index: states):
        states = model(item_seq, item_seq_len)
    if states.shape[:-1] != item_seq.shape:
        raise ValueError(
            f"{type(model).__name__} gives an output of shape {tuple(states.shape)} for items of "
            f"shape {tuple(item_seq.shape)}: its forward does not end in gather_indexes, so its "
            "states at all positions are out of reach. Set train_batching: prefix."
        )
    return states
