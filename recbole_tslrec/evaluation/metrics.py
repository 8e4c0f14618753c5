"""The metrics of a table, and the protocols under which they are measured; needs NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

PROTOCOLS = {"ranked": "seen items ranked", "masked": "seen items masked"}
CUTOFFS = (5, 10)
# The metrics of the paper, by RecBole's names.
METRICS = {"HR@5": "hit@5", "HR@10": "hit@10", "NDCG@5": "ndcg@5", "NDCG@10": "ndcg@10"}
# RecBole's metrics of one target by its rank, from 1, up to k.
METRICS_OF_RANKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hit": lambda rank, k: rank <= k,
    "recall": lambda rank, k: rank <= k,
    "precision": lambda rank, k: (rank <= k) / k,
    "mrr": lambda rank, k: (rank <= k) / rank,
    "map": lambda rank, k: (rank <= k) / rank,
    "ndcg": lambda rank, k: (rank <= k) / np.log2(1 + rank),
}


def of_each(metric: str, ranks: np.ndarray) -> np.ndarray:
    """A metric of every target, one a user.

    Args:
        metric: by RecBole's name, ``ndcg@10`` for one.
        ranks: whole numbers from 1, ``[n]``.

    Returns:
        float64 ``[n]``.
    """
    name, _, k = metric.lower().partition("@")
    return np.asarray(METRICS_OF_RANKS[name](ranks, int(k)), dtype=np.float64)


def metrics(ranks: np.ndarray) -> dict[str, float]:
    """The means of the table's metrics, by RecBole's names."""
    return {metric: float(of_each(metric, ranks).mean()) for metric in METRICS.values()}


def beside_figures(effective: Mapping[str, str], protocol: str) -> str:
    """What must stand beside a row's figures: which items its language model ranked; for most, nothing.

    Args:
        effective: a finished line's.
    """
    candidates = effective.get("candidates")
    if candidates is None:
        return ""
    return f", candidates: {candidates if protocol == 'ranked' else 'unseen'}"
