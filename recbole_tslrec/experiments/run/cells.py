"""A cell of a comparison: one variant of one backbone on one data set under one seed.

A cell's id follows from what was given that can change its result, and from nothing else, so that it is
found again wherever the files lie, and whether a yaml or the command line gave it. (RecBole's default
given as a key makes another id, though not another result.) ``cell_run.py`` runs one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.config.key import KEYS, Effect, counts
from recbole_tslrec.config.recbole_keys import listed
from recbole_tslrec.data.file_hashes import check_unchanged
from recbole_tslrec.evaluation.metrics import CUTOFFS
from recbole_tslrec.experiments.run.kept_cells import FORMAT
from recbole_tslrec.recbole_bridge.config_files import own_value
from recbole_tslrec.recbole_bridge.paradigm import paradigm_of, variants
from recbole_tslrec.store.checkpoints import weights_hash
from recbole_tslrec.store.files import file_hash, fingerprint


@dataclass(frozen=True)
class Cell:
    """One experiment of a comparison.

    Attributes:
        dataset, backbone: their names.
        variant: a name in ``paradigm.variants``.
        seed: RecBole's ``seed``.
        settings: what was given for this variant (``Variant.choose``), with what a search chose.
        data: the hash of the files of the data set that RecBole loads for it.
        texts: the hash of its .item file, where columns of it are given to read.
        embeddings_from: the cell of another backbone whose enhanced embeddings this one takes.
        files: the hash of each of the files of ``data``, by its ending.
    """

    dataset: str
    backbone: str
    variant: str
    seed: int
    settings: Mapping[str, Any] = field(repr=False)
    data: str = field(repr=False)
    texts: str = field(default="", repr=False)
    embeddings_from: Cell | None = None
    files: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> str:
        """RecBole's name of the model."""
        return variants()[self.variant].model.format(backbone=self.backbone)

    @property
    def method(self) -> str:
        """The row of the table to which the cell belongs."""
        if self.embeddings_from is not None:
            return f"{self.model}, embeddings of {self.embeddings_from.backbone}"
        return variants()[self.variant].method(self.backbone)

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
        variant = variants()[self.variant]
        # The row's name says which vectors it takes; what else it sets changes with its declaration.
        own = {
            key: value for key, value in (variant.settings or {}).items() if key != "enhancement"
        }
        settings = {**self.settings, **own}
        if "valid_metric" in settings:
            settings["valid_metric"] = _as_usual(settings["valid_metric"])
        ours = {key: value for key, value in settings.items() if key in KEYS}
        paradigm = paradigm_of(self.model)
        defaults = {name: key.default for name, key in KEYS.items()}
        defaults |= {} if paradigm is None else paradigm.defaults()
        trust = bool(settings.get("llm_trust_remote_code", False))
        values = defaults | ours
        # A key that is not read counts as one that is not given.
        read = {
            key: value if variant.reads(key, values) else defaults[key]
            for key, value in values.items()
            if variant.depends_on(key)
        }
        own = {"loss_type": self._loss, "transform": self._own("transform")}
        reads_texts = self.texts and read.get("item_text") is not None
        added = {"texts": self.texts} if reads_texts else {}  # older than kept results
        if (code := self._code) is not None:
            added["code"] = code
        return added | {
            "format": FORMAT,
            "dataset": self.dataset,
            "data": self.data,
            "backbone": self.backbone,
            "variant": self.variant,
            "embeddings_from": self.embeddings_from and self.embeddings_from.id,
            "seed": self.seed,
            "recbole": training_settings(settings, own),
            "version": variant.results_of(values),
            "ours": {
                key: _content(key, value, trust)
                for key, value in read.items()
                if counts(key, value) and not (value is None and key in variant.if_given)
            },
        }

    def check_unchanged(self) -> None:
        """Raise ValueError if a file on which the id depends is another than when it was planned.

        Raises:
            FileNotFoundError: the file of interactions is gone.
        """
        check_unchanged(self.config(), self.files, self._identity.get("texts", ""))
        planned, now = self._identity["ours"], replace(self)._identity["ours"]
        for key in planned:
            if now[key] != planned[key]:
                value = self.settings.get(key, KEYS[key].default)
                raise ValueError(
                    f"{key}: what is in [{value}] has changed since this comparison began, and a "
                    f"result would be kept as if it were of what was there before. Start the "
                    f"comparison again."
                )

    @property
    def _loss(self) -> str:
        """RecBole's name of the loss: the given, or that of the backbone's own yaml."""
        return self._own("loss_type") or "CE"

    def _own(self, key: str) -> Any:
        """A key's value: the given, or that of the backbone's own yaml."""
        own = own_value(self.backbone, key) if variants()[self.variant].of_backbone else None
        return self.settings.get(key, own)

    @property
    def _code(self) -> list[str] | None:
        """Of a user's own backbone what it computes; None for others, and for one without its class."""
        backbone = BACKBONES.get(self.backbone)
        return None if backbone is None else backbone.code

    def base(self) -> Cell:
        """The cell whose trained model is the backbone that this one's stages start from."""
        chosen = variants()["Base"].choose(self.settings)
        return Cell(self.dataset, self.backbone, "Base", self.seed, chosen, self.data)

    def experiment_settings(self) -> dict[str, Any]:
        """The settings with which RecBole runs this cell, without its input files."""
        # RecBole evaluates texts as Python: "5" would be a number, and "key" one of its variables.
        given = {
            key: repr(value) if isinstance(value, str) else value
            for key, value in self.settings.items()
        }
        given |= variants()[self.variant].settings or {}
        if self._loss == "CE":
            given.setdefault("train_neg_sample_args")  # RecBole's own CE models refuse its default
        return given | _measured(self.settings) | {"seed": self.seed}

    def config(self) -> Config:
        """RecBole's config of the cell's experiment, without its input files."""
        return Config(self.model, self.dataset, config_dict=self.experiment_settings())


