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
