"""A small search over declared keys, the same for every variant, by RecBole's HyperTuning.

Every data set, backbone and variant gets the same keys (those that it has), the same values and the
same number of trials at most, on the first seed. Trials are judged by the validation results alone;
the test data are not looked at. Every trial is kept as a line, so a later start repeats none.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from time import monotonic
from typing import Any

from recbole.config import Config
from recbole.trainer import HyperTuning
from recbole.utils.argument_list import general_arguments

from recbole_tslrec.config.key import KEYS
from recbole_tslrec.config.recbole_keys import SAME_FOR_ALL
from recbole_tslrec.experiments.run.cell_run import (
    experiment_settings_with_inputs,
    line_or_failure,
    on_planned_files,
    outcome,
)
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.kept_cells import DONE, FAILED, ResultsFolder
from recbole_tslrec.recbole_bridge.paradigm import set_by_all, variants
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.unfinished import clear_but_unfinished
from recbole_tslrec.store.duration import duration

_NOT_SEARCHED = SAME_FOR_ALL.union(general_arguments)
_NOT_SEARCHED |= {
    "eval_batch_size",
    "metric_decimal_place",
    "eval_step",
    "loss_decimal_place",
    "allow_new_data",
}

_KEPT_TAKES = 1.0  # seconds, at most: a trial that is found tells nothing of those to come


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        space: for each key what hyperopt draws its values from, as RecBole's HyperTuning builds it.
        budget: the most trials of each data set, backbone and variant.
    """

    space: Mapping[str, Any]
    budget: int

    def __post_init__(self) -> None:
        for key in self.space:
            if key in _NOT_SEARCHED | set_by_all(variants().values()):
                raise ValueError(f"search: [{key}] says what is compared or how it is judged.")
        if self.budget < 1:
            raise ValueError(f"search_budget: [{self.budget}] is not a whole number, 1 or larger.")

    def of(self, cell: Cell) -> dict[str, Any]:
        """The part of the space that the cell's model has.

        A key is the model's if its yaml names it, RecBole's or ours; one of ours also has to change
        something in the variant.
        """
        config = cell.config()
        return {
            key: values
            for key, values in self.space.items()
            if variants()[cell.variant].depends_on(key)
            and (key in KEYS or key in config.internal_config_dict)
        }


def declare(text: str | None, file: Path | None, budget: int) -> Search | None:
    """The search that the command line asks for, if any.

    Args:
        text: ``key=[value, value] key=[value]``, values as in yaml.
        file: RecBole's parameter file for HyperTuning, ``key choice [value, value]`` a line, or
            with uniform, quniform or loguniform for choice.
        budget: the most trials of each data set, backbone and variant.

    Raises:
        ValueError: the text cannot be read, or both are given.
        ModuleNotFoundError: hyperopt is not installed.
    """
    if text is None and file is None:
        return None
    if text is not None and file is not None:
        raise ValueError("search: give either --search or --search_file, not both.")
    try:
        import hyperopt  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "search: needs hyperopt. Install it with: pip install 'recbole_tslrec[tuning]'"
        ) from error
    if text is not None:
        return Search(HyperTuning._build_space_from_dict({"choice": _choices(text)}), budget)
    try:
        space = HyperTuning._build_space_from_file(file)
    except (NameError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"search_file: [{file}] cannot be read: {error}") from None
    if not space:
        raise ValueError(f"search_file: [{file}] has no line 'key choice [value, value]'.")
    return Search(space, budget)


def _choices(text: str) -> dict[str, list]:
    import yaml

    loader = Config._build_yaml_loader(None)  # knows 1e-3 as a number, which plain yaml does not
    choices = {}
    for part in re.split(r"\s+(?=\w+=)", text.strip()):
        key, _, values = part.partition("=")
        try:
            values = yaml.load(values, loader)
        except yaml.YAMLError:
            values = None
        if not key.isidentifier() or not isinstance(values, list) or not values:
            raise ValueError(f"search: [{part}] is not of the form key=[value, value].")
        if key in choices:
            raise ValueError(f"search: [{key}] is given twice.")
        choices[key] = values
    return choices


