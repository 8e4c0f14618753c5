"""What a table of each protocol is of, and the results by novel targets alone.

Where users come back to items, half of a metric is of those.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from functools import cache

import pandas as pd

from recbole_tslrec.evaluation.kept_ranks import user_metrics
from recbole_tslrec.evaluation.metrics import PROTOCOLS
from recbole_tslrec.experiments.report.lines import METHOD
from recbole_tslrec.experiments.report.results import NOVEL, Results, targets
from recbole_tslrec.recbole_bridge.paradigm import table_rows

VIEWS = {**PROTOCOLS, NOVEL: "seen items masked, novel targets alone"}


@cache  # tables, pictures and captions ask for it; a process makes one report
def views(results: Results) -> dict[str, Results]:
    """What a table is made of, by protocol, and by novel targets where not all are.

    Where seen items are masked, without the rows of which that says nothing.
    """
    masked = _without(results, ranked_alone(results))
    novel = _by_novel_targets(masked)
    found = {protocol: masked if protocol == "masked" else results for protocol in PROTOCOLS}
    return found | ({} if novel.cells.empty else {NOVEL: novel})


def ranked_alone(results: Results) -> list[str]:
    """The rows there whose figures with seen items masked say nothing."""
    rows = table_rows()
    there = results.cells["variant"].drop_duplicates()
    return [name for name in there if name in rows and rows[name].ranked_alone]


def _without(results: Results, variants: Collection[str]) -> Results:
    """The results without some rows."""
    view = copy(results)
    view.cells = results.cells[~results.cells["variant"].isin(variants)]
    view.methods = {key: cells for key, cells in results.methods.items() if key[2] not in variants}
    return view


def _by_novel_targets(results: Results) -> Results:
    """The cells of the data sets in which a target was had before, with columns as ``novel NDCG@10``."""
    rows, repeating = [], set()
    for cell in results.cells.to_dict("records"):
        ranks = results.ranks(cell)
        if ranks is None or "repeated" not in ranks or ranks["repeated"].all():
            continue  # kept by an older version, or nothing is novel
        if ranks["repeated"].any():
            repeating.add(cell["dataset"])
        means = user_metrics(targets(ranks, NOVEL)).mean()
        rows.append(cell | {f"{NOVEL} {name}": mean for name, mean in means.items()})
    view = copy(results)
    found = pd.DataFrame([row for row in rows if row["dataset"] in repeating], dtype=object)
    view.cells = found if rows else results.cells.iloc[:0]
    if repeating:
        by_method = found.groupby(METHOD, sort=False)
        view.methods = {key: cells.set_index("seed", drop=False) for key, cells in by_method}
    return view
