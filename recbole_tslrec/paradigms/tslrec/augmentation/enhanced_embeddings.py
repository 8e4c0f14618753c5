"""The enhanced embeddings h^v and the categories inferred from them, ĝ^v (paper §4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import (
        ReconstructionModel,
    )

# Names of the tensors in a file of enhanced items.
ENHANCED_EMBEDDING = "enhanced_embedding"  # h^v, [n_items, hidden] float32
CATEGORY_DISTRIBUTION = "category_distribution"  # ĝ^v, [n_items, K] float32

_ROWS_AT_ONCE = 4096


@torch.no_grad()
def infer_categories(model: ReconstructionModel, enhanced: Tensor) -> Tensor:
    """ĝ^v: Eq. 2 on the items' hidden states. [n, hidden] -> [n, K] float32"""
    weight = model.preference_head.weight
    blocks = enhanced.split(_ROWS_AT_ONCE)  # all of h^v may be more than a GPU has left
    return torch.cat([model.distribution(rows.to(weight)).cpu() for rows in blocks])
