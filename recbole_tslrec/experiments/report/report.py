"""The report: what the kept results say, from the numbers by plain rules (paper §5)."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from types import ModuleType

import pandas as pd

from recbole_tslrec.evaluation.ranks import PROTOCOLS
from recbole_tslrec.evaluation.significance import Comparison
from recbole_tslrec.experiments.report.document import Document, Picture, Section, Table, entries
from recbole_tslrec.experiments.report.results import (
    MAIN_METRIC,
    KeptCell,
    Method,
    Results,
)
from recbole_tslrec.experiments.report.tables import (
    TESTS,
    all_comparisons,
    gains_table,
    made,
    main_table,
    reuse_tables,
    significance_table,
    variant_name,
)

_ITEMS_NEEDED = "no TSLRec cell has kept its items"
_NOT_TOLD_APART = "cannot be told from"


def write_report(results_folder: Path, output: Path) -> None:
    """Write ``report.md``, ``report.html``, the pictures and every number as CSV.

    Args:
        results_folder: as ``results`` describes it.
        output: a folder; files of the same names in it are replaced.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; says how to install it.
        FileNotFoundError, ValueError: the results folder is not one, or holds no finished cell.
    """
    figures = _import_figures()
    results = Results.load(results_folder)
    if not results.cells:
        raise ValueError(
            f"results: [{results_folder}] has no finished cell, and {len(results.failed)} failed."
        )
    paths = f"--results {shlex.quote(str(results_folder))} --output {shlex.quote(str(output))}"
    command = f"python -m recbole_tslrec report {paths}"
    make_document(results, figures, command).write(output)


def _import_figures() -> ModuleType:
    try:
        from recbole_tslrec.experiments.report import figures
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "The report draws with matplotlib: pip install 'recbole_tslrec[report]'.",
            name=error.name,
        ) from error
    return figures


def make_document(results: Results, figures: ModuleType, command: str) -> Document:
    """All sections of the report, in reading order."""
    comparisons = {protocol: all_comparisons(results, protocol) for protocol in PROTOCOLS}
    # What ran comes last: its notes are of all that was read for the rest.
    sections = [
        _takeaways(results, comparisons, command),
        _main_results(results, comparisons, command),
        _reuse(results, command),
        _pictures(results, figures, command),
        _state_of_the_grid(results, command),
    ]
    return Document("TSLRec: the report of the kept results", sections)


# ---- what to take away ---------------------------------------------------------------------------


def _takeaways(results: Results, comparisons: dict[str, list[Comparison]], command: str) -> Section:
    section = Section("What to take away")
    if results.mismatches:
        section.blocks += ["Before anything else, what does not compare:", results.mismatches]
    for protocol, name in PROTOCOLS.items():
        of_tslrec = [
            one
            for one in comparisons[protocol]
            if one.ours == "TSLRec" and one.metric == MAIN_METRIC
        ]
        if not of_tslrec:
            section.blocks.append(
                "No data set and backbone has both TSLRec and something to hold it against: the "
                "results so far say nothing about TSLRec."
            )
            return section
        section.blocks.append(
            f"With {name}, {len(of_tslrec)} comparisons of TSLRec with another method on the same data "
            f"set and backbone."
        )
        section.blocks.append(_findings(of_tslrec, results.variants()))
        section.blocks.append(gains_table(results, of_tslrec, protocol, command))
    section.blocks.append(
        f"The rules: {MAIN_METRIC} on the test users; {TESTS} for all comparisons of a protocol, which "
        f"stand under Table 2 below. 'Better' and 'worse' are said where both tests agree. A control is "
        f"TSLRec with something else in place of the tuned language model's vectors: what it gains as "
        f"well does not come from the tuned language model. With few seeds the test over the seeds "
        f"finds large differences only."
    )
    return section


def verdict(comparison: Comparison) -> str:
    """What may be said of ours against theirs, without their name: "better than", …"""
    direction = "better" if comparison.difference > 0 else "worse"
    found = comparison.users.significant, comparison.seeds.significant
    if found == (True, True):
        return f"{direction} than"
    if found == (True, False):
        return f"{direction} over the users, not over the seeds, than"
    if found == (False, True):
        return f"{direction} over the seeds, not over the users, than"
    return _NOT_TOLD_APART


def _findings(comparisons: list[Comparison], order: list[str]) -> list[str]:
    """A point a verdict: the rivals that it holds of, and where; the undecided ones are counted."""
    places: dict[str, dict[str, list[str]]] = {"better than": {}, "worse than": {}}
    for one in sorted(comparisons, key=lambda one: order.index(one.theirs)):
        rivals = places.setdefault(verdict(one), {})
        rivals.setdefault(variant_name(one.theirs), []).append(f"{one.dataset} {one.backbone}")
    undecided = places.pop(_NOT_TOLD_APART, {})
    points = []
    for said, rivals in places.items():
        each = "; ".join(f"{rival} ({', '.join(where)})" for rival, where in rivals.items())
        points.append(f"TSLRec is {said}: {each or 'none'}.")
    if undecided:
        each = ", ".join(f"{rival} ({len(where)})" for rival, where in undecided.items())
        points.append(f"It {_NOT_TOLD_APART}: {each}; in brackets in how many places.")
    return points


# ---- tables and pictures -------------------------------------------------------------------------


def _main_results(
    results: Results, comparisons: dict[str, list[Comparison]], command: str
) -> Section:
    section = Section("Results on the test users")
    section.blocks.append(
        "The same trained models under two protocols. In the first, as in RecBole, an item that the "
        "user has had already may be recommended again; in the second such items are taken out before "
        "ranking. Published figures exist in both. Never compare figures across the two."
    )
    if "E4SRec" not in results.variants():
        section.blocks.append("E4SRec has no finished cell here.")
    for protocol in PROTOCOLS:
        tested = comparisons[protocol]
        section.blocks.append(main_table(results, protocol, tested, command))
        if tested:
            cells = [cell for cell in results.cells if cell.made_by is None]
            section.blocks.append(significance_table(tested, protocol, cells, command))
    return section


def _reuse(results: Results, command: str) -> Section:
    tables = [table for protocol in PROTOCOLS for table in reuse_tables(results, protocol, command)]
    text = (
        "The paper's second stage may use embeddings that were made with another backbone, so that the "
        "language model is tuned once for several."
        if tables
        else "No finished cell uses embeddings of another backbone; there is no table."
    )
    return Section("Reuse across backbones", [text, *tables])


def _pictures(results: Results, figures: ModuleType, command: str) -> Section:
    section = Section("Pictures")
    ranks_needed = "no method with kept ranks beside a Base with kept ranks"
    parts = [
        ("Figure 3, time", figures.time_figure(results, command), "no cell has kept its times"),
        ("Figure 4, categories", figures.category_figure(results, command), _ITEMS_NEEDED),
    ]
    for protocol in PROTOCOLS:
        activity = figures.activity_figure(results, protocol, command)
        parts.append((f"Figure 5, user activity, {protocol}", activity, ranks_needed))
    for protocol in PROTOCOLS:
        popularity = figures.popularity_figure(results, protocol, command)
        parts.append((f"Gain by popularity, {protocol}", popularity, ranks_needed))
    parts.append(
        ("Gate", figures.gate_figure(results, command), f"{_ITEMS_NEEDED} with the gate's share")
    )
    maps: list[Picture | None] = [*figures.map_figures(results, command)] or [None]
    parts += [("Map of the items", picture, _ITEMS_NEEDED) for picture in maps]
    section.blocks += [picture for _, picture, _ in parts if picture is not None]
    left_out = [f"{name}: {why}." for name, picture, why in parts if picture is None]
    if left_out:
        section.blocks += ["Left out:", left_out]
    return section


# ---- what ran and what did not -------------------------------------------------------------------


def _state_of_the_grid(results: Results, command: str) -> Section:
    section = Section("What ran, and what did not")
    section.blocks.append(
        f"{len(results.cells)} finished cells are in this report; {len(results.failed)} failed."
    )
    section.blocks.append(_seeds_table(results, command))
    if results.failed:
        section.blocks += [
            "Failed:",
            [f"{cell}: {shorten(cell.error or 'no error kept', 300)}" for cell in results.failed],
        ]
    if results.replaced:
        section.blocks += [
            "Not in this report: cells of other settings or data than those of their method that have "
            "more seeds, and cells that were run again later:",
            [f"{cell} (cell {cell.cell}, {cell.finished_at})" for cell in results.replaced],
        ]
    if results.notes:
        section.blocks += ["What did not fit together:", results.notes]
    return section


def _seeds_table(results: Results, command: str) -> Table:
    """Which seeds every method has, and what it was trained with."""
    methods = sorted(results.methods.values(), key=lambda one: (one.dataset, one.backbone))
    columns = ["data set", "backbone", "method", "embeddings from", "seeds", "epochs"]
    columns += [f"validation {MAIN_METRIC}"]
    rows = [entries(_seeds_row(method)) for method in methods]
    numbers = pd.DataFrame([_cell_row(cell) for cell in results.cells + results.failed])
    caption = (
        "Every method's seeds, epochs trained and validation result (RecBole's protocol), the last two "
        "by seed. The CSV has a line a cell with its settings."
    )
    made_lines = made(results.cells, command)
    headers = [("", column) for column in columns]
    return Table("cells", "Cells", caption, made_lines, headers, rows, numbers)


def _seeds_row(method: Method) -> list[str]:
    cells = [method.cells[seed] for seed in method.seeds]
    return [
        method.dataset,
        method.backbone,
        method.variant,
        method.made_by or "",
        ", ".join(map(str, method.seeds)),
        ", ".join("?" if cell.epochs is None else str(cell.epochs) for cell in cells),
        ", ".join(f"{value:.4f}" for value in method.valid(MAIN_METRIC).values()),
    ]


def _cell_row(cell: KeptCell) -> dict:
    row = {one.name: getattr(cell, one.name) for one in fields(cell)}
    return {
        name: json.dumps(value) if isinstance(value, (dict, list)) else value
        for name, value in row.items()
    }
