"""The columns of the items' vectors: standardised or centred, and reduced by PCA."""

from __future__ import annotations

from logging import getLogger

import torch
from torch import Tensor

# What is exact is computed in float64, for this many columns or rows at a time: all of h^v at once
# would take several times its own memory, which for a million items is gigabytes.
_COLUMNS_AT_ONCE = 32
_ROWS_AT_ONCE = 4096


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
    variances, directions = _principal_directions(vectors)
    kept = variances[-n_columns:].sum()
    if kept <= 0:  # all zero: the embeddings are the same for every item
        return vectors[:, :n_columns]
    getLogger(__name__).info(
        f"Items' vectors: {n_columns} of {vectors.shape[1]} columns by PCA keep "
        f"{kept / variances.sum():.2%} of the variance."
    )
    mean_variance = kept / (len(vectors) * n_columns)
    return _turn(vectors, directions[:, -n_columns:].flip(1) / mean_variance.sqrt())


def whitened_components(vectors: Tensor, n_columns: int) -> Tensor:
    """The first principal components, the strongest first, each with variance 1 over the known items.

    Args:
        vectors: [n, width], columns with mean 0; a row of zeros is an item of which nothing is known.

    Returns:
        [n, n_columns], or as many as the vectors have columns; a direction without variance is 0.
    """
    variances, directions = _principal_directions(vectors)
    variances, directions = variances.flip(0)[:n_columns], directions.flip(1)[:, :n_columns]
    # Below this a direction's spread is the rounding error of the vectors' numbers.
    least = (vectors.shape[1] * torch.finfo(vectors.dtype).eps) ** 2
    has_any = variances > least * variances[0]
    n_known = int(vectors.any(dim=1).sum().clamp(min=1))
    deviation = (variances / n_known).where(has_any, torch.inf).sqrt()
    return _turn(vectors, directions / deviation)


def _principal_directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of squares along the principal directions, ascending, and these as columns; float64."""
    blocks = vectors.split(_ROWS_AT_ONCE)
    return torch.linalg.eigh(sum(rows.double().T @ rows.double() for rows in blocks))


def _turn(vectors: Tensor, directions: Tensor) -> Tensor:
    blocks = vectors.split(_ROWS_AT_ONCE)
    return torch.cat([(rows.double() @ directions).to(vectors.dtype) for rows in blocks])
