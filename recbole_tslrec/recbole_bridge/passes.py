"""An evaluation's rows through a language model, as many prompts in a pass as are of like length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_tslrec.config.devices import bf16_is_fast

# The most prompt positions, padding included, in one pass of an evaluation. It changes the speed and
# the memory, not the result, but for int8 (docs/determinism.md).
POSITIONS_A_PASS = 16_384


def scores_in_passes(
    positions: np.ndarray,
    scores: Callable[[np.ndarray], Tensor],
    candidates: Tensor,
    show_progress: bool,
) -> Tensor:
    """The candidates' scores.

    Args:
        positions: of each row's prompts, [B] int.
        scores: of the rows at some places, int64 [b], those of their candidates, [b, k] float32.
        candidates: int64 [B, k].

    Returns:
        [B, k] float32.
    """
    from recbole_tslrec.language_model.batches import of_like_length

    device = candidates.device
    found = torch.zeros(candidates.shape, device=device)
    passes = of_like_length(positions, POSITIONS_A_PASS)
    hidden = not show_progress or len(passes) == 1
    for part in tqdm(passes, desc="Reranking", unit=" passes", leave=False, disable=hidden):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            found[part] = scores(part)
    return found
