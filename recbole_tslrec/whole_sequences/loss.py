"""The loss over every position of a window, from one pass of a backbone through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender

# Logits, in bytes, that may be kept for the backward pass; above it they are computed again there.
LOGITS_BUDGET = 2**30
# The softmax goes in chunks in either case: a chunk of logits stays in the processor's cache, which
# on 2 CPU cores takes less than half the time of 2,048 rows at once (12,102 items, d = 64).
_CHUNK_ROWS = 256


def whole_sequence_loss(
    model: SequentialRecommender,
    interaction: Interaction,
    item_table: str = "item_embedding",
    logits_budget: int = LOGITS_BUDGET,
) -> Tensor:
    """The mean over the batch's targets of the model's own loss, CE over all items or BPR.

    Args:
        model: a causal backbone (positions count from the left) whose ``forward`` takes the item
            lists and their lengths and ends in ``gather_indexes``, and which scores an item by the
            dot product with its row in the item table.
        interaction: a batch of :class:`.WholeSequenceDataLoader`.
        item_table: the attribute of the item table, an ``nn.Embedding`` ``[n_items, H]``.
        logits_budget: bytes of logits kept for the backward pass; see :func:`softmax_loss`.

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
    return softmax_loss(states, table.weight, positives, logits_budget)


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


def softmax_loss(
    states: Tensor, table: Tensor, targets: Tensor, logits_budget: int = LOGITS_BUDGET
) -> Tensor:
    """The exact mean cross entropy over all items.

    Args:
        states: ``[T, H]``.
        table: ``[n_items, H]``.
        targets: int64 ``[T]``.
        logits_budget: where the logits of all T rows take more bytes (as float32), only a chunk
            of them exists at a time, and they are computed once more in the backward pass: the
            same loss and gradients for one more matrix product.

    Returns:
        The loss, shape ``[]``.
    """
    bytes_per_row = 4 * len(table)
    recompute = len(targets) * bytes_per_row > logits_budget
    rows = max(min(_CHUNK_ROWS, logits_budget // bytes_per_row), 1)
    total = states.new_zeros(())
    for chunk in zip(states.split(rows), targets.split(rows), strict=True):
        if recompute:
            # There is nothing random in it whose state would have to be kept.
            loss = checkpoint(
                _summed_loss, *chunk, table, use_reentrant=False, preserve_rng_state=False
            )
        else:
            loss = _summed_loss(*chunk, table)
        total = total + loss
    return total / len(targets)


def _summed_loss(states: Tensor, targets: Tensor, table: Tensor) -> Tensor:
    return functional.cross_entropy(states @ table.T, targets, reduction="sum")


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