def _content(key: str, value: Any, trust_remote_code: bool) -> Any:
    """What stands for a value in a cell's id: of a file its content, not where it lies."""
    if key == "item_text":
        return _one_form(value)
    if isinstance(value, str):  # whatever else it is, the cell itself fails of it
        if key == "backbone_checkpoint" and Path(value).is_file():
            return weights_hash(Path(value))
        if KEYS[key].effect is Effect.FILE and Path(value).is_file():
            return file_hash(Path(value))
        if KEYS[key].effect is Effect.MODEL:
            from recbole_tslrec.language_model.source import identity_of

            return identity_of(value, trust_remote_code)
    return str(value)


def _one_form(columns: Any) -> str:
    """One column is the same by itself and in a list."""
    names = columns if isinstance(columns, (list, tuple)) else [columns]
    return str(names[0]) if len(names) == 1 else str(list(names))


def _as_usual(valid_metric: Any) -> str:
    """The metric with RecBole's large letters, which it does not heed."""
    name, at, cutoff = str(valid_metric).partition("@")
    usual = {one.lower(): one for one in ("NDCG", "MRR", "MAP", "Hit", "Recall", "Precision")}
    return usual.get(name.lower(), name) + at + cutoff


def _measured(given: Mapping[str, Any]) -> dict[str, Any]:
    """RecBole's ``metrics`` and ``topk``: those of the table, and those that the user asks for."""
    valid_metric, _, valid_k = given.get("valid_metric", "MRR@10").partition("@")
    wanted = ["Hit", "NDCG", *listed(given, "metrics"), valid_metric]
    cutoffs = {*CUTOFFS, *listed(given, "topk")}
    if valid_k.isdecimal():  # RecBole says what is wrong with anything else; GAUC has no cutoff
        cutoffs.add(int(valid_k))
    return {
        "metrics": list({metric.lower(): metric for metric in wanted}.values()),
        "topk": sorted(cutoffs),
    }


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
        "files": dict(cell.files),
        "configuration": cell.configuration,
        # As json would read them back: yaml knows more types than json.
        "settings": json.loads(json.dumps(dict(cell.settings), default=str)),
    }
