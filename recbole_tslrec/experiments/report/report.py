"""The report: what the kept results say, from the numbers by plain rules (paper §5).

Its words stand in ``templates/report.md``; here is what they are about.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten

from tqdm import tqdm

from recbole_tslrec.evaluation.metrics import PROTOCOLS
from recbole_tslrec.experiments.report import costs, figures, slice_tables, tables
from recbole_tslrec.experiments.report.document import Block, render, write_document
from recbole_tslrec.experiments.report.lines import cell_name
from recbole_tslrec.experiments.report.novel import VIEWS, ranked_alone, views
from recbole_tslrec.experiments.report.results import MAIN_METRIC, Results
from recbole_tslrec.recbole_bridge.paradigm import controls

_ITEMS_NEEDED = "no TSLRec cell has kept its items"
_RANKS_NEEDED = "no method with kept ranks beside a Base with kept ranks"
# By part of the report: how it is drawn, what it is called, and why it may be left out.
_PICTURES: dict[str, tuple[Callable[[Results], dict[str, Block]], str, str]] = {
    "gain": (figures.gain_figures, "Gain over Base", "no method beside a Base of the same seed"),
    "categories": (figures.category_figure, "Figure 4, categories", _ITEMS_NEEDED),
    "activity": (figures.activity_figures, "Figure 5, user activity", _RANKS_NEEDED),
    "popularity": (figures.popularity_figures, "Gain by popularity", _RANKS_NEEDED),
    "gate": (figures.gate_figure, "Gate", f"{_ITEMS_NEEDED} with the gate's share"),
    "maps": (figures.map_figures, "Map of the items", _ITEMS_NEEDED),
}


def write_report(results_folders: Sequence[Path], output: Path) -> None:
    """Write ``report.md``, ``report.html``, the pictures and every number as CSV.

    Args:
        results_folders: as ``kept_cells.ResultsFolder`` describes them.
        output: a folder; files of the same names in it are replaced.

    Raises:
        FileNotFoundError, ValueError: a results folder is not one, or they hold no finished cell.
    """
    results, given = Results(*results_folders), ",".join(map(str, results_folders))
    if results.cells.empty:
        raise ValueError(
            f"results: [{given}] has no finished cell, and {len(results.failed)} failed."
        )
    paths = f"--results {shlex.quote(given)} --output {shlex.quote(str(output))}"
    write_document(output, *make_report(results, f"python -m recbole_tslrec report {paths}"))


def make_report(results: Results, command: str) -> tuple[str, list[Block]]:
    """The report as Markdown, and its tables and pictures."""
    blocks = _tables(results) | _pictures(results)
    all_blocks = [one for part in blocks.values() for one in part.values()]
    tested = blocks["significance"]
    markdown = render(
        "report.md",
        **blocks,
        left_out=[
            f"{name}: {why}." for part, (_, name, why) in _PICTURES.items() if not blocks[part]
        ],
        explained=slice_tables.explained_by_penalty(results),
        found={name: tables.findings(gains.numbers) for name, gains in blocks["gains"].items()},
        found_of_others={
            protocol: tables.findings_beside_tslrec(one.numbers) for protocol, one in tested.items()
        },
        seeds_and_gaps={
            name: tables.seeds_and_gaps(views(results)[name]) for name in blocks["main"]
        },
        ranked_alone=[tables.variant_name(name) for name in ranked_alone(results)],
        families={name: tables.family_text(one.numbers) for name, one in tested.items()},
        family_text=tables.family_text,
        failed=[
            f"{cell_name(cell)}: {shorten(cell['error'] or 'no error kept', 300)}"
            for cell in results.failed.to_dict("records")
        ],
        replaced=[
            f"{cell_name(cell)} (cell {cell['cell']}, {cell['finished_at']})"
            for cell in results.replaced.to_dict("records")
        ],
        results=results,
        has_controls=bool(set(results.cells["variant"]) & set(controls(of=["TSLRec"]))),
        has_e4srec="E4SRec" in set(results.cells["variant"]),
        protocols=VIEWS,
        metric=MAIN_METRIC,
        command=command,
    )
    return markdown, all_blocks


def _tables(results: Results) -> dict[str, dict[str, Block]]:
    """Every table by its part of the report, and there by protocol or data set."""
    parts: dict[str, dict[str, Block]] = {"gains": {}, "main": {}, "significance": {}}
    for protocol, of in tqdm(views(results).items(), desc="Report: tests and tables", delay=1):
        tested = tables.all_comparisons(of, protocol)
        if not of.own.empty:
            parts["main"][protocol] = tables.main_table(of, protocol, tested)
        if not tested.empty:
            parts["significance"][protocol] = tables.significance_table(of, tested, protocol)
        if protocol not in PROTOCOLS:
            continue
        main_metric = tested["metric"] == MAIN_METRIC
        of_tslrec = tested[(tested["method"] == "TSLRec") & main_metric]
        if not of_tslrec.empty:
            parts["gains"][protocol] = tables.gains_table(of, of_tslrec, protocol)
        parts[f"reuse_{protocol}"] = tables.reuse_tables(of, protocol)
    parts["slices"] = slice_tables.slice_tables(results)
    parts["costs"] = costs.cost_table(results)
    return parts | {"cells": {"": tables.seeds_table(results)}}


def _pictures(results: Results) -> dict[str, dict[str, Block]]:
    """Every picture by its part of the report, and there by protocol or data set."""
    parts = tqdm(_PICTURES.items(), desc="Report: pictures", delay=1)
    return {part: draw(results) for part, (draw, _, _) in parts}
