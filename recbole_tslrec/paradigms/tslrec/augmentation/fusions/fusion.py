"""What all fusions with an enhanced embedding share: h' = W_h · standardise(h^v) + b_h (paper §4.2)."""

from __future__ import annotations

from logging import getLogger

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recbole_tslrec.paradigms.tslrec.augmentation.columns import reduce_columns, standardise
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import ItemFusion

_ROWS_AT_ONCE = 4096
ALL_THE_SAME = (
    "The enhanced embeddings of all {} items are the same: they tell the model nothing. Look at what "
    "the language model, or the file, gives."
)


def initial_scale(id_embeddings: Tensor) -> float:
    """The root mean square of the id embeddings without the padding row, as initialised.

    What is added to the id table enters at this scale: at ``nn.Embedding``'s N(0, 1) beside a table
    of 0.02 a second source drowns the first.
    """
    return id_embeddings[1:].detach().float().pow(2).mean().sqrt().item()


class _ProjectHalf(torch.autograd.Function):
    """A linear layer on a constant in half precision, computed in the layer's own.

    Rows are taken a few at a time, so that there is never a whole copy of the constant in the layer's
    precision, which autograd would keep from the forward to the backward pass of every step.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor, constant: Tensor) -> Tensor:
        ctx.constant = constant
        result = weight.new_empty(len(constant), len(weight))
        blocks = zip(constant.split(_ROWS_AT_ONCE), result.split(_ROWS_AT_ONCE), strict=True)
        for rows, of_rows in blocks:
            torch.addmm(bias, rows.to(weight), weight.T, out=of_rows)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_weight = gradient.new_zeros(gradient.shape[1], ctx.constant.shape[1])
        blocks = zip(ctx.constant.split(_ROWS_AT_ONCE), gradient.split(_ROWS_AT_ONCE), strict=True)
        for rows, of_rows in blocks:
            of_weight.addmm_(of_rows.T, rows.to(gradient))
        return of_weight, gradient.sum(dim=0), None


class EnhancedFusion(ItemFusion):
    """Base of the fusions with an enhanced embedding: h' = W_h · standardise(h^v) + b_h.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        width: the number of columns that are kept of h^v; PCA takes the rest away.
        scale: the size of h' at the start, in units of the id embeddings'.
    """

    # Standardised h^v, [n_items, width], row 0 zero; not trained. It is computed once, when it is
    # taken, and held in half precision: its rounding is far below the noise of what it holds, and
    # it is in every checkpoint.
    enhanced: Tensor

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()
        n_items, dimension = id_embeddings.shape
        self.register_buffer("enhanced", torch.zeros(n_items, width, dtype=torch.float16))
        self.projection = nn.Linear(width, dimension)
        # Inputs have variance 1, so the projection's rows of this size give h' the wanted scale.
        deviation = scale * initial_scale(id_embeddings) / width**0.5
        nn.init.normal_(self.projection.weight, std=deviation)
        nn.init.zeros_(self.projection.bias)

    def set_enhanced(self, embeddings: Tensor) -> None:
        """Take h^v of every item in the order of internal ids, [n_items - 1, any], no padding.

        Raises:
            ValueError: it has fewer columns than the fusion was made for.
        """
        if embeddings.shape[1] < self.enhanced.shape[1]:
            raise ValueError(
                f"The enhanced embeddings have {embeddings.shape[1]} columns, and the model was made "
                f"for {self.enhanced.shape[1]}. With enhancement: backbone_embedding, a "
                f"backbone_checkpoint must have the item embeddings' size of this experiment."
            )
        standardised = standardise(embeddings)
        if not standardised.any():
            getLogger(__name__).warning(ALL_THE_SAME.format(len(embeddings)))
        self.enhanced[1:] = reduce_columns(standardised, self.enhanced.shape[1])

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Have h' start at the wanted size where columns are empty, as of TF-IDF beyond its rank."""
        width = self.enhanced.shape[1]
        filled = int(self.enhanced.any(dim=0).sum())
        # Columns that PCA made have the wanted variance as a whole, whichever of them are empty.
        if embeddings.shape[1] <= width and 0 < filled < width:
            self.projection.weight.data.mul_((width / filled) ** 0.5)

    def project(self) -> Tensor:
        """h' of every item, [n_items, d]."""
        return _ProjectHalf.apply(self.projection.weight, self.projection.bias, self.enhanced)
