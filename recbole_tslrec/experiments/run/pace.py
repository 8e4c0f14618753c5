"""How long a grid will go on: from the cells that are finished, to be told before the next one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.kept_cells import DONE
from recbole_tslrec.store.duration import duration


class Pace:
    """Seconds of finished cells, by what they are of.

    Args:
        lines: kept lines of the results folder; other cells' times are a first guess.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        self._now: list[float] = []  # of this start
        for line in lines:
            if line["status"] == DONE:
                self._note((line["dataset"], line["backbone"], line["variant"]), _seconds(line))

    def note(self, cell: Cell, seconds: float) -> None:
        """A cell is finished that took so long from beginning to end."""
        self._note((cell.dataset, cell.backbone, cell.variant), seconds)
        self._now.append(seconds)

    def _note(self, place: tuple[str, str, str], seconds: float) -> None:
        dataset, _, variant = place
        for known in (place, (dataset, variant), (dataset,)):
            self._seconds.setdefault(known, []).append(seconds)

    def left(self, cells: Iterable[Cell]) -> float | None:
        """Seconds that these will take about; None if nothing is known of one of their data sets.

        A cell takes as long as the mean of its row of the table; if none of that is finished, of its
        variant with other backbones, or of all on its data set.
        """
        guesses = []
        for cell in cells:
            place = (cell.dataset, cell.backbone, cell.variant)
            for known in (place, (cell.dataset, cell.variant), (cell.dataset,)):
                if known in self._seconds:
                    guesses.append(mean(self._seconds[known]))
                    break
            else:
                return None
        return sum(guesses)

    def told(self, cells: Iterable[Cell]) -> str:
        """``; 92 s a cell so far, about 14 min left``, as far as it is known."""
        left = self.left(cells)
        parts = [f"{duration(mean(self._now))} a cell so far"] if self._now else []
        parts += [f"about {duration(left)} left"] if left is not None else []
        return "".join(f"{sign} {part}" for sign, part in zip(";,", parts, strict=False))


def _seconds(line: Mapping[str, Any]) -> float:
    """What a kept cell took, the stages counted that it made itself."""
    seconds, reused = line["seconds"], set(line.get("reused_stages", ()))
    made = [time for stage, time in seconds["stages"].items() if stage not in reused]
    return seconds["training"] + seconds["evaluation"] + sum(made)
