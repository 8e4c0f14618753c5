"""How the id embeddings and a second source become one item table (paper §4.2).

A fusion is a torch parametrization of the backbone's item table: ``forward`` takes the id embeddings
[n_items, d] and returns the fused table of the same shape. Row 0 is RecBole's padding. A new fusion
is one class here, with its name in ``FUSIONS``.
"""

from __future__ import annotations

from logging import getLogger

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# What is exact is computed in float64, for this many columns or rows at a time: all of h^v at once
# would take several times its own memory, which for a million items is gigabytes.
_COLUMNS_AT_ONCE = 32
_ROWS_AT_ONCE = 4096


def initial_scale(id_embeddings: Tensor) -> float:
    """The root mean square of the id embeddings without the padding row, as initialised.

    What is added to the id table enters at this scale: at ``nn.Embedding``'s N(0, 1) beside a table
    of 0.02 a second source drowns the first.
    """
    return id_embeddings[1:].detach().float().pow(2).mean().sqrt().item()


def standardise(vectors: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1 over the items; constant columns become 0.

    Args:
        vectors: [n, width], one row an item, no padding row.
    """
    parts = [_standardise_columns(columns) for columns in vectors.split(_COLUMNS_AT_ONCE, dim=1)]
    return torch.cat(parts, dim=1)


def _standardise_columns(vectors: Tensor) -> Tensor:
    exact = vectors.double()
    centred = exact - exact.mean(dim=0)
    deviation = centred.pow(2).mean(dim=0).sqrt()
    # Below this a column's spread is the rounding error of its numbers, not information.
    constant = deviation <= 4 * torch.finfo(vectors.dtype).eps * exact.abs().amax(dim=0)
    return torch.where(constant, 0.0, centred / deviation.where(~constant, 1.0)).to(vectors.dtype)


def centre(vectors: Tensor) -> Tensor:
    """Columns with mean 0, float32; a row of zeros, an item of which nothing is known, stays one.

    Args:
        vectors: [n, width], one row an item, no padding row.
    """
    known = vectors.any(dim=1, keepdim=True)
    rows = vectors.float()
    mean = rows.sum(dim=0, dtype=torch.float64) / known.sum().clamp(min=1)
    return torch.where(known, rows - mean.float(), 0.0)


def reduce_columns(vectors: Tensor, n_columns: int) -> Tensor:
    """Exact PCA: the ``n_columns`` directions of most variance; logs the share of it they keep.

    The result is turned, not whitened, and scaled as a whole to a mean variance of 1 a column: a
    linear layer on it starts as it would on the standardised columns.

    Args:
        vectors: [n, width], columns with mean 0.

    Returns:
        [n, n_columns]; the vectors themselves if they are no wider.
    """
    if vectors.shape[1] <= n_columns:
        return vectors
    blocks = vectors.split(_ROWS_AT_ONCE)
    squares = sum(rows.double().T @ rows.double() for rows in blocks)
    variances, directions = torch.linalg.eigh(squares)  # ascending
    kept = variances[-n_columns:].sum()
    if kept <= 0:  # all zero: the embeddings are the same for every item
        return vectors[:, :n_columns]
    getLogger(__name__).info(
        f"Enhanced embeddings: {n_columns} of {vectors.shape[1]} columns by PCA keep "
        f"{kept / variances.sum():.2%} of the variance."
    )
    mean_variance = kept / (len(vectors) * n_columns)
    turned = directions[:, -n_columns:].flip(1) / mean_variance.sqrt()
    return torch.cat([(rows.double() @ turned).to(vectors.dtype) for rows in blocks])


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


class EnhancedFusion(nn.Module):
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
    # Items without a training interaction, [n_items] bool; None: all rows are fused.
    cold: Tensor | None

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()
        n_items, dimension = id_embeddings.shape
        self.register_buffer("enhanced", torch.zeros(n_items, width, dtype=torch.float16))
        self.register_buffer("cold", None)
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
            getLogger(__name__).warning(
                f"The enhanced embeddings of all {len(embeddings)} items are the same: they tell the "
                f"model nothing. Look at what the language model, or the file, gives."
            )
        self.enhanced[1:] = reduce_columns(standardised, self.enhanced.shape[1])

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Nothing of the id embeddings is set."""

    def project(self) -> Tensor:
        """h' of every item, [n_items, d]."""
        return _ProjectHalf.apply(self.projection.weight, self.projection.bias, self.enhanced)

    def tell_cold_items(self) -> None:
        """Have rows of items without a training interaction be h' alone; ``set_cold`` says which."""
        self.cold = torch.zeros(len(self.enhanced), dtype=torch.bool)

    def set_cold(self, cold: Tensor) -> None:
        """Take which items have no training interaction, [n_items - 1] bool, no padding."""
        self.cold[1:] = cold

    def settled(self, fused: Tensor, projected: Tensor) -> Tensor:
        """The item table: ``fused``, but for cold items, whose id rows nothing but noise has made.

        In training a cold item is never a target: the softmax would push its row away, and h' with it.
        There its row is 0, and its logit says nothing; it stays in the softmax with that logit of 0.
        """
        if self.cold is None:
            return fused
        own = torch.zeros_like(projected) if self.training else projected
        return torch.where(self.cold[:, None], own, fused)


class IdFusion(nn.Module):
    """The id embeddings alone (``fusion: none``): the vectors come in at scoring.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        width, scale: not used.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()

    def set_enhanced(self, embeddings: Tensor) -> None:
        """Nothing is taken of the vectors."""

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Nothing of the id embeddings is set."""

    def forward(self, id_embeddings: Tensor) -> Tensor:
        return id_embeddings


class StartFusion(IdFusion):
    """The id embeddings start from the vectors and are trained on (``fusion: start``).

    E_0 = scale · σ · PCA_d(x), σ the size of the id embeddings' own start: as LLM2SASRec (Harte et al.,
    RecSys 2023) and LLM-ESR (arXiv 2405.20646) start theirs. Columns that the vectors do not have keep
    their random start.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self._size = scale * initial_scale(id_embeddings)

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Set the id embeddings, in place.

        Args:
            embeddings: of every item in the order of internal ids, [n_items - 1, any], no padding.
            id_embeddings: [n_items, d].
        """
        rows = reduce_columns(centre(embeddings), id_embeddings.shape[1])
        size = rows.double().pow(2).mean().sqrt().item()
        if size > 0:  # else they are the same for every item
            id_embeddings.data[1:, : rows.shape[1]] = rows * (self._size / size)


class GateFusion(EnhancedFusion):
    """a = σ(W_a[e; h'] + b_a), elementwise; fused = a ⊙ e + (1 − a) ⊙ h'."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        dimension = id_embeddings.shape[1]
        self.gate = nn.Linear(2 * dimension, dimension)

    def _gate(self, id_embeddings: Tensor, projected: Tensor) -> Tensor:
        # W_a[e; h'] without [e; h'] in memory: twice the table, written and read in every step.
        of_ids, of_projected = self.gate.weight.split(id_embeddings.shape[1], dim=1)
        logits = torch.addmm(self.gate.bias, id_embeddings, of_ids.T)
        return logits.addmm_(projected, of_projected.T).sigmoid_()

    def forward(self, id_embeddings: Tensor) -> Tensor:
        # With enable_amp a plain item table keeps its precision; so does the fused one.
        with torch.autocast(id_embeddings.device.type, enabled=False):
            projected = self.project()  # [n_items, d]
            gate = self._gate(id_embeddings, projected)  # [n_items, d]
            return self.settled(torch.lerp(projected, id_embeddings, gate), projected)

    @torch.no_grad()
    def mean_gate(self, id_embeddings: Tensor) -> Tensor:
        """Each item's share of the id embedding in the fused one, the mean of a over d. [n_items]"""
        return self._gate(id_embeddings, self.project()).mean(dim=1)


class SumFusion(EnhancedFusion):
    """fused = e + h'."""

    def forward(self, id_embeddings: Tensor) -> Tensor:
        projected = self.project()
        return self.settled(id_embeddings + projected, projected)


FUSIONS: dict[str, type[EnhancedFusion | IdFusion]] = {
    "gate": GateFusion,
    "sum": SumFusion,
    "start": StartFusion,
    "none": IdFusion,
}


class EqualNorms(nn.Module):
    """Every row of the item table has the same length, which is learned; directions stay.

    Items that are much used grow long rows, and a second source has norms of its own: both hinder the
    backbone's optimisation (cf. arXiv 2604.20490).

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d]; the length starts as the mean
            of its rows'.
    """

    def __init__(self, id_embeddings: Tensor):
        super().__init__()
        self.length = nn.Parameter(id_embeddings[1:].detach().norm(dim=1).mean())

    def forward(self, table: Tensor) -> Tensor:
        # A shorter row than eps stays shorter: the gradient at a row of zeros is bounded by 1 / eps.
        return self.length * functional.normalize(table, dim=1, eps=1e-3)


class CategoryFusion(nn.Module):
    """The CI variant: id embedding plus a learnable embedding of the item's latent category.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        n_categories: K. Category K stands for "none" (the padding row) and stays zero.
    """

    categories: Tensor  # [n_items] int64

    def __init__(self, id_embeddings: Tensor, n_categories: int):
        super().__init__()
        n_items, dimension = id_embeddings.shape
        self.register_buffer("categories", torch.full((n_items,), n_categories))
        self.category_embedding = nn.Embedding(
            n_categories + 1, dimension, padding_idx=n_categories
        )
        nn.init.normal_(self.category_embedding.weight, std=initial_scale(id_embeddings))
        with torch.no_grad():
            self.category_embedding.weight[n_categories].zero_()

    def set_categories(self, labels: Tensor) -> None:
        """Take the category of every item in the order of internal ids, [n_items - 1] int64."""
        self.categories[1:] = labels.to(self.categories)

    def forward(self, id_embeddings: Tensor) -> Tensor:
        return id_embeddings + self.category_embedding(self.categories)
