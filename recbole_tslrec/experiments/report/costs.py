"""What each method costs: the seconds of its stages, its training and its test (paper §5, Figure 3)."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from recbole_tslrec.experiments.report import drawing
from recbole_tslrec.experiments.report.document import Block, escape
from recbole_tslrec.experiments.report.results import Results, in_order
from recbole_tslrec.experiments.report.tables import NOTHING, seeds_text, variant_name
from recbole_tslrec.recbole_bridge.paradigm import table_rows
from recbole_tslrec.store.duration import duration

# In the order in which stages become known.
_PART_COLOURS = (
    drawing.SKY,
    drawing.YELLOW,
    drawing.RED,
    drawing.PURPLE,
    drawing.GREEN,
    drawing.ORANGE,
    drawing.BLACK,
)
_PART_NAMES = {"training": "its own training", "evaluation": "test"}
_AFTER_STAGES = {"training": drawing.BLUE, "evaluation": drawing.GREY}


def cost_table(results: Results) -> Block | None:
    """The seconds of every method's parts, the mean over the seeds; None if no cell has kept any."""
    numbers = seconds_of_parts(results)
    if numbers.empty or numbers["seconds"].sum() == 0:
        return None
    rows = []
    for (dataset, backbone, method), parts in numbers.groupby(
        ["dataset", "backbone", "method"], sort=False
    ):
        seconds = parts.set_index("part")["seconds"]
        stages = seconds.drop(list(_AFTER_STAGES))
        made = [f"{escape(name)} {_time(one)}" for name, one in stages.items() if one > 0]
        row = {"dataset": dataset, "backbone": backbone, "variant": method}
        row |= {"stages before": "<br>".join(made) or NOTHING}
        row |= {_PART_NAMES[part]: _time(seconds[part]) for part in _AFTER_STAGES}
        rows.append(row | {"all": _time(seconds.sum())})
    table = pd.DataFrame(rows).sort_values(["dataset", "backbone", "variant"], key=in_order)
    table["variant"] = table["variant"].map(variant_name)
    columns = ["dataset", "backbone", "variant"]
    table[columns] = table[columns].map(escape)
    table = table.rename(columns={"dataset": "data set", "variant": "method"})
    return Block("costs", numbers, results.own, table)


def time_figure(results: Results) -> Block | None:
    """Figure 3: where the time of a cell goes, by stage, the mean over the seeds."""
    numbers = seconds_of_parts(results)
    if numbers.empty or numbers["seconds"].sum() == 0:
        return None
    longest = numbers.groupby(["dataset", "backbone", "method"])["seconds"].sum().max()
    units = {"hours": 3600, "minutes": 60, "seconds": 1}
    unit = next((unit for unit, size in units.items() if longest >= 2 * size), "seconds")
    colours = _colours(numbers)

    def draw(axes: Axes, dataset: str, backbone: str) -> None:
        names = results.variants(dataset, backbone)
        left = np.zeros(len(names))
        of_panel = numbers[(numbers.dataset == dataset) & (numbers.backbone == backbone)]
        for part, colour in colours.items():
            of_part = of_panel[of_panel.part == part].set_index("method")["seconds"]
            width = of_part.reindex(names).fillna(0).to_numpy() / units[unit]
            label = _PART_NAMES.get(part, part.replace("_", " "))
            axes.barh(names, width, left=left, color=colour, label=label, height=0.7)
            left += width
        for place, total in enumerate(left):
            axes.text(total, place, f" {_time(total * units[unit])}", va="center", fontsize=10)
        axes.set_xlim(0, left.max() * 1.25)
        axes.set_xlabel(unit)
        axes.set_yticks(range(len(names)), [variant_name(name) for name in names])
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)

    height = 1.1 + 0.34 * results.own["variant"].nunique()
    most = max(len(cells) for cells in results.methods.values())
    heading = f"Time by stage, mean over {seeds_text(most)}"
    picture = drawing.panels(results.places(), draw, heading, 5.6, height)
    return Block("figure_3_time", numbers, results.own, png=picture)


def seconds_of_parts(results: Results) -> pd.DataFrame:
    """The mean seconds of every part of a method's cells; 0 for a part that it does not have."""
    # A cell may have started from a Base of other settings than the reported one.
    finished = pd.concat([results.cells, results.replaced])
    trainings = {
        cell: seconds.get("training", 0.0)
        for cell, seconds in zip(finished["cell"], finished["seconds"], strict=True)
    }
    known = dict.fromkeys(stage for row in table_rows().values() for stage in row.stages)
    rows = []
    for cell in results.own.to_dict("records"):
        stages = dict(cell["seconds"].get("stages", {}))
        # The stage has only taken the embeddings out of the trained Base, which was the work.
        taken = trainings.get(cell["backbone_from"], 0.0)
        stages["backbone"] = stages.get("backbone", 0.0) + taken
        where = {"dataset": cell["dataset"], "backbone": cell["backbone"]}
        rows += [
            {**where, "method": cell["variant"], "part": part, "seconds": float(seconds)}
            for part in (*known, *_AFTER_STAGES)
            for seconds in [stages.get(part, cell["seconds"].get(part, 0.0))]
        ]
    by = ["dataset", "backbone", "method", "part"]
    columns = [*by, "seconds"]
    return pd.DataFrame(rows, columns=columns).groupby(by, sort=False, as_index=False).mean()


def _colours(numbers: pd.DataFrame) -> dict[str, str]:
    """The colour of each part that took time: the stages in their order, and what follows them."""
    took = numbers.groupby("part", sort=False)["seconds"].sum()
    stages = [part for part in took.index[took > 0] if part not in _AFTER_STAGES]
    return dict(zip(stages, cycle(_PART_COLOURS), strict=False)) | _AFTER_STAGES


def _time(seconds: float) -> str:
    """As ``duration``, with two digits of what is short."""
    return f"{seconds:.2g} s" if seconds < 9.5 else duration(seconds)
