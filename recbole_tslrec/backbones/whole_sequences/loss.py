"""The loss over every position of a window, from one pass of a backbone through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender

# The logits that exist at a time: on a CPU what its cache holds, so that nothing is fetched from memory
# twice (a third of the time of 2,048 rows at once, 12,102 items, d = 64); a GPU wants more work a call.
_CHUNK_BYTES = 6 * 2**20
_CHUNK_BYTES_GPU = 2**28


def whole_sequence_loss(
    model: SequentialRecommender,
    interaction: Interaction,
    item_table: str = "item_embedding",
) -> Tensor:
    """The mean over the batch's targets of the model's own loss, CE over all items or BPR.

    Args:
        model: a causal backbone (positions count from the left) whose ``forward`` takes the item
            lists and their lengths and ends in ``gather_indexes``, and which scores an item by the
            dot product with its row in the item table.
        interaction: a batch of :class:`.WholeSequenceDataLoader`.
        item_table: the attribute of the item table, an ``nn.Embedding`` ``[n_items, H]``.

    Returns:
        The loss, shape ``[]``.
    """
    targets = interaction[model.POS_ITEM_ID]
    is_target = targets != 0  # [B, L]
    states = states_at_all_positions(
        model, interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]
    )[is_target]  # [T, H]
    positives = targets[is_target]  # [T]
    table = getattr(model, item_table)
    if model.loss_type == "BPR":
        negatives = interaction[model.NEG_ITEM_ID][is_target]
        scores = [(states * table(items)).sum(dim=-1) for items in (positives, negatives)]
        return model.loss_fct(*scores)
    return softmax_loss(states, table.weight, positives)


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
    with _without_gathering(model):
        states = model(item_seq, item_seq_len)
    if states.shape[:-1] != item_seq.shape:
        raise ValueError(
            f"{type(model).__name__} gives an output of shape {tuple(states.shape)} for items of "
            f"shape {tuple(item_seq.shape)}: its forward does not end in gather_indexes, so its "
            "states at all positions are out of reach. Set train_batching: prefix."
        )
    return states


def softmax_loss(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """The exact mean cross entropy over all items, with no more than a chunk of logits at a time.

    Args:
        states: ``[T, H]``.
        table: ``[n_items, H]``.
        targets: int64 ``[T]``.

    Returns:
        The loss, shape ``[]``, float32 at least; it can be differentiated once.
    """
    return _SoftmaxLoss.apply(states, table, targets) / len(targets)


class _SoftmaxLoss(torch.autograd.Function):
    """The summed cross entropy, whose gradients are made along with it.

    They are the softmax less one at the target, times the other factor of the logits: with a chunk's
    logits still in the processor's cache they cost two matrix products, where autograd would write the
    logits of all rows to memory and read them again.
    """

    @staticmethod
    def forward(ctx, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):  # half precision has no room for it
            exact = torch.promote_types(states.dtype, torch.float32)
            total, *gradients = _loss_and_gradients(states.to(exact), table.to(exact), targets)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = states.dtype, table.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor) -> tuple[Tensor, Tensor, None]:
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        of_states, of_table = ((factor * one).to(dtype) for one, dtype in gradients)
        return of_states, of_table, None


def _loss_and_gradients(
    states: Tensor, table: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed cross entropy and its gradients, ``[]``, ``[T, H]`` and ``[n_items, H]``."""
    total = states.new_zeros(())
    of_states, of_table = torch.empty_like(states), torch.zeros_like(table)
    chunk_bytes = _CHUNK_BYTES if states.is_cpu else _CHUNK_BYTES_GPU
    rows = max(chunk_bytes // (states.element_size() * len(table)), 1)
    for first in range(0, len(states), rows):
        chunk, target = states[first : first + rows], targets[first : first + rows, None]
        logits = chunk @ table.T
        logits -= logits.amax(dim=1, keepdim=True)  # the same softmax, and no overflow
        total -= logits.gather(1, target).sum()
        slope = logits.exp_()  # in place, as all that follows: the softmax, less one at the target
        normaliser = slope.sum(dim=1, keepdim=True)
        total += normaliser.log().sum()
        slope /= normaliser
        slope.scatter_add_(1, target, slope.new_full(target.shape, -1.0))
        torch.mm(slope, table, out=of_states[first : first + rows])
        of_table.addmm_(slope.T, chunk)
    return total, of_states, of_table


@contextmanager
def _without_gathering(model: SequentialRecommender) -> Iterator[None]:
    """Within, the model's ``forward`` returns its states at all positions, ``[B, L, H]``.

    RecBole's sequential models compute them all and end in ``self.gather_indexes(states, last)``.
    An attribute of the instance hides that method for the moment of one pass, so that no backbone's
    ``forward`` has to be written again; the class and other instances see nothing of it.
    """
    model.gather_indexes = lambda states, gather_index: states
    try:
        yield
    finally:
        del model.gather_indexes
