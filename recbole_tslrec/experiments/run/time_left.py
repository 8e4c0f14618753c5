"""How long a grid will go on: from the cells that are finished, to be told before the next one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.kept_cells import seconds_of_parts
from recbole_tslrec.store.duration import duration


class TimeLeft:
    """A cell takes as long as the mean of its row of the table, else as that of this start's cells.

    Args:
        lines: those of the finished cells of the results folder.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
        self._of_rows: dict[tuple[str, str, str], list[float]] = {}
        self._now: list[float] = []  # of this start
        for line in lines:
            reused = line.get("reused_stages", ())
            made = [time for part, time in seconds_of_parts(line).items() if part not in reused]
            row = (line["dataset"], line["backbone"], line["variant"])
            self._of_rows.setdefault(row, []).append(sum(made))

    def note(self, cell: Cell, seconds: float) -> None:
        """A cell is finished that took so long from beginning to end."""
        row = (cell.dataset, cell.backbone, cell.variant)
        self._of_rows.setdefault(row, []).append(seconds)
        self._now.append(seconds)

    def told(self, cells: Iterable[Cell]) -> str:
        """``; 92 s a cell so far, about 14 min left``, as far as it is known."""
        rows = [(cell.dataset, cell.backbone, cell.variant) for cell in cells]
        times = [self._of_rows.get(row, self._now) for row in rows]
        parts = [f"{duration(mean(self._now))} a cell so far"] if self._now else []
        parts += [f"about {duration(sum(map(mean, times)))} left"] if all(times) else []
        return "".join(f"{sign} {part}" for sign, part in zip(";,", parts, strict=False))
