"""RecBole's Caser without the convolutions over padding, and with one for several heights at a time.

Caser has a horizontal filter of every height from 1 to ``MAX_ITEM_LIST_LENGTH``, so its cost grows with
the third power of that length: 50 times 50 windows of up to 50 items, for histories that are mostly
shorter. RecBole computes all of them, each height by a 2-d convolution of one input channel, of which
torch's backward pass on a CPU reaches a tenth of the processor's rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from recbole.model.sequential_recommender.caser import Caser
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.backbones.hiding import Function, hiding

# Heights that share a convolution, their kernels filled up with zeros to the largest: fewer have too few
# output channels for the processor, more have more zeros.
_HEIGHTS = 8
# Rows that go together, after sorting by length.
_ROWS = 128


def without_padding(model: Caser) -> AbstractContextManager[None]:
    """Within, the model's ``forward`` gives the same, up to rounding, in less time.

    Its dropout draws the same numbers, and its gradients are the same, too.
    """

    def forward(user: Tensor, item_seq: Tensor) -> Tensor:
        padding = model.item_embedding.weight[0].detach()  # a lookup gives row 0 no gradient
        convolutions = _Convolutions(model, padding, item_seq)
        heights = nn.ModuleList([Function(convolutions.horizontal)])
        with hiding(model, conv_v=Function(convolutions.vertical), conv_h=heights):
            return type(model).forward(model, user, item_seq)

    return hiding(model, forward=forward)


class _Convolutions:
    """What Caser's convolutions give for the rows of a batch, in groups of like lengths.

    Less the padding's embedding, p, whatever lies behind a history is 0. A kernel W is linear, so

        W * x + b = W * (x - p) + (b + the sum of W p over its rows),

    where the first term needs no more than the history, and is 0 for a window of padding alone.

    Args:
        model: the Caser.
        padding: p, ``[d]``.
        item_seq: int64 ``[B, L]``, padded with 0 on the right.
    """

    def __init__(self, model: Caser, padding: Tensor, item_seq: Tensor):
        self._vertical, self._horizontal, self._padding = model.conv_v, model.conv_h, padding
        self._length = item_seq.shape[1]
        positions = torch.arange(1, self._length + 1, device=item_seq.device)
        lengths, self._order = ((item_seq != 0) * positions).amax(dim=1).sort()
        self._longest = [max(int(part[-1]), 1) for part in lengths.split(_ROWS)]
        self._back = self._order.argsort()
        first = range(0, self._length, _HEIGHTS)
        self._kernels = [self._kernel(range(n, min(n + _HEIGHTS, self._length))) for n in first]

    def _kernel(self, indices: range) -> tuple[Tensor, Tensor, Tensor]:
        """Some heights' filters as one kernel, their constants, and the heights.

        Returns:
            ``[n * nh, d, h]`` for n heights of h at most, ``[n * nh]``, and int64 ``[n * nh]``.
        """
        filters = [self._horizontal[index] for index in indices]
        weights = [one.weight.squeeze(1).transpose(1, 2) for one in filters]  # [nh, d, height]
        largest = indices[-1] + 1
        kernel = torch.cat([F.pad(one, (0, largest - one.shape[2])) for one in weights])
        constant = torch.cat([one.bias for one in filters]) + kernel.sum(dim=2) @ self._padding
        heights = torch.tensor([index + 1 for index in indices], device=kernel.device)
        return kernel, constant, heights.repeat_interleave(len(filters[0].bias))

    def _groups(self, embeddings: Tensor) -> Iterator[Tensor]:
        """The histories by length, ``[B, 1, L, d]`` → ``[b, longest, d]`` each, less the padding."""
        groups = (embeddings.squeeze(1)[self._order] - self._padding).split(_ROWS)
        return (group[:, :longest] for group, longest in zip(groups, self._longest, strict=True))

    def vertical(self, embeddings: Tensor) -> Tensor:
        """As ``conv_v``: ``[B, 1, L, d]`` → ``[B, nv, 1, d]``."""
        weight = self._vertical.weight.view(-1, self._length)  # [nv, L]
        constant = (
            self._vertical.bias[:, None] + weight.sum(dim=1, keepdim=True) * self._padding
        )  # [nv, d]
        parts = [weight[:, : group.shape[1]] @ group for group in self._groups(embeddings)]
        return (torch.cat(parts)[self._back] + constant).unsqueeze(2)

    def horizontal(self, embeddings: Tensor) -> Tensor:
        """All heights' outputs at the best of their places, ``[B, 1, L, d]`` → ``[B, L * nh, 1, 1]``.

        The largest of the places is the largest after ReLU, too, which the model takes next.
        """
        parts = [self._best_places(group) for group in self._groups(embeddings)]
        return torch.cat(parts)[self._back][:, :, None, None]

    def _best_places(self, histories: Tensor) -> Tensor:
        """``[b, longest, d]`` → ``[b, L * nh]``."""
        longest = histories.shape[1]
        starts = torch.arange(longest, device=histories.device)
        found = []
        for kernel, constant, heights in self._kernels:
            reach = min(kernel.shape[2], longest)  # what lies beyond is 0
            padded = F.pad(histories.transpose(1, 2), (0, reach - 1))
            outputs = F.conv1d(padded, kernel[:, :, :reach])  # [b, n * nh, longest]
            last = (self._length - heights)[:, None]  # the last place where a window fits
            best = outputs.masked_fill(starts > last, -torch.inf).amax(dim=2)
            padding_alone = (last[:, 0] >= longest).to(best.dtype).log()  # 0 where it has a place
            found.append(torch.maximum(best, padding_alone) + constant)
        return torch.cat(found, dim=1)
