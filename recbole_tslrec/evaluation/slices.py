"""Test targets by kind: had before or new to the user, rare or common, after short or long histories.

A mean over all users hides which of them a method serves. Where targets repeat, a ranking of all items
rewards whoever lists the user's own history, and where none does, whoever never lists it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from recbole_tslrec.evaluation.kept_ranks import RANK_COLUMNS
from recbole_tslrec.evaluation.metrics import metrics

_N_GROUPS = 4
# By what targets are grouped, besides repeated and novel: the array, and what a table calls it.
_COUNTED = {
    "item_count": "training interactions of the target",
    "training_length": "items in the training history",
}


def quantile_groups(values: pd.Series, n_groups: int) -> pd.Series:
    """Groups of about equal size, numbered from 0; fewer where many values are equal, one if all are."""
    if values.nunique() == 1:  # qcut would have no group
        return pd.Series(0, index=values.index)
    groups = pd.qcut(values.rank(method="max"), n_groups, labels=False, duplicates="drop")
    if groups.nunique() > 1:
        return groups
    # So many have the least value, or the largest, that no quantile lies elsewhere: they are a group.
    most = values.mode()[0]
    return (values > most if most == values.min() else values == most).astype(int)


def range_text(values: pd.Series) -> str:
    """The least and the largest of a group's values, ``3–1,200`` for one."""
    low, high = values.min(), values.max()
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def slices(ranks: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """The slices of the test targets, as masks.

    Args:
        ranks: the arrays of :class:`.Ranks` by name, of n targets. ``repeated`` may be missing, in
            results of an earlier version.

    Returns:
        bool ``[n]`` by what is told apart and the slice's own name; first all, then those that are not
        empty.
    """
    n = len(ranks["rank"])
    found = {("all", "all"): np.ones(n, dtype=bool)}
    if "repeated" in ranks:
        repeated = ranks["repeated"].astype(bool)
        found[("target", "repeated")], found[("target", "novel")] = repeated, ~repeated
    for name, words in _COUNTED.items():
        values = pd.Series(ranks[name])
        groups = quantile_groups(values, _N_GROUPS)
        for _, members in values.groupby(groups):
            mask = np.zeros(n, dtype=bool)
            mask[members.index] = True
            found[(words, range_text(members))] = mask
    return {name: mask for name, mask in found.items() if mask.any()}


def sliced_metrics(ranks: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """HR and NDCG of every slice under both protocols.

    Args:
        ranks: as for :func:`slices`.

    Returns:
        a row a slice: ``by`` and ``slice`` (what and which), ``users``, and for each protocol and metric
        a column, ``masked ndcg@10`` for one.
    """
    rows = []
    for (by, name), mask in slices(ranks).items():
        row = {"by": by, "slice": name, "users": int(mask.sum())}
        for protocol, column in RANK_COLUMNS.items():
            of_slice = metrics(ranks[column][mask])
            row |= {f"{protocol} {metric}": value for metric, value in of_slice.items()}
        rows.append(row)
    return pd.DataFrame(rows)