def best_values(
    cell: Cell,
    search: Search,
    results: ResultsFolder,
    earlier: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """The values under which the cell's variant is best on validation; none if it has no key.

    Args:
        cell: with the settings that are given, under the first seed.
        search: what is searched.
        results: where the trials are kept.
        earlier: the trials' lines when this start began. One that failed by then is tried again; one
            that another process has failed at since is not, so that both choose the same.

    Raises:
        RuntimeError: every trial failed.
    """
    space = search.of(cell)
    if not space:
        return {}
    config = cell.config()
    whole = {key for key in space if type(config[key]) is int}
    trials: list[dict[str, Any]] = []
    pace = _Pace()

    def objective(values: dict[str, Any], _) -> dict[str, Any]:
        with pace.trial(len(trials) + 1, tuning.max_evals):
            trials.append(_trial(cell, _with_whole_numbers(values, whole), results, earlier))
        return {
            "model": cell.model,
            "best_valid_score": _score(trials[-1]),
            "valid_score_bigger": True,
            "best_valid_result": trials[-1].get("valid"),
            "test_result": "not looked at",
        }

    # Every combination of choices once, in random order; other distributions are drawn from.
    exhaustive = all(values.name == "switch" for values in space.values())
    tuning = HyperTuning(
        objective,
        space=space,
        algo="exhaustive" if exhaustive else "random",
        max_evals=search.budget,
        early_stop=search.budget,  # not at all: the budget is the same for every variant
    )
    tuning.max_evals = int(min(search.budget, tuning.max_evals))
    with _same_draws(cell.seed):
        tuning.run()
    best = max(trials, key=_score)
    failed = [trial["error"] for trial in trials if trial["status"] == FAILED]
    if best["status"] == FAILED:
        raise RuntimeError(f"All {len(trials)} trials of the search failed: {best['error']}")
    if failed:
        print(
            f"compare: {len(failed)} of {len(trials)} trials of {cell.dataset}, {cell.method}, failed, "
            f"the first of: {failed[0]}",
            flush=True,
        )
    return best["values"]


class _Pace:
    """Says which trial begins, and how long the rest will take, by those that were run so far."""

    def __init__(self):
        self._took: list[float] = []

    @contextmanager
    def trial(self, number: int, of: int) -> Iterator[None]:
        left = duration(mean(self._took) * (of - number + 1)) if self._took else ""
        told = f"; about {left} left" if left else ""
        print(f"compare: trial {number} of {of}{told}", flush=True)
        start = monotonic()
        yield
        if (seconds := monotonic() - start) > _KEPT_TAKES:
            self._took.append(seconds)


def with_values(cell: Cell, values: Mapping[str, Any]) -> Cell:
    """A cell under these values.

    A value that holds anyway is not written down: the cell is then the one of a comparison without a
    search, and is not run again.
    """
    config = cell.config().final_config_dict
    changed = {key: value for key, value in values.items() if config.get(key) != value}
    return replace(cell, settings={**cell.settings, **changed})


def _score(trial: dict[str, Any]) -> float:
    """The trial's validation score, the larger the better; a failed one is the worst."""
    if trial["status"] == FAILED:
        return -math.inf
    return trial["score"] if trial["bigger"] else -trial["score"]


def _with_whole_numbers(values: dict[str, Any], whole: set[str]) -> dict[str, Any]:
    """The values, whole numbers for the keys of ``whole``: hyperopt's ``quniform`` draws 16.0."""
    return {
        key: int(value)
        if key in whole and isinstance(value, float) and value.is_integer()
        else value
        for key, value in values.items()
    }


def _trial(
    cell: Cell,
    values: dict[str, Any],
    results: ResultsFolder,
    earlier: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """The line of one trial, found or made."""
    values = json.loads(json.dumps(values))  # as the line gives them back: no tuples for lists
    trial = with_values(cell, values)
    # Another search may come to the same settings, with some of the values given, at the same time.
    with results.lock(f"trial-{trial.id}"):
        kept = results.trials.read().get(trial.id)
        if kept is not None and (kept["status"] == DONE or kept != earlier.get(trial.id)):
            return kept | {"values": values}
        line = _of_finished_cell(trial, results) or _run_trial(trial, values, results)
        line["trial"] = line.pop("cell")
        line["values"] = values
        results.trials.append(line)
        if line["status"] == DONE:
            shutil.rmtree(_folder_of(trial, results), ignore_errors=True)
    return line


def _folder_of(trial: Cell, results: ResultsFolder) -> Path:
    """Where a trial's training is kept, until its line is."""
    return results.checkpoints(f"trial-{trial.id}")


def _of_finished_cell(trial: Cell, results: ResultsFolder) -> dict[str, Any] | None:
    """What a trial would come to, if a finished cell is of the same settings and seed; None if none is.

    The cell's line without its test results.
    """
    line = results.finished(trial.id)
    metric = trial.settings.get("valid_metric", "MRR@10").lower()  # RecBole's default
    if line is None or metric not in line["valid"]:
        return None
    without_test = {key: value for key, value in line.items() if key != "test"}
    # All of a cell's validation metrics are the larger the better.
    return without_test | {"score": line["valid"][metric], "bigger": True}


def _run_trial(trial: Cell, values: dict[str, Any], results: ResultsFolder) -> dict[str, Any]:
    """The line of a trial, trained and validated now."""
    folder = _folder_of(trial, results)
    clear_but_unfinished(folder)  # of a run that was interrupted, whose training goes on

    def run() -> dict[str, Any]:
        # With what it takes from other cells, so that its stages are those of the cell it may become.
        with on_planned_files(trial):
            given = experiment_settings_with_inputs(trial, results)
            given |= {"checkpoint_dir": str(folder)}
            experiment = run_experiment(trial.model, trial.dataset, config_dict=given, test=False)
        return outcome(trial, experiment) | {
            "score": experiment.best_valid_score,
            "bigger": bool(experiment.trainer.config["valid_metric_bigger"]),
            "seconds": {"training": round(experiment.seconds, 3)},
        }

    line = line_or_failure(trial, f"trial of {trial.model} with {values}", run)
    if line["status"] == FAILED:
        clear_but_unfinished(folder)
    return line


@contextmanager
def _same_draws(seed: int) -> Iterator[None]:
    """Have hyperopt draw the same trials in every start; HyperTuning does not hand a seed on."""
    before = os.environ.get("HYPEROPT_FMIN_SEED")
    os.environ["HYPEROPT_FMIN_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYPEROPT_FMIN_SEED"]
        else:
            os.environ["HYPEROPT_FMIN_SEED"] = before
