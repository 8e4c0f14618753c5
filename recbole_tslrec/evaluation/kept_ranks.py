"""Ranks as they are kept: which arrays there are, and the metrics that follow from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS, metrics, of_each

RANK_COLUMNS = {"ranked": "rank", "masked": "rank_masked"}  # by protocol
_TOKENS, _RANKS, _COUNTS = (
    ("user", "item"),
    ("rank", "rank_masked"),
    ("training_length", "item_count"),
)
RANK_ARRAYS = (*_TOKENS, *_RANKS, *_COUNTS)
# Two ways to add up the same numbers differ by less; two trained models by more.
_ROUNDING = 1e-9


def fault_of_ranks(arrays: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with the arrays of ``Ranks``, if anything."""
    missing = [name for name in RANK_ARRAYS if name not in arrays]
    if missing:
        return f"it has no {', '.join(missing)}"
    for name in RANK_ARRAYS:
        array, kinds = arrays[name], "U" if name in _TOKENS else "iu"
        if array.ndim != 1 or array.dtype.kind not in kinds:
            return f"{name} is {array.dtype} {list(array.shape)}, not one value a test user"
        if len(array) != len(arrays["user"]) or not len(array):
            return f"{name} has {len(array)} values for {len(arrays['user'])} test users"
        if name not in _TOKENS and array.min() < (1 if name in _RANKS else 0):
            return f"{name} holds {array.min()}"
    if len(np.unique(arrays["user"])) < len(arrays["user"]):
        return "user holds one twice; one target a user is expected"
    return None


def differing_metrics(
    test: Mapping[str, Mapping[str, float]], ranks: Mapping[str, np.ndarray]
) -> list[str]:
    """Which metrics of a line are not those of its ranks, a clause each.

    Args:
        test: a line's, by protocol and RecBole's name of the metric.
        ranks: of every test user, by the names in ``RANK_COLUMNS``.
    """
    found = []
    for protocol, column in RANK_COLUMNS.items():
        by_ranks = metrics(np.asarray(ranks[column]))
        for name, key in METRICS.items():
            given = test[protocol][key]
            if not abs(given - by_ranks[key]) <= _ROUNDING:  # NaN is not, either
                found.append(
                    f"{name} ({PROTOCOLS[protocol]}) is {given:.4f} in cells.jsonl and "
                    f"{by_ranks[key]:.4f} by the kept ranks"
                )
    return found


def user_metrics(ranks: pd.Series) -> pd.DataFrame:
    """HR and NDCG of every user from the rank of the one target, from 1; float64, a column a metric."""
    columns = {name: of_each(metric, ranks.to_numpy()) for name, metric in METRICS.items()}
    return pd.DataFrame(columns, index=ranks.index)
