"""A cell of a comparison: one variant of one backbone on one data set under one seed.

A cell's id follows from what can change its result, and from nothing else, so that it is found again
wherever the files lie and however the settings were given.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

import recbole_tslrec
from recbole_tslrec import settings
from recbole_tslrec.compatibility import load_checkpoint
from recbole_tslrec.experiments.kept_cells import DONE, FAILED, ResultsFolder
from recbole_tslrec.experiments.machine import machine
from recbole_tslrec.experiments.protocols import CUTOFFS, rank_test_targets, save_arrays
from recbole_tslrec.model.specifications import BACKBONES
from recbole_tslrec.pipeline import Pipeline
from recbole_tslrec.quick_start import Experiment, run_experiment
from recbole_tslrec.registration import properties_folder
from recbole_tslrec.storage import file_hash, fingerprint

FORMAT = 1
# The first version of ours whose results are those of today. Raised when a change makes a cell result in
# something else; kept cells are then run again, as they are not for every release.
_RESULTS_OF = "0.1.0"
# What a comparison sets for each cell; taken out of what the user gives.
OWN_KEYS = ("model", "dataset", "seed", "enhancement", "checkpoint_dir")
# Keys that are newer than kept results, with the value at which nothing has changed: the ids stay.
_LATER_KEYS = {"item_norm": "none"}
_INPUT_FILES = ("backbone_checkpoint", "enhanced_items")
# Of our keys, those that cannot change a result: where things lie, how they are read, what is traded
# for memory.
_WITHOUT_EFFECT = (
    "tslrec_dir",
    "llm_trust_remote_code",
    "llm_attention",
    "llm_gradient_checkpointing",
)


@dataclass(frozen=True)
class Variant:
    """One of the methods that stand side by side.

    Attributes:
        prefix: what stands before the backbone's name in the model's.
        enhancement: the value of that key; None for models that do not have it.
        stages: the result depends on all keys of these (``settings.SETTINGS``).
        keys: and on these.
        peer: for a model of another paradigm, whose whole name ``prefix`` is, its one backbone.
    """

    prefix: str
    enhancement: str | None = None
    stages: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    peer: str | None = None

    def depends_on(self, key: str) -> bool:
        """Whether the result can depend on a key; on RecBole's own it can in every variant."""
        setting = settings.SETTINGS.get(key)
        return setting is None or setting.stage in self.stages or key in self.keys

    def choose(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What this variant is given of all settings."""
        return {
            key: value
            for key, value in given.items()
            if key not in OWN_KEYS and (self.depends_on(key) or key in _WITHOUT_EFFECT)
        }


_CATEGORIES, _LANGUAGE_MODEL = settings.CATEGORIES, settings.LANGUAGE_MODEL
_FINE_TUNING, _RECOMMENDATION = settings.FINE_TUNING, settings.RECOMMENDATION
VARIANTS: dict[str, Variant] = {  # in the order of a table
    "Base": Variant(""),
    "Norm": Variant("Norm_"),
    "CI": Variant("CI_", stages=(_CATEGORIES,), keys=("backbone_checkpoint", "item_norm")),
    "TSLRec": Variant(
        "TSLRec_",
        "tslrec",
        (_CATEGORIES, _LANGUAGE_MODEL, _FINE_TUNING, _RECOMMENDATION),
        ("llm", *_INPUT_FILES),
    ),
    "E4SRec": Variant(
        "E4SRec",
        None,
        (_LANGUAGE_MODEL, settings.PEER),
        (
            "llm",
            "backbone_checkpoint",
            "llm_max_history",
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "lora_target_modules",
            "sft_epochs",
            "sft_stopping_step",
        ),
        peer="SASRec",
    ),
    # The controls: TSLRec with something else in place of h^v, which it must beat for the tuned
    # language model to have added anything.
    "preferences": Variant(
        "TSLRec_", "preferences", (_CATEGORIES, _RECOMMENDATION), ("backbone_checkpoint",)
    ),
    "pretrained": Variant("TSLRec_", "pretrained", (_RECOMMENDATION,), ("backbone_checkpoint",)),
    "random": Variant("TSLRec_", "random", (_RECOMMENDATION,), ("llm",)),  # as wide as h^v
    "untuned": Variant(
        "TSLRec_",
        "untuned",
        (_LANGUAGE_MODEL, _RECOMMENDATION),
        ("llm", "backbone_checkpoint", "n_categories"),  # the instruction names n_categories
    ),
}
MAIN_VARIANTS = ("Base", "CI", "TSLRec")
CONTROLS = ("preferences", "pretrained", "random", "untuned")


@dataclass(frozen=True)
class Cell:
    """One experiment of a comparison.

    Attributes:
        dataset, backbone: their names.
        variant: a name in ``VARIANTS``.
        seed: RecBole's ``seed``.
        settings: what was given for this variant (``Variant.choose``), with what a search chose.
        data: the hash of the data set's .inter file.
        embeddings_from: the cell of another backbone whose enhanced embeddings this one takes.
    """

    dataset: str
    backbone: str
    variant: str
    seed: int
    settings: Mapping[str, Any] = field(repr=False)
    data: str = field(repr=False)
    embeddings_from: Cell | None = None

    @property
    def model(self) -> str:
        """RecBole's name of the model."""
        variant = VARIANTS[self.variant]
        return variant.prefix if variant.peer else variant.prefix + self.backbone

    @property
    def method(self) -> str:
        """The row of the table to which the cell belongs."""
        if self.embeddings_from is not None:
            return f"{self.model}, embeddings of {self.embeddings_from.backbone}"
        if self.variant == "Base":
            return f"{self.model} (Base)"
        return self.model if self.variant not in CONTROLS else f"{self.model}, {self.variant}"

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits that tell the cell from every one with another result."""
        return fingerprint(self._identity)[:16]

    @cached_property
    def configuration(self) -> str:
        """As ``id``, of all but the seed: cells with equal ones may enter one mean."""
        giver = self.embeddings_from and self.embeddings_from.configuration
        return fingerprint(self._identity | {"seed": None, "embeddings_from": giver})[:16]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """All that can change the result."""
        variant = VARIANTS[self.variant]
        ours = {key: value for key, value in self.settings.items() if key in settings.SETTINGS}
        trust = bool(self.settings.get("llm_trust_remote_code", False))
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "data": self.data,
            "backbone": self.backbone,
            "variant": self.variant,
            "embeddings_from": self.embeddings_from and self.embeddings_from.id,
            "seed": self.seed,
            "recbole": settings.training_settings(self.settings),
            "version": _RESULTS_OF,
            "ours": {
                key: _content(key, value, trust)
                for key, value in (_defaults(variant.peer is not None) | ours).items()
                if variant.depends_on(key) and (key, value) not in _LATER_KEYS.items()
            },
        }

    def base(self) -> Cell:
        """The cell whose trained model is the backbone that this one's stages start from."""
        chosen = VARIANTS["Base"].choose(self.settings)
        return Cell(self.dataset, self.backbone, "Base", self.seed, chosen, self.data)

    def experiment_settings(self) -> dict[str, Any]:
        """The settings with which RecBole runs this cell, without its input files."""
        # RecBole evaluates texts as Python: "5" would be a number, and "key" one of its variables.
        given = {
            key: repr(value) if isinstance(value, str) else value
            for key, value in self.settings.items()
        }
        enhancement = VARIANTS[self.variant].enhancement
        if enhancement is not None:
            given["enhancement"] = enhancement
        if self.settings.get("loss_type", "CE") == "CE":
            given["train_neg_sample_args"] = None  # RecBole's own CE models refuse its default
        return given | _measured(self.settings) | {"seed": self.seed}


@cache
def _defaults(peer: bool) -> dict[str, Any]:
    """The values that our keys have if they are not given."""
    reader = Config.__new__(Config)
    reader.yaml_loader = reader._build_yaml_loader()
    files = ["TSLRec.yaml", "E4SRec.yaml"] if peer else ["TSLRec.yaml"]
    return reader._load_config_files([str(properties_folder() / file) for file in files])


def _content(key: str, value: Any, trust_remote_code: bool) -> Any:
    """What stands for a value in a cell's id: of a file its content, not where it lies."""
    if key == "backbone_checkpoint" and value is not None and Path(value).is_file():
        return _weights_hash(value)
    if key in _INPUT_FILES and value is not None and Path(value).is_file():
        return file_hash(Path(value))
    if key == "llm" and Path(value).is_dir():
        return _folder_identity(value, trust_remote_code)
    return str(value)


def _weights_hash(checkpoint: str) -> str:
    """Of the weights alone: the same model trained twice is one backbone, its two files differ."""
    try:
        weights = load_checkpoint(checkpoint)["state_dict"]
    except (KeyError, ValueError):
        return file_hash(Path(checkpoint))  # the cell itself fails, and says of what
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


@cache
def _folder_identity(llm: str, trust_remote_code: bool) -> Any:
    from recbole_tslrec.language_model.source import open_source

    try:
        return open_source(llm, trust_remote_code).identity
    except (OSError, ValueError):
        return llm  # the cell itself fails, and says of what


def _measured(given: Mapping[str, Any]) -> dict[str, Any]:
    """RecBole's ``metrics`` and ``topk``: those of the table, and those that the user asks for."""
    valid_metric, valid_k = given.get("valid_metric", "MRR@10").split("@")
    metrics, topk = given.get("metrics", []), given.get("topk", [])
    wanted = ["Hit", "NDCG", *([metrics] if isinstance(metrics, str) else metrics), valid_metric]
    cutoffs = {*CUTOFFS, *([topk] if isinstance(topk, int) else topk), int(valid_k)}
    return {
        "metrics": list({metric.lower(): metric for metric in wanted}.values()),
        "topk": sorted(cutoffs),
    }


def run_cell(cell: Cell, results: ResultsFolder, keep_checkpoint: bool = False) -> dict[str, Any]:
    """Train and test one cell; its arrays are on disk when this returns, its line is not.

    Base's trained model is kept for the cells that start from it; the others' are removed.

    Args:
        cell: what to run.
        results: where its arrays go, and where the cells are that it builds on.
        keep_checkpoint: whether to keep the trained model of a variant, too.

    Returns:
        The cell's line.

    Raises:
        Whatever the experiment raises.
    """
    folder = results.checkpoints(cell.id)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
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
    ranks.save(results.ranks_file(cell.id))
    if cell.variant in ("CI", "TSLRec") and experiment.trainer.config["enhanced_items"] is None:
        from recbole_tslrec.experiments.item_record import item_record

        record = item_record(pipeline=experiment.trainer.pipeline, model=model)
        save_arrays(results.items_file(cell.id), record)
    if cell.variant != "Base" and not keep_checkpoint:
        shutil.rmtree(folder)
    return description(cell) | {
        "status": DONE,
        "error": None,
        "valid": validation(experiment),
        "test": ranks.metrics(),
        "effective": effective_settings(cell, experiment.trainer.config),
        "backbone_from": _base_taken(cell, given),
        "epochs": len(experiment.trainer.train_loss_dict),
        "seconds": {
            "training": round(experiment.seconds, 3),
            "evaluation": round(evaluation, 3),
            "stages": _seconds_of_stages(experiment),
        },
        "reused_stages": [stage.name for stage in experiment.stages if stage.reused],
        **circumstances(),
    }


def experiment_settings_with_inputs(cell: Cell, results: ResultsFolder) -> dict[str, Any]:
    """The settings with which RecBole runs a cell, with what it takes from other cells.

    Base's trained model is handed on as the backbone where it is there; else the pipeline trains
    the same one by itself, under the same seed.

    Raises:
        RuntimeError: the cell whose enhanced embeddings it takes has failed.
    """
    given = cell.experiment_settings()
    source = cell.embeddings_from
    if source is not None:
        if results.cells.read().get(source.id, {}).get("status") != DONE:
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
        "backbone_checkpoint" not in VARIANTS[cell.variant].keys
        or cell.settings.get("backbone_checkpoint") is not None
        or cell.embeddings_from is not None
    ):
        return None
    base = cell.base().id
    # A checkpoint without a line is of a training that was interrupted.
    finished = results.cells.read().get(base, {}).get("status") == DONE
    return results.checkpoint(base) if finished else None


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
    return Pipeline(config, train_data, valid_data, backbone, show_progress).enhanced_items_file()


