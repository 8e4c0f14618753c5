"""What a training loss makes of users' states and the item table: all items' softmax, or a sample's.

Each takes the states ``[T, H]`` from which targets are predicted, the item table ``[n_items, H]`` with
the padding in row 0, and the targets ``[T]``, int64. A state scores an item by their dot product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

# The logits that exist at a time: on a CPU what its cache holds, so that nothing is fetched from memory
# twice (a third of the time of 2,048 rows at once, 12,102 items, d = 64); a GPU wants more work a call.
# Of few rows the table's gradient, written once a chunk, would take most of the time: of 400,000 items 3
# rows at a time took four times as long as 32.
_CHUNK_BYTES = 6 * 2**20
_CHUNK_BYTES_GPU = 2**28
_ROWS_AT_LEAST = 32


def loss_of(config: Mapping[str, Any], n_items: int, bf16: bool = False) -> Loss:
    """The loss that an experiment asks for in place of the model's own.

    Args:
        config: reads ``sampled_loss``, ``sampled_negatives`` and ``gbce_calibration``.
        n_items: rows of the item table.
        bf16: whether the softmax over all items computes its products in bfloat16.

    Raises:
        ValueError: more items are to be drawn than there are, or gBCE has no negative item.
    """
    kind, n_negatives = config["sampled_loss"], config["sampled_negatives"]
    if kind == "none":
        return partial(softmax_loss, products=torch.bfloat16) if bf16 else softmax_loss
    if kind == "gbce" and n_items < 3:
        raise ValueError(
            "sampled_loss: [gbce] draws other items than the target, and the data set has one item. "
            "Set sampled_loss: none."
        )
    most = n_items - 2 if kind == "gbce" else n_items - 1  # without padding, and gBCE's target
    if n_negatives > most:
        raise ValueError(
            f"sampled_negatives: [{n_negatives}] is more than the {most} items of the data set that "
            f"sampled_loss: [{kind}] draws from. Give fewer, or sampled_loss: none."
        )
    loss = sampled_softmax_loss
    if kind == "gbce":
        loss = partial(gbce_loss, calibration=config["gbce_calibration"])

    def with_new_negatives(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        negatives = torch.randint(1, n_items, (n_negatives,), device=targets.device)
        return loss(states, table, targets, negatives)

    return with_new_negatives


def biased(states: Tensor, table: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """States and table of whose products a bias of each item, ``[n_items]``, is a part.

    The bias is one more column of the table, by which every state has a 1.
    """
    return F.pad(states, (0, 1), value=1.0), torch.cat([table, bias[:, None]], dim=1)


# ---- a sample of the items --------------------------------------------------------------------------


def sampled_softmax_loss(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor
) -> Tensor:
    """The mean cross entropy, the sum over all items estimated from some (Bengio & Senécal 2008).

    ``-s⁺ + log(exp s⁺ + Σ_k exp(s_k - log K q_k))`` over K items drawn with the chances q, here 1 of
    n_items - 1 each. The term of the target is exact, so it is not corrected and a draw of it is left
    out; the sum within the logarithm is then right on average.

    Args:
        states, table, targets: as above.
        negatives: int64 ``[K]``, drawn with replacement from the items, padding not among them; the same
            for all targets, so that they cost one matrix product.

    Returns:
        The loss, shape ``[]``.
    """
    positive, negative = _scores(states, table, targets, negatives)
    expected = len(negatives) / (len(table) - 1)  # K q, how often an item is drawn on average
    logits = torch.cat([positive[:, None], negative - math.log(expected)], dim=1)  # [T, 1 + K]
    return F.cross_entropy(logits, torch.zeros_like(targets))


def gbce_loss(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, calibration: float
) -> Tensor:
    """gBCE (Petrov & Macdonald, RecSys 2023): binary cross entropy without its overconfidence.

    ``-(log σ(s⁺)^β + Σ_k log(1 - σ(s_k))) / (K + 1)`` with ``β = α(t(1 - 1/α) + 1/α)``, where
    ``α = K / (n_items - 2)`` is the share of the negative items that is drawn. With t = 0 it is plain
    binary cross entropy; with t = 1 scores are calibrated as the softmax's are.

    Args:
        states, table, targets, negatives: as for :func:`sampled_softmax_loss`.
        calibration: t, from 0 to 1.

    Returns:
        The mean over the targets, shape ``[]``.
    """
    positive, negative = _scores(states, table, targets, negatives)
    share = len(negatives) / (len(table) - 2)
    power = share * (calibration * (1 - 1 / share) + 1 / share)
    terms = power * F.softplus(-positive) + F.softplus(negative).sum(dim=1)
    return terms.mean() / (len(negatives) + 1)


def _scores(
    states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor]:
    """The targets' scores ``[T]`` and the negative items' ``[T, K]``, -inf where one is the target."""
    with torch.autocast(states.device.type, enabled=False):  # half precision has no room for it
        states = states.to(table.dtype)
        positive = (states * F.embedding(targets, table)).sum(dim=1)
        negative = states @ F.embedding(negatives, table).T
    return positive, negative.masked_fill(negatives == targets[:, None], -torch.inf)


# ---- all items --------------------------------------------------------------------------------------


def softmax_loss(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    products: torch.dtype | None = None,
    added: Callable[[slice], Tensor] | None = None,
) -> Tensor:
    """The exact mean cross entropy over all items, with no more than a chunk of logits at a time.

    Of what libraries offer, Liger's and Apple's kernels are written in Triton and do not run on a CPU;
    ``torch.nn.functional.linear_cross_entropy`` of torch 2.13 does, in about the same time with chunks
    of this size (``benchmarks/softmax.py``), and is not in torch 2.6, which we support.

    Args:
        states, table, targets: as above.
        products: in what the matrix products are computed, and to what their results are rounded: in
            bfloat16 a logit of 31 by up to .06. The softmax and the gradients' sums over chunks are
            float32 at least. None: as these.
        added: gives a constant that is added to the logits of some of the rows; None for nothing.

    Returns:
        The loss, shape ``[]``, float32 at least; it can be differentiated once.
    """
    return _SoftmaxLoss.apply(states, table, targets, products, added) / len(targets)


class _SoftmaxLoss(torch.autograd.Function):
    """The summed cross entropy, whose gradients are made along with it.

    They are the softmax less one at the target, times the other factor of the logits: with a chunk's
    logits still in the processor's cache they cost two matrix products, where autograd would write the
    logits of all rows to memory and read them again.
    """

    @staticmethod
    def forward(
        ctx, states: Tensor, table: Tensor, targets: Tensor, products: torch.dtype | None, added
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):  # half precision has no room for it
            exact = torch.promote_types(states.dtype, torch.float32)
            states_, table_ = states.to(exact), table.to(exact)
            total, *gradients = _loss_and_gradients(
                states_, table_, targets, products or exact, added
            )
        ctx.save_for_backward(*gradients)
        ctx.dtypes = states.dtype, table.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        of_states, of_table = ((factor * one).to(dtype) for one, dtype in gradients)
        return of_states, of_table, None, None, None


def _loss_and_gradients(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    products: torch.dtype,
    added: Callable[[slice], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed cross entropy and its gradients, ``[]``, ``[T, H]`` and ``[n_items, H]``."""
    total = states.new_zeros(())
    of_states, of_table = torch.empty_like(states), torch.zeros_like(table)
    chunk_bytes = _CHUNK_BYTES if states.is_cpu else _CHUNK_BYTES_GPU
    rows = max(chunk_bytes // (states.element_size() * len(table)), _ROWS_AT_LEAST)
    factors, exact = (states.to(products), table.to(products)), states.dtype
    for first in range(0, len(states), rows):
        chunk, target = factors[0][first : first + rows], targets[first : first + rows, None]
        logits = (chunk @ factors[1].T).to(exact)
        if added is not None:
            logits += added(slice(first, first + rows))
        logits -= logits.amax(dim=1, keepdim=True)  # the same softmax, and no overflow
        total -= logits.gather(1, target).sum()
        slope = logits.exp_()  # in place, as all that follows: the softmax, less one at the target
        normaliser = slope.sum(dim=1, keepdim=True)
        total += normaliser.log().sum()
        slope /= normaliser
        slope.scatter_add_(1, target, slope.new_full(target.shape, -1.0))
        slope = slope.to(products)
        if products == exact:  # straight to where they go
            torch.mm(slope, table, out=of_states[first : first + rows])
            of_table.addmm_(slope.T, chunk)
        else:
            of_states[first : first + rows] = slope @ factors[1]
            of_table += slope.T @ chunk
    return total, of_states, of_table
