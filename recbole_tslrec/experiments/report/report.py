"""The report: what the kept results say, from the numbers by plain rules (paper §5).

Its words stand in ``templates/report.md``; here is what they are about.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

from tqdm import tqdm

from recbole_tslrec.evaluation.metrics import PROTOCOLS
from recbole_tslrec.experiments.report import costs, slice_tables, tables
from recbole_tslrec.experiments.report.document import Block, render, write_document
from recbole_tslrec.experiments.report.results import MAIN_METRIC, Results, cell_name
from recbole_tslrec.recbole_bridge.paradigm import controls

_ITEMS_NEEDED = "no TSLRec cell has kept its items"
_RANKS_NEEDED = "no method with kept ranks beside a Base with kept ranks"


def write_report(results_folder: Path, output: Path) -> None:
    """Write ``report.md``, ``report.html``, the pictures and every number as CSV.

    Args:
        results_folder: as ``kept_cells.ResultsFolder`` describes it.
        output: a folder; files of the same names in it are replaced.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; says how to install it.
        FileNotFoundError, ValueError: the results folder is not one, or holds no finished cell.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "The report draws with matplotlib: pip install 'recbole_tslrec[report]'."
        )
    results = Results(results_folder)
    if results.cells.empty:
        raise ValueError(
            f"results: [{results_folder}] has no finished cell, and {len(results.failed)} failed."
        )
    paths = f"--results {shlex.quote(str(results_folder))} --output {shlex.quote(str(output))}"
    write_document(output, *make_report(results, f"python -m recbole_tslrec report {paths}"))


def make_report(results: Results, command: str) -> tuple[str, list[Block]]:
    """The report as Markdown, and its tables and pictures."""
    blocks = _tables(results) | _pictures(results)
    all_blocks = [one for part in blocks.values() for one in part.values()]
    tested = blocks["significance"]
    markdown = render(
        "report.md",
        **blocks,
        left_out=_left_out(blocks),
        explained=slice_tables.explained_by_penalty(results),
        found={name: tables.findings(gains.numbers) for name, gains in blocks["gains"].items()},
        seeds_and_gaps=tables.seeds_and_gaps(results),
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
        protocols=PROTOCOLS,
        metric=MAIN_METRIC,
        command=command,
    )
    return markdown, all_blocks


def _tables(results: Results) -> dict[str, dict[str, Block]]:
    """Every table by its part of the report, and there by protocol or data set."""
    parts: dict[str, dict[str, Block]] = {"gains": {}, "main": {}, "significance": {}}
    for protocol in tqdm(PROTOCOLS, desc="Report: tests and tables", delay=1):
        tested = tables.all_comparisons(results, protocol)
        main_metric = tested["metric"] == MAIN_METRIC
        of_tslrec = tested[(tested["method"] == "TSLRec") & main_metric]
        if not of_tslrec.empty:
            parts["gains"][protocol] = tables.gains_table(results, of_tslrec, protocol)
        if not results.own.empty:
            parts["main"][protocol] = tables.main_table(results, protocol, tested)
        if not tested.empty:
            parts["significance"][protocol] = tables.significance_table(results, tested, protocol)
        parts[f"reuse_{protocol}"] = tables.reuse_tables(results, protocol)
    parts["slices"] = slice_tables.slice_tables(results)
    cost = costs.cost_table(results)
    parts["costs"] = {} if cost is None else {"": cost}
    return parts | {"cells": {"": tables.seeds_table(results)}}


def _pictures(results: Results) -> dict[str, dict[str, Block]]:
    from recbole_tslrec.experiments.report import figures  # with matplotlib

    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "categories": lambda: {"": figures.category_figure(results)},
        "activity": lambda: {name: figures.activity_figure(results, name) for name in PROTOCOLS},
        "popularity": lambda: {
            name: figures.popularity_figure(results, name) for name in PROTOCOLS
        },
        "gate": lambda: {"": figures.gate_figure(results)},
        "maps": lambda: figures.map_figures(results),
    }
    parts = {}
    for part, make in tqdm(makers.items(), desc="Report: pictures", delay=1):
        parts[part] = {name: one for name, one in make().items() if one is not None}
    return parts


def _left_out(blocks: dict[str, dict[str, Block]]) -> list[str]:
    """The pictures that the results hold nothing for, and why."""
    wanted = [
        ("categories", "Figure 4, categories", _ITEMS_NEEDED),
        ("activity", "Figure 5, user activity", _RANKS_NEEDED),
        ("popularity", "Gain by popularity", _RANKS_NEEDED),
        ("gate", "Gate", f"{_ITEMS_NEEDED} with the gate's share"),
        ("maps", "Map of the items", _ITEMS_NEEDED),
    ]
    return [f"{name}: {why}." for part, name, why in wanted if not blocks[part]]
