"""The categories ĝ^v that are inferred from the items' enhanced embeddings h^v (paper §4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import (
        ReconstructionModel,
    )

_ROWS_AT_ONCE = 4096


@torch.no_grad()
def infer_categories(model: ReconstructionModel, enhanced: Tensor) -> Tensor:
    """ĝ^v: Eq. 2 on the items' hidden states. [n, hidden] -> [n, K] float32"""
    weight = model.preference_head.weight
    blocks = enhanced.split(_ROWS_AT_ONCE)  # all of h^v may be more than a GPU has left
    return torch.cat([model.distribution(rows.to(weight)).cpu() for rows in blocks])
