"""Runs one cell of a comparison, and writes what came of it."""

from __future__ import annotations

import gc
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

import recbole_tslrec
from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.config.devices import device_of, machine
from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.config.key import KEYS, Effect
from recbole_tslrec.config.refusals import tell_failure
from recbole_tslrec.evaluation.metrics import METRICS
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.experiments.run.cells import Cell, description
from recbole_tslrec.experiments.run.kept_cells import DONE, FAILED, ResultsFolder
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.recbole_bridge.paradigm import variants
from recbole_tslrec.recbole_bridge.quick_start import Experiment, run_experiment
from recbole_tslrec.recbole_bridge.unfinished import clear_but_unfinished
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.user_inputs import draws_by_popularity
from recbole_tslrec.store.arrays import save_arrays
from recbole_tslrec.store.checkpoints import load_checkpoint


def run_cell(cell: Cell, results: ResultsFolder, keep_checkpoint: bool = False) -> dict[str, Any]:
    """Train and test one cell; its arrays and its line are on disk when this returns.

    Base's trained model is kept for the cells that start from it; the others' are removed, once the
    line is there: whatever fails before, the training goes on from its end.

    Args:
        cell: what to run.
        results: where its arrays go, and where the cells are that it builds on.
        keep_checkpoint: whether to keep the trained model of a variant, too.

    Returns:
        The cell's line.

    Raises:
        ValueError: as ``on_planned_files``.
        Whatever the experiment raises.
    """
    folder = results.checkpoints(cell.id)
    clear_but_unfinished(folder)  # of a run that was interrupted, whose training goes on
    with on_planned_files(cell):
        given = experiment_settings_with_inputs(cell, results) | {"checkpoint_dir": str(folder)}
        experiment = run_experiment(cell.model, cell.dataset, config_dict=given, test=False)
        model = experiment.trainer.model
        state = load_checkpoint(experiment.checkpoint, experiment.trainer.device)["state_dict"]
        model.load_state_dict(state)  # the best epoch's
        start = monotonic()
        ranks = rank_test_targets(
            model, experiment.train_data, experiment.valid_data, experiment.test_data
        )
        evaluation = monotonic() - start
    ranks.save(results.arrays_file("ranks", cell.id))
    if variants()[cell.variant].record_items and cell.embeddings_from is None:
        _keep_item_record(cell, experiment, results)
    line = outcome(cell, experiment) | {
        "test": ranks.metrics(),
        "effective": effective_settings(cell, experiment.trainer.config),
        "backbone_from": _base_taken(cell, given),
        "seconds": {
            "training": round(experiment.seconds, 3),
            "evaluation": round(evaluation, 3),
            "stages": _seconds_of_stages(experiment),
        },
        "reused_stages": [stage.name for stage in experiment.stages if stage.reused],
    }
    results.cells.append(line)
    with suppress(OSError):  # the cell is finished, whatever stays behind
        experiment.is_tested()
    if cell.variant != "Base" and not keep_checkpoint:
        shutil.rmtree(folder, ignore_errors=True)
    return line


@contextmanager
def on_planned_files(cell: Cell) -> Iterator[None]:
    """Have the files be, before and after, those of which the cell's id is.

    Raises:
        ValueError: one has changed since the comparison was planned, which may be hours ago.
    """
    cell.check_unchanged()
    yield
    cell.check_unchanged()


def _keep_item_record(cell: Cell, experiment: Experiment, results: ResultsFolder) -> None:
    try:
        record = variants()[cell.variant].record_items(
            experiment.trainer.pipeline, experiment.trainer.model
        )
    except (ValueError, FileNotFoundError) as error:  # a stage may have been removed meanwhile
        # The cell is sound without it; the report's pictures leave it out.
        getLogger(__name__).warning(
            f"{cell.dataset}, {cell.method}: nothing is kept of its items. {error}"
        )
        return
    save_arrays(results.arrays_file("items", cell.id), record)


def experiment_settings_with_inputs(cell: Cell, results: ResultsFolder) -> dict[str, Any]:
    """The settings with which RecBole runs a cell, with what it takes from other cells.

    Base's trained model is handed on as the backbone where it is there; else the pipeline trains
    one by itself, under the same seed. That is the same but where negative items are drawn by
    popularity, for which RecBole, and so Base, counts test interactions as well.

    Raises:
        RuntimeError: the cell whose enhanced embeddings it takes has failed.
    """
    given = cell.experiment_settings()
    source = cell.embeddings_from
    if source is not None:
        if results.finished(source.id) is None:
            raise RuntimeError(
                f"The enhanced embeddings are to come from {source.method} of seed {source.seed}, "
                f"which has failed. See its own error."
            )
        given["enhanced_items"] = str(_enhanced_items_file(source, results))
    else:
        checkpoint = _handed_on(cell, results)
        if checkpoint is not None:
            given["backbone_checkpoint"] = str(checkpoint)
    return given


