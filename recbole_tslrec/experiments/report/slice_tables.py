"""The methods on slices of the test targets, and what a penalty on seen items explains."""

from __future__ import annotations

import pandas as pd

from recbole_tslrec.evaluation.metrics import PROTOCOLS
from recbole_tslrec.evaluation.slices import sliced_metrics
from recbole_tslrec.experiments.report.document import Block, escape
from recbole_tslrec.experiments.report.novel import views
from recbole_tslrec.experiments.report.results import MAIN_METRIC, Results
from recbole_tslrec.experiments.report.tables import NOTHING, variant_name

PENALTY = "seen_penalty"  # the row of a comparison
_ON = ["dataset", "backbone", "method", "by", "slice"]


def slice_tables(results: Results) -> dict[str, Block]:
    """The main metric of every method on every slice, a table a protocol; none without kept ranks."""
    numbers, found = _numbers(results), {}
    for protocol in PROTOCOLS if not numbers.empty else ():
        of = views(results)[protocol]
        shown = numbers[numbers["method"].isin(of.own["variant"])]
        if not shown.empty:
            found[protocol] = _table(of, shown, protocol)
    return found


def _numbers(results: Results) -> pd.DataFrame:
    """A row a method and slice, the mean over the seeds."""
    parts = []
    for cell in results.own.to_dict("records"):
        ranks = results.ranks(cell)
        if ranks is None:
            continue
        where = {"dataset": cell["dataset"], "backbone": cell["backbone"]}
        arrays = {name: ranks[name].to_numpy() for name in ranks}
        parts.append(sliced_metrics(arrays).assign(**where, method=cell["variant"], seeds=1))
    if not parts:
        return pd.DataFrame()
    numbers = pd.concat(parts)
    how = dict.fromkeys(numbers.columns.difference(_ON), "mean") | {"seeds": "sum"}
    return numbers.groupby(_ON, sort=False, as_index=False).agg(how)


def _table(results: Results, numbers: pd.DataFrame, protocol: str) -> Block:
    column = f"{protocol} {MAIN_METRIC.lower()}"
    shown = numbers.assign(text=numbers[column].map("{:.4f}".format))
    shown["which"] = shown["by"] + ": " + shown["slice"]
    shown.loc[shown["by"] == "all", "which"] = "all"
    index, order = ["dataset", "backbone", "which", "users"], list(dict.fromkeys(shown["method"]))
    shown["users"] = shown["users"].map("{:,.0f}".format)
    table = shown.pivot_table("text", index, "method", aggfunc="first", sort=False)[order]
    table = table.fillna(NOTHING).reset_index()
    table = table.map(escape).rename(columns={name: escape(variant_name(name)) for name in order})
    return Block(f"slices_{protocol}", numbers, results.own, table)


def explained_by_penalty(results: Results) -> list[str]:
    """A sentence for each gain of a penalty's size, or less, that is none with seen items masked.

    Each is of the seeds that the method, Base and Base with the penalty have.
    """
    columns = [f"{protocol} {MAIN_METRIC}" for protocol in ("ranked", "masked")]
    found = []
    for dataset, backbone in results.places():
        base, penalised = (results.method(dataset, backbone, name) for name in ("Base", PENALTY))
        if base is None or penalised is None:
            continue
        for variant in views(results)["masked"].variants(dataset, backbone):
            ours = results.method(dataset, backbone, variant)
            seeds = ours.index.intersection(base.index).intersection(penalised.index)
            if variant in ("Base", PENALTY) or seeds.empty:
                continue
            there, with_penalty, here = (
                one.loc[seeds, columns].astype(float).mean() for one in (base, penalised, ours)
            )
            by_penalty, _ = with_penalty - there
            gain, masked = here - there
            if 0 < gain <= by_penalty and masked <= 0:
                found.append(
                    f"{dataset}, {backbone}: {variant_name(variant)} gains {gain:+.4f} over Base, and "
                    f"Base with a penalty on seen items {by_penalty:+.4f}; with seen items masked it "
                    f"has {masked:+.4f}."
                )
    return found
