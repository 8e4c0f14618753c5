"""What each method costs: the seconds of its stages, its training and its test."""

from __future__ import annotations

import pandas as pd

from recbole_tslrec.experiments.report.document import Block, escape
from recbole_tslrec.experiments.report.lines import in_order
from recbole_tslrec.experiments.report.results import Results
from recbole_tslrec.experiments.report.tables import NOTHING, variant_name
from recbole_tslrec.experiments.run.kept_cells import seconds_of_parts
from recbole_tslrec.recbole_bridge.paradigm import table_rows
from recbole_tslrec.store.duration import duration

# ``base_machine`` trained the Base that a method starts from, the cell's own if it started from none.
_ROW = ["dataset", "backbone", "method", "machine", "base_machine"]
_AFTER_STAGES = {"training": "its own training", "evaluation": "test"}


def cost_table(results: Results) -> dict[str, Block]:
    """The seconds of every method's parts, the mean over the seeds; none if no cell has kept any.

    Seeds that ran, or whose Base did, on different machines have a row each machine.
    """
    numbers = _mean_seconds(results)
    if numbers.empty or numbers["seconds"].sum() == 0:
        return {}
    rows = []
    for (dataset, backbone, method, machine, of_base), parts in numbers.groupby(_ROW, sort=False):
        seconds = parts.set_index("part")["seconds"]
        stages = seconds.drop(list(_AFTER_STAGES))
        made = {name: f"{escape(name)} {_time(one)}" for name, one in stages.items() if one > 0}
        if "backbone" in made and of_base != machine:  # older lines have no seconds, or no machine
            made["backbone"] += f" ({escape(of_base)})" if of_base else ""
        row = {"dataset": dataset, "backbone": backbone, "variant": method, "machine": machine}
        row |= {"stages before": "<br>".join(made.values()) or NOTHING}
        row |= {name: _time(seconds[part]) for part, name in _AFTER_STAGES.items()}
        rows.append(row | {"all": _time(seconds.sum())})
    table = pd.DataFrame(rows).sort_values(["dataset", "backbone", "variant"], key=in_order)
    table["variant"] = table["variant"].map(variant_name)
    if table["machine"].nunique() == 1:
        table = table.drop(columns="machine")
    columns = table.columns.intersection(["dataset", "backbone", "variant", "machine"])
    table[columns] = table[columns].map(escape)
    table = table.rename(columns={"dataset": "data set", "variant": "method"})
    return {"": Block("costs", numbers, results.own, table)}


def _mean_seconds(results: Results) -> pd.DataFrame:
    """The mean seconds of every part of a method's cells; 0 for a part that it does not have."""
    # A cell may have started from a Base of other settings than the reported one.
    finished = pd.concat([results.cells, results.replaced]).to_dict("records")
    trainings = {
        cell["cell"]: (seconds_of_parts(cell)["training"], cell["machine"]) for cell in finished
    }
    known = dict.fromkeys(stage for row in table_rows().values() for stage in row.stages)
    rows = []
    for cell in results.own.to_dict("records"):
        seconds = seconds_of_parts(cell)
        # The stage has only taken the embeddings out of the trained Base, which was the work.
        alone = 0.0, "" if cell["backbone_from"] else cell["machine"]
        taken, its_machine = trainings.get(cell["backbone_from"], alone)
        seconds["backbone"] = seconds.get("backbone", 0.0) + taken
        of_row = (cell["dataset"], cell["backbone"], cell["variant"], cell["machine"], its_machine)
        where = dict(zip(_ROW, of_row, strict=True))
        rows += [
            {**where, "part": part, "seconds": seconds.get(part, 0.0)}
            for part in (*known, *_AFTER_STAGES)
        ]
    by = [*_ROW, "part"]
    columns = [*by, "seconds"]
    return pd.DataFrame(rows, columns=columns).groupby(by, sort=False, as_index=False).mean()


def _time(seconds: float) -> str:
    """As ``duration``, with two digits of what is short."""
    return f"{seconds:.2g} s" if seconds < 9.5 else duration(seconds)