def _handed_on(cell: Cell, results: ResultsFolder) -> Path | None:
    """The trained model of the Base that the cell's stages start from, if it is there to be taken."""
    if (
        not variants()[cell.variant].takes_backbone
        or cell.settings.get("backbone_checkpoint") is not None
        or cell.embeddings_from is not None
    ):
        return None
    base = cell.base()
    if results.finished(base.id) is None:
        return None  # a checkpoint without a line is of a training that was interrupted
    if draws_by_popularity(base.config()):
        return None
    checkpoint = results.checkpoint(base.id, base.model)
    if checkpoint is None:
        print(
            f"compare: {cell.dataset}, {cell.method}, seed {cell.seed}: Base is finished, and its "
            f"trained model is not in [{results.checkpoints(base.id)}], as of a packed folder. Another "
            f"is trained under the same seed; made with another machine or version it is not the Base "
            f"of the table. To have it trained again take out of cells.jsonl its line, of cell "
            f"[{base.id}], and all lines with that cell as backbone_from: they were made from it.",
            flush=True,
        )
    return checkpoint


def _base_taken(cell: Cell, given: Mapping[str, Any]) -> str | None:
    """The id of the Base whose trained model the cell was given; not one that is there by now."""
    taken = given.get("backbone_checkpoint") is not None
    return cell.base().id if taken and cell.settings.get("backbone_checkpoint") is None else None


def _seconds_of_stages(experiment: Experiment) -> dict[str, float]:
    """Of all stages that the model depends on, also those that the run had no need to look at."""
    pipeline = getattr(experiment.trainer, "pipeline", None)
    if pipeline is None:
        return {}
    return pipeline.seconds(experiment.trainer.model.stages(experiment.trainer.config))


def _enhanced_items_file(cell: Cell, results: ResultsFolder) -> Path:
    """The file of a finished cell's enhanced embeddings; made again if it was cleaned up."""
    given = experiment_settings_with_inputs(cell, results)
    config = Config(cell.model, cell.dataset, config_dict=given)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    backbone, show_progress = BACKBONES[cell.backbone], config["show_progress"]
    pipeline = Pipeline(config, train_data, valid_data, backbone, show_progress)
    return pipeline.stage(AugmentationStage).file()


def line_or_failure(cell: Cell, what: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The line that a run comes to; that of its failure, which is told, whatever it was.

    Args:
        what: is run, for the screen.
    """
    try:
        return run()
    except Exception as error:  # the others are worth running
        tell_failure(f"compare: {what}", error)
        return failure(cell, error)
    finally:
        gc.collect()  # model and trainer refer to each other
        torch.cuda.empty_cache()


def failure(cell: Cell, error: Exception) -> dict[str, Any]:
    """The line of a cell that failed."""
    return (
        description(cell)
        | {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
        | _circumstances(cell)
    )


def outcome(cell: Cell, experiment: Experiment) -> dict[str, Any]:
    """What the line of a finished run says, be it a cell or a trial."""
    valid = {name: float(experiment.best_valid_result[name]) for name in METRICS.values()}
    epochs = len(experiment.trainer.train_loss_dict)
    found = {"status": DONE, "error": None, "valid": valid, "epochs": epochs}
    return description(cell) | found | _circumstances(cell)


def effective_settings(cell: Cell, config) -> dict[str, str]:
    """The value, as text, of every key on which the result can depend, whether it was given or not.

    For people to read. The seed and the data set have entries of their own, input files their content
    in ``Cell.configuration``.

    Args:
        config: RecBole's config with which the cell runs.
    """
    final = config.final_config_dict
    ours = {
        key: str(final[key])
        for key in KEYS
        if key in final
        and KEYS[key].effect is not Effect.FILE
        and variants()[cell.variant].reads(key, final)
    }
    values = training_settings(final) | ours
    return {key: value for key, value in sorted(values.items()) if key not in ("seed", "dataset")}


def _circumstances(cell: Cell) -> dict[str, Any]:
    """With what, where, when and by what command a line was made."""
    packages = ("recbole", "torch", "transformers")
    return {
        "versions": {"recbole_tslrec": recbole_tslrec.__version__}
        | {package: version(package) for package in packages},
        "machine": machine(device_of(cell.settings)),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
