"""Candidates scored by a language model, as many prompts in a pass as are of like length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_tslrec.config.devices import bf16_is_fast

if TYPE_CHECKING:
    from recbole_tslrec.recbole_bridge.candidate_examples import Example

# The most prompt positions, padding included, in one pass of an evaluation. It changes the speed and
# the memory, not the result, but for int8 (docs/determinism.md).
_POSITIONS_A_PASS = 16_384


def scores_in_passes(
    examples: list[Example],
    positions: np.ndarray,
    scores: Callable[[list[Example]], Tensor],
    candidates: Tensor,
    show_progress: bool,
) -> Tensor:
    """The candidates' scores.

    Args:
        examples: one a row of the candidates.
        positions: of each one's prompt, [B].
        scores: of some examples, [b, k] float32.
        candidates: int64 [B, k].

    Returns:
        [B, k] float32.
    """
    from recbole_tslrec.language_model.batches import of_like_length

    device = candidates.device
    found = torch.zeros(candidates.shape, device=device)
    passes = of_like_length(positions, _POSITIONS_A_PASS)
    hidden = not show_progress or len(passes) == 1
    for part in tqdm(passes, desc="Reranking", unit=" passes", leave=False, disable=hidden):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            found[part] = scores([examples[place] for place in part])
    return found
