"""Whether one method is better than another, over the users and over the seeds (paper §5).

Two tests answer two questions. Over the users: are *these* trained models different on this kind of
user? Over the seeds: would models trained anew be different? The first has thousands of users and sees
small differences; the second has a few seeds and sees large ones only. A claim wants both.

Over the users it is a paired t-test, not Wilcoxon's. The tables show means, and the t-test is about the
mean of the differences; with thousands of users it needs no normal distribution. Wilcoxon's is about
the middle of differences that lie symmetrically, and drops the many that are zero: a method that helps
many users a little and harms a few badly can win it with the lower mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

ALPHA = 0.05


@dataclass(frozen=True)
class Outcome:
    """One test.

    Attributes:
        n: how many users or seeds were compared.
        p_value: two-sided; None where there is nothing to test, and ``note`` says why.
        corrected: ``p_value`` after Holm's correction, once it is made.
        note: what the reader must know of this test; empty if nothing.
    """

    n: int
    p_value: float | None
    note: str = ""
    corrected: float | None = None

    @property
    def significant(self) -> bool:
        return self.corrected is not None and self.corrected < ALPHA


@dataclass(frozen=True)
class Comparison:
    """One method against another in one metric.

    Attributes:
        ours, theirs: the names of the methods.
        difference: ours minus theirs, of the means over the seeds that both have.
        relative: the difference as a share of theirs; None if that is 0.
        common_seeds: how many seeds both have; with none, all of each count.
    """

    dataset: str
    backbone: str
    ours: str
    theirs: str
    metric: str
    difference: float
    relative: float | None
    users: Outcome
    seeds: Outcome
    common_seeds: int = 0

    @property
    def mark(self) -> str:
        """``*`` for the users' test, ``†`` for the seeds', after ``↓`` if ours is worse; or nothing."""
        marks = "*" * self.users.significant + "†" * self.seeds.significant
        return ("↓" if self.difference < 0 and marks else "") + marks


def compare_users(ours: pd.Series, theirs: pd.Series) -> Outcome:
    """A paired t-test over the users.

    Args:
        ours, theirs: a metric of every user, the mean over the seeds; the index tells users, and the
            items they were tested on, apart.
    """
    note = ""
    if not ours.index.equals(theirs.index):
        common = ours.index.intersection(theirs.index)
        note = (
            f"The users or their test items differ: {len(common)} are in both, of {len(ours)} and "
            f"{len(theirs)}; only those are compared."
        )
        ours, theirs = ours.reindex(common), theirs.reindex(common)
    return _paired(ours.to_numpy(), theirs.to_numpy(), "users", note)


def compare_seeds(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Outcome:
    """A t-test over the seeds: paired by seed; Welch's if the two have no seed in common.

    Args:
        ours, theirs: a metric by seed.
    """
    common = sorted(set(ours) & set(theirs))
    if not common and min(len(ours), len(theirs)) >= 2:
        first, second = list(ours.values()), list(theirs.values())
        n = len(first) + len(second)
        if _constant(np.array(first)) and _constant(np.array(second)):
            return Outcome(n, None, "Neither varies over its seeds: there is no test.")
        test = stats.ttest_ind(first, second, equal_var=False)
        return Outcome(n, float(test.pvalue), "No seed in common: Welch's unpaired test.")
    note = "" if set(ours) == set(theirs) else f"Compared on the seeds of both only: {len(common)}."
    pairs = np.array([(ours[seed], theirs[seed]) for seed in common]).reshape(-1, 2)
    return _paired(pairs[:, 0], pairs[:, 1], "seeds", note)


def _paired(ours: np.ndarray, theirs: np.ndarray, units: str, note: str) -> Outcome:
    n = len(ours)
    if n < 2:
        why = f"{n} common {units if n != 1 else units[:-1]}: there is no test."
    elif _constant(ours - theirs, np.maximum(np.abs(ours), np.abs(theirs)).max()):
        why = f"The difference is the same for all {units}: there is no test."
    else:
        return Outcome(n, float(stats.ttest_rel(ours, theirs).pvalue), note)
    return Outcome(n, None, f"{note} {why}".strip())


def _constant(values: np.ndarray, size: float | None = None) -> bool:
    """Whether the values differ by no more than the rounding errors of numbers of this size."""
    size = np.abs(values).max() if size is None else size
    return bool(np.ptp(values) <= 1e-12 * size)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction for several comparisons: p-values to hold against the same level.

    The chance of one false finding or more among all is then at most that level, however the tests
    depend on one another.
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    remaining = len(p_values) - np.arange(len(p_values))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(remaining * p_values[order]), 1)
    return corrected


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with ``corrected``, as one family; the two tests are two families."""
    comparisons = list(comparisons)
    for test in ("users", "seeds"):
        tested = [i for i, one in enumerate(comparisons) if getattr(one, test).p_value is not None]
        corrected = holm([getattr(comparisons[i], test).p_value for i in tested])
        for i, value in zip(tested, corrected, strict=True):
            outcome = replace(getattr(comparisons[i], test), corrected=float(value))
            comparisons[i] = replace(comparisons[i], **{test: outcome})
    return comparisons


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of ``values``; NaN for fewer than two.

    How often each user is drawn is multinomial, and users with equal values are alike: counting the
    distinct values, of which there are few, draws from the same distribution in a fraction of the
    time.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(values), counts / len(values), size=n_resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(draws @ distinct / len(values), [tail, 1 - tail])
    return float(low), float(high)


def comparison_table(comparisons: list[Comparison]) -> pd.DataFrame:
    """A row a comparison, in full precision."""
    rows = []
    for one in comparisons:
        row = {"dataset": one.dataset, "backbone": one.backbone, "method": one.ours}
        row |= {"against": one.theirs, "metric": one.metric, "difference": one.difference}
        row |= {"relative": one.relative}
        notes = []
        for test in ("users", "seeds"):
            outcome: Outcome = getattr(one, test)
            row |= {f"n_{test}": outcome.n, f"p_{test}": outcome.p_value}
            row[f"p_{test}_holm"] = outcome.corrected
            notes += [f"{test}: {outcome.note}"] if outcome.note else []
        note = " ".join(notes)
        rows.append(row | {"note": note, "common_seeds": one.common_seeds, "mark": one.mark})
    numbers = ["relative", "p_users", "p_users_holm", "p_seeds", "p_seeds_holm"]
    columns = None if rows else ["dataset", "backbone", "method", "against", "metric", *numbers]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float))


def verdict(one: pd.Series) -> str:
    """What may be said of ours against theirs, without their name: "better than", …

    Args:
        one: a row of ``comparison_table``.
    """
    direction = "better" if one["difference"] > 0 else "worse"
    users, seeds = one["p_users_holm"] < ALPHA, one["p_seeds_holm"] < ALPHA
    tests = {"the users": one["p_users_holm"], "the seeds": one["p_seeds_holm"]}
    untested = [name for name, p_value in tests.items() if np.isnan(p_value)]
    if len(untested) == 2 and one["difference"]:  # of the same ranks there is nothing to test
        return "not tested against"
    if users and seeds:
        return f"{direction} than"
    if not users and not seeds:
        return "cannot be told from"
    shown, other = ("the users", "the seeds") if users else ("the seeds", "the users")
    without = "without a test" if other in untested else "not"
    return f"{direction} over {shown}, {without} over {other}, than"
