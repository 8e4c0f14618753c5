"""The tables of a comparison (paper §5), as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS, beside_figures
from recbole_tslrec.experiments.run.kept_cells import DONE, seconds_of_parts
from recbole_tslrec.recbole_bridge.paradigm import table_rows

if TYPE_CHECKING:
    from recbole_tslrec.experiments.run.cells import Cell
    from recbole_tslrec.experiments.run.grid import Grid


@dataclass
class FinishedGrid:
    """What has come of a grid.

    Attributes:
        grid: what was asked for.
        cells: its cells.
        lines: for each its line, done or failed.
    """

    grid: Grid
    cells: list[Cell]
    lines: list[dict[str, Any]]

    @property
    def failed(self) -> list[tuple[Cell, str]]:
        """The cells that failed, with their errors."""
        pairs = zip(self.cells, self.lines, strict=True)
        return [(cell, line["error"]) for cell, line in pairs if line["status"] != DONE]

    def tables(self) -> str:
        """The test results under both protocols and the times of each data set, as Markdown.

        Results are mean ± standard deviation over the seeds.
        """
        parts = []
        for dataset in self.grid.datasets:
            parts += [self._results(dataset, protocol) for protocol in PROTOCOLS]
            times = _times(self._methods(dataset))
            times = [[row, f"{mean(seconds):.0f}"] for row, seconds in times.items()]
            parts.append(_markdown([f"{dataset}, where the time went", "seconds a seed"], times))
        return "\n\n".join(parts)

    def _methods(
        self, dataset: str, protocol: str | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """The finished lines of every row of the table.

        Args:
            protocol: leaves out the rows of whose figures it says nothing.
        """
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for cell, line in zip(self.cells, self.lines, strict=True):
            left_out = protocol == "masked" and table_rows()[cell.variant].ranked_alone
            if cell.dataset == dataset and not left_out:
                finished = rows.setdefault((cell.method, cell.backbone), [])
                if line["status"] == DONE:
                    finished.append(line)
        # A model of no backbone stands beside each of several.
        often = Counter(method for method, _ in rows)
        return {
            f"{method}, beside {backbone}" if often[method] > 1 else method: lines
            for (method, backbone), lines in rows.items()
        }

    def _results(self, dataset: str, protocol: str) -> str:
        seeds = len(self.grid.seeds)
        rows = []
        for method, lines in self._methods(dataset, protocol).items():
            name = method if len(lines) == seeds else f"{method} ({len(lines)} of {seeds} seeds)"
            values = [
                mean_text([line["test"][protocol][metric] for line in lines])
                for metric in METRICS.values()
            ]
            beside = beside_figures(lines[0]["effective"], protocol) if lines else ""
            rows.append([name + beside, *values])
        title = f"{dataset}, test, {seeds_text(seeds)}, {PROTOCOLS[protocol]}"
        return _markdown([title, *METRICS], rows)


def _times(methods: dict[str, list[dict[str, Any]]]) -> dict[str, list[float]]:
    """Every training and every stage; a stage's time is that of when it was made.

    Where the lines are of several machines, each has rows of its own.
    """
    rows: dict[str, list[float]] = {}
    machines = {line.get("machine") for lines in methods.values() for line in lines}
    for method, lines in methods.items():
        for line in lines:
            where = f" ({line['machine']})" if len(machines) > 1 else ""
            parts = seconds_of_parts(line)
            own = parts.pop("training") + parts.pop("evaluation")
            if line.get("backbone_from") is not None:
                parts.pop("backbone", None)  # a Base, handed on: the stage took the embeddings out
            frozen = ", frozen_lm" if line["variant"] == "frozen_lm" else ""
            for stage, seconds in parts.items():
                name = f"{line['backbone']}: stage {stage}{frozen}{where}"
                rows.setdefault(name, []).append(seconds)
            rows.setdefault(f"{method}: training and evaluation{where}", []).append(own)
    return rows


def seeds_text(least: int, most: int | None = None) -> str:
    """``1 seed``, ``3 seeds`` or ``1 to 3 seeds``."""
    most = least if most is None else most
    return (f"{least} to " if least < most else "") + f"{most} seed{'s' if most > 1 else ''}"


def mean_text(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation, the latter where there are several values; "failed" for none."""
    if not values:
        return "failed"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)
