"""Runs a grid: what is missing of it, shared among processes, whatever fails (paper §5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from recbole_tslrec.config.refusals import tell_failure
from recbole_tslrec.experiments.run.cell_run import failure, line_or_failure, run_cell
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import DONE, ResultsFolder, seconds_of_parts
from recbole_tslrec.experiments.run.search import Search, best_values, with_values
from recbole_tslrec.experiments.run.tables import FinishedGrid
from recbole_tslrec.recbole_bridge.paradigm import variants
from recbole_tslrec.recbole_bridge.unfinished import clear_but_unfinished
from recbole_tslrec.store.duration import duration

_POLL_SECONDS = 1.0


def compare(
    grid: Grid,
    results_folder: Path,
    search: Search | None = None,
    keep_checkpoints: bool = False,
) -> FinishedGrid:
    """Run what is missing of a grid; several processes may share one results folder.

    A cell that fails does not stop the others; it is tried again by the next call.

    Args:
        grid: what is compared.
        results_folder: where every finished cell is kept; the stages are kept under ``tslrec_dir``.
        search: keys that are searched for every variant first; its winner's values hold for all
            seeds.
        keep_checkpoints: whether to keep the trained models; Base's always are.

    Raises:
        ValueError, FileNotFoundError, ...: what would fail every cell, before anything is trained; a
            kept line that its ranks contradict.
    """
    results = ResultsFolder(results_folder)
    groups = grid.groups(search.space if search is not None else ())
    failed_searches: dict[str, Exception] = {}
    tried: dict[str, dict[str, Any]] = {}
    if search is not None:
        groups = _searched(groups, search, results, failed_searches, tried, keep_checkpoints)
    cells = grid.cells(groups)
    # A cell whose search failed has no settings of its own, and so no line that could be kept.
    errors = [_search_error(cell, failed_searches) for cell in cells]
    pairs = list(zip(cells, errors, strict=True))
    to_run = [cell for cell, error in pairs if error is None]
    if keep_checkpoints:
        _tell_without_checkpoint(to_run, results)
    lines = _run(to_run, results, keep_checkpoints, tried)
    outcome = [lines[cell.id] if error is None else failure(cell, error) for cell, error in pairs]
    return FinishedGrid(grid, cells, outcome)


def _tell_without_checkpoint(cells: Sequence[Cell], results: ResultsFolder) -> None:
    """Say how many cells were finished without their trained models being kept, if any were."""
    done = {name for name, line in results.cells.read().items() if line["status"] == DONE}
    without = [
        cell for cell in cells if cell.id in done and not results.checkpoint(cell.id, cell.model)
    ]
    if without:
        print(
            f"compare: keep_checkpoints: {len(without)} finished cells have no trained model in "
            f"[{results.folder}], and what is finished is not trained again. To have theirs run the "
            f"same command with another --results folder.",
            flush=True,
        )


def _search_error(cell: Cell, failed: Mapping[str, Exception]) -> Exception | None:
    """Why a cell, or the one whose embeddings it takes, has no settings."""
    sources = [cell] if cell.embeddings_from is None else [cell, cell.embeddings_from]
    errors = [failed[_group(source)] for source in sources if _group(source) in failed]
    return errors[0] if errors else None


def _searched(
    groups: list[Cell],
    search: Search,
    results: ResultsFolder,
    failed: dict[str, Exception],
    tried: dict[str, dict[str, Any]],
    keep: bool,
) -> list[Cell]:
    """The groups with the values that are best on validation.

    Base is searched and trained first: a trial of the others starts from it wherever the cell that
    it may become does, so that their stages are the same.

    Args:
        failed: takes the error of every search that failed, under the name of its group.
        tried: takes the lines of the cells of Base, by id.
    """
    _check_searched(groups, search)
    earlier = results.trials.read()
    chosen: dict[str, Cell] = {}

    def choose(cell: Cell) -> None:
        print(f"compare: search for {_group(cell)}", flush=True)
        chosen[cell.id] = cell
        try:
            values = best_values(cell, search, results, earlier)
            chosen[cell.id] = with_values(cell, values)
            print(f"compare: search for {_group(cell)} chose {values}", flush=True)
        except Exception as error:  # its cells fail of it, the others are worth running
            tell_failure(f"compare: search for {_group(cell)}", error)
            failed[_group(cell)] = error

    bases = [cell for cell in groups if cell.variant == "Base"]
    others = [cell for cell in groups if cell.variant != "Base"]
    _share({f"search-{cell.id}": partial(choose, cell) for cell in bases}, {}, results)
    found = [chosen[cell.id] for cell in bases if _group(cell) not in failed]
    if found:
        tried |= _run(found, results, keep)
    _share({f"search-{cell.id}": partial(choose, cell) for cell in others}, {}, results)
    return [chosen[cell.id] for cell in groups]


def _group(cell: Cell) -> str:
    return f"{cell.dataset}, {cell.backbone}, {cell.variant}"


def _check_searched(groups: Sequence[Cell], search: Search) -> None:
    """Raise ValueError for a key that no model of the grid has: it is misspelt."""
    known: set[str] = set()
    refused = ""
    for cell in groups:
        try:
            known |= search.of(cell).keys()
        except Exception as error:  # a cell whose settings are refused: it fails by itself
            refused = f" {cell.model} was not asked, for its settings are refused: {error}"
    for key in search.space:
        if key not in known:
            raise ValueError(f"search: no model of this comparison has a key [{key}].{refused}")


def _run(
    cells: Sequence[Cell],
    results: ResultsFolder,
    keep: bool,
    tried: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every cell's line, kept or made now.

    Args:
        tried: the lines of cells that this start has run already; one that failed is not tried again.
    """
    before = results.cells.read()
    done = {name: line for name, line in before.items() if line["status"] == DONE}
    lines = {cell.id: done[cell.id] for cell in cells if cell.id in done}
    for line in lines.values():
        results.check_metrics(line)
    lines |= tried or {}
    missing = [cell for cell in cells if cell.id not in lines]
    time_left, waiting = TimeLeft(done.values()), {cell.id: cell for cell in missing}
    print(
        f"compare: {len(cells)} cells, {len(lines)} of them finished before, {len(missing)} to do"
        f"{time_left.told(missing)}",
        flush=True,
    )

    def run(cell: Cell) -> None:
        line = results.cells.read().get(cell.id)
        # Another process may have done it meanwhile, or have failed to.
        if line == before.get(cell.id):
            what = f"{cell.dataset}, {cell.method}, seed {cell.seed}"
            place = f"{list(cells).index(cell) + 1} of {len(cells)}"
            print(f"compare: {place}: {what}{time_left.told(waiting.values())}", flush=True)
            start = time.monotonic()
            line = line_or_failure(cell, what, lambda: run_cell(cell, results, keep))
            if line["status"] == DONE:
                time_left.note(cell, time.monotonic() - start)
            else:
                results.cells.append(line)
                clear_but_unfinished(results.checkpoints(cell.id))  # it may go on another time
        lines[cell.id] = line
        del waiting[cell.id]

    needs = {cell.id: _needs(cell) for cell in missing}
    _share({cell.id: partial(run, cell) for cell in missing}, needs, results)
    return lines


