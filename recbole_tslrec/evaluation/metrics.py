"""The metrics of a table, and the protocols under which they are measured; needs NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

PROTOCOLS = {"ranked": "seen items ranked", "masked": "seen items masked"}
CUTOFFS = (5, 10)
# The metrics of the paper, by RecBole's names.
METRICS = {"HR@5": "hit@5", "HR@10": "hit@10", "NDCG@5": "ndcg@5", "NDCG@10": "ndcg@10"}


def metrics(ranks: np.ndarray) -> dict[str, float]:
    """HR@k, the share of ranks up to k; NDCG@k, the mean of 1 / log2(1 + rank) of those, else 0."""
    gains = 1 / np.log2(1 + ranks)
    hits = {k: ranks <= k for k in CUTOFFS}
    return {f"hit@{k}": float(hit.mean()) for k, hit in hits.items()} | {
        f"ndcg@{k}": float((gains * hit).mean()) for k, hit in hits.items()
    }


def beside_figures(effective: Mapping[str, str], protocol: str) -> str:
    """What must stand beside a row's figures: which items its language model ranked; for most, nothing.

    Args:
        effective: a finished line's.
    """
    candidates = effective.get("candidates")
    if candidates is None:
        return ""
    return f", candidates: {candidates if protocol == 'ranked' else 'unseen'}"