def failure(cell: Cell, error: Exception) -> dict[str, Any]:
    """The line of a cell that failed."""
    return (
        description(cell)
        | {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
        | circumstances()
    )


def description(cell: Cell) -> dict[str, Any]:
    """What a line says of its cell, whatever came of it."""
    source = cell.embeddings_from
    return {
        "format": FORMAT,
        "cell": cell.id,
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "variant": cell.variant,
        "embeddings_from": source and source.backbone,
        "seed": cell.seed,
        "data": cell.data,
        "configuration": cell.configuration,
        # As json would read them back: yaml knows more types than json.
        "settings": json.loads(json.dumps(dict(cell.settings), default=str)),
    }


def validation(experiment: Experiment) -> dict[str, float]:
    """The best epoch's validation metrics, those of the table.

    Raises:
        ValueError: there were none, since nothing was trained or validated on.
    """
    if experiment.best_valid_result is None:
        raise ValueError(
            "Nothing could be trained or validated: every user's last two interactions are held out, "
            "and what is left of a history must have two or more for some users. The data set, or what "
            "its filters leave of it, is too small."
        )
    names = [f"{metric}@{k}" for metric in ("hit", "ndcg") for k in CUTOFFS]
    return {name: float(experiment.best_valid_result[name]) for name in names}


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
        for key in settings.SETTINGS
        if key in final and key not in _INPUT_FILES and VARIANTS[cell.variant].depends_on(key)
    }
    values = settings.training_settings(final) | ours
    return {key: value for key, value in sorted(values.items()) if key not in ("seed", "dataset")}


def circumstances() -> dict[str, Any]:
    """With what, where, when and by what command a line was made."""
    packages = ("recbole", "torch", "transformers")
    return {
        "versions": {"recbole_tslrec": recbole_tslrec.__version__}
        | {package: version(package) for package in packages},
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