class TimeLeft:
    """How long cells will take: each the mean of its row of the table, else of this start's cells.

    Args:
        lines: those of the finished cells of the results folder.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
        self._of_rows: dict[tuple[str, str, str], list[float]] = {}
        self._now: list[float] = []  # of this start
        for line in lines:
            reused = line.get("reused_stages", ())
            parts = seconds_of_parts(line).items()
            made = [seconds for part, seconds in parts if part not in reused]
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


def _needs(cell: Cell) -> list[str]:
    """The cells that go first if they are in the grid, since this one takes something from them."""
    base = [cell.base().id] if variants()[cell.variant].takes_backbone else []
    return base + ([cell.embeddings_from.id] if cell.embeddings_from else [])


def _share(
    tasks: Mapping[str, Callable[[], None]],
    needs: Mapping[str, Sequence[str]],
    results: ResultsFolder,
) -> None:
    """Do every task in turn; one that another live process is doing is waited for at the end.

    Args:
        tasks: by name, the same in every process. Each looks whether it has been done meanwhile.
        needs: for a task's name those of the tasks, if any are there, that go before it.
    """
    waiting = dict(tasks)
    told = False
    while waiting:
        count = len(waiting)
        for name, task in tasks.items():
            if name not in waiting or any(
                other in waiting for other in needs.get(name, ()) if other != name
            ):
                continue
            with results.only_one(name) as ours:
                if ours:
                    task()
                    del waiting[name]
        if len(waiting) == count:
            if not told:
                print(
                    f"compare: another process is at work on [{results.folder}]; waiting for what "
                    f"it does of the remaining {count}.",
                    flush=True,
                )
                told = True
            time.sleep(_POLL_SECONDS)
