"""Makes RecBole find our models, trainers and yaml; called once, when the package is imported.

RecBole has no registry: it looks for a module named after the model, for an attribute of
``recbole.trainer`` named after the model, and for a yaml in its own folder. The first two are
answered here without touching RecBole; for the third, and to check what the user gave, there is what
``patches`` puts around four methods of ``Config``, and around two of ``SequentialDataset``: what
filters, and what puts histories in order.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import pkgutil
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import recbole.model
import recbole.trainer
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import ModelType

from recbole_tslrec.backbones.bsarec import BSARec
from recbole_tslrec.backbones.fmlprec import FMLPRec
from recbole_tslrec.backbones.lrurec import LRURec
from recbole_tslrec.backbones.registry import BACKBONES, NO_BACKBONES, Backbone
from recbole_tslrec.backbones.sasrecprenorm import SASRecPreNorm, SASRecPreNormLatest
from recbole_tslrec.config.built_in import note_stages
from recbole_tslrec.config.checks import (
    check_files,
    check_training_keys,
    check_valid_protocol,
    check_values,
    choose_precision,
)
from recbole_tslrec.config.fingerprints import sets_as_lists
from recbole_tslrec.config.recbole_keys import (
    check_full_ranking,
    check_loss,
    check_needs,
    check_recbole_keys,
    given_filters,
)
from recbole_tslrec.config.spelling import check_are_texts, check_command_line, check_spelling
from recbole_tslrec.config.values import did_you_mean, text
from recbole_tslrec.data.check_header import check_columns, check_label, check_load_col
from recbole_tslrec.data.check_interactions import check_interactions, check_list_width
from recbole_tslrec.data.item_catalogue import check_item_columns
from recbole_tslrec.data.time_order import check_order
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels
from recbole_tslrec.recbole_bridge.config_files import properties_folder
from recbole_tslrec.recbole_bridge.paradigm import (
    PARADIGMS,
    Paradigm,
    add,
    backbone_for,
    paradigm_of,
    staged_models,
)
from recbole_tslrec.recbole_bridge.trainers import PlainTrainer
from recbole_tslrec.store import processes

_SEQUENTIAL = "recbole.model.sequential_recommender"

# Backbones that RecBole does not have.
_BACKBONES: dict[str, type] = {
    "SASRecPreNorm": SASRecPreNorm,
    "SASRecPreNormLatest": SASRecPreNormLatest,
    "FMLPRec": FMLPRec,
    "BSARec": BSARec,
    "LRURec": LRURec,
}


def our_models() -> dict[str, type]:
    """All models that RecBole does not have, by name."""
    return {**_BACKBONES, **staged_models()}


def register() -> None:
    """Make RecBole's entry points know everything of ours. A second call changes nothing."""
    if f"{_SEQUENTIAL}.fmlprec" in sys.modules:
        return
    for model in _BACKBONES.values():
        _register_model(model)
    for name in BACKBONES:
        _register_trainer(name)


def register_paradigm(paradigm: Paradigm) -> None:
    """Make RecBole, the comparison and the commands know a paradigm.

    Raises:
        ValueError: a model, a row or a key of it is known already; RecBole has a model of the name.
    """
    recboles = {name.lower() for name in (*_BACKBONES, *_recbole_models())}
    if hidden := [name for name in paradigm.models if name.lower() in recboles]:
        raise ValueError(
            f"The paradigm [{paradigm.name}] would hide RecBole's own {', '.join(hidden)}. Give its "
            f"models other names."
        )
    add(paradigm)
    for model in paradigm.models.values():
        _register_variant(paradigm, model)


def register_backbone(
    model: type[SequentialRecommender], item_table: str = "item_embedding", **more: Any
) -> None:
    """Make a recommender of one's own a backbone, ``MyModel``, with all models of it.

    Those are ``TSLRec_MyModel``, ``LlamaRec_MyModel`` and so on, of every paradigm whose models are
    ``BackboneModels``.

    RecBole finds all of them by name from then on, in this process. A model's own keys have no
    defaults: give them in a config file, ``loss_type`` among them. A class that is defined anew, as by
    running a notebook's cell again, takes the place of the one before.

    Args:
        model: a RecBole model with one item table for input and scores, at the top level of a module.
        item_table: the attribute that holds the table, an ``nn.Embedding`` [n_items, d].
        more: what else there is to say of it (``causal``, ``rows_beyond``, …), as of ``Backbone``.

    Raises:
        ValueError: it is no sequential model of RecBole, cannot be imported by its name, or another
            model has that name.
    """
    name = model.__name__
    if not issubclass(model, SequentialRecommender):
        raise ValueError(f"[{name}] is no SequentialRecommender of RecBole, which a backbone is.")
    if getattr(sys.modules[model.__module__], name, None) is not model:
        raise ValueError(
            f"[{name}] is not found in [{model.__module__}]. Define it at the top level of a module: a "
            f"checkpoint holds its name alone."
        )
    before = _BACKBONES.get(name)
    known = {one.lower() for one in (*our_models(), *_recbole_models())}
    if name.lower() in known and (before is None or before.__module__ != model.__module__):
        raise ValueError(f"There is a model [{name}] already. Give yours another name.")
    BACKBONES[name] = backbone = Backbone(name, model.__module__, item_table, **more)
    _BACKBONES[name] = model
    _register_model(model)
    _register_trainer(name)
    for paradigm in PARADIGMS.values():
        if isinstance(paradigm.models, BackboneModels):
            for variant in paradigm.models.add_backbone(backbone):
                _register_variant(paradigm, variant)


def _register_trainer(backbone: str) -> None:
    """A backbone gets our trainer; one with a trainer of its own (S3Rec's, that pretrains) gets both."""
    name = f"{backbone}Trainer"
    own = getattr(recbole.trainer, name, PlainTrainer)
    trainer = own if issubclass(own, PlainTrainer) else type(name, (PlainTrainer, own), {})
    setattr(recbole.trainer, name, trainer)


def _register_variant(paradigm: Paradigm, model: type) -> None:
    # A model whose own training is kept has its name in lower case for the stage's.
    note_stages([model.__name__.lower()])
    _register_model(model)
    setattr(recbole.trainer, f"{model.__name__}Trainer", paradigm.trainer)


def _register_model(model: type) -> None:
    """``get_model`` imports ``<kind>_recommender.<name in lower case>``; let it find the class."""
    name = f"{_SEQUENTIAL}.{model.__name__.lower()}"
    module = types.ModuleType(name, f"Stands for {model.__module__}.{model.__name__}.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    setattr(module, model.__name__, model)
    sys.modules[name] = module


def naming_models(original):
    @functools.wraps(original)
    def get_model_and_dataset(self, model, dataset):
        try:
            return original(self, model, dataset)
        except (ValueError, AttributeError, ModuleNotFoundError) as error:
            name = str(model or self.external_config_dict.get("model"))
            # RecBole looks for an unknown model last among those of LightGBM and XGBoost, and fails
            # there if these are not installed. Who asks for one of them is told of just that.
            if isinstance(error, ModuleNotFoundError) and error.name == name.lower():
                raise
            raise ValueError(_unknown_model(name)) from None

    return get_model_and_dataset


def _unknown_model(name: str) -> str:
    backbone = name.partition("_")[2]
    if backbone in NO_BACKBONES:
        return (
            f"There is no model [{name}]: [{backbone}] {NO_BACKBONES[backbone]}. Choose another "
            f"backbone, of {', '.join(BACKBONES)}."
        )
    hint = did_you_mean(name, (*our_models(), *_recbole_models()))
    variants = {
        name: name.removesuffix(model.backbone.name) + "<backbone>"
        for name, model in staged_models().items()
        if model.backbone is not None and name.endswith(f"_{model.backbone.name}")
    }
    ours = dict.fromkeys(variants.get(name, name) for name in our_models())
    return (
        f"There is no model [{name}].{hint} Models of recbole_tslrec: {', '.join(ours)}, with a "
        f"backbone of {', '.join(BACKBONES)}; RecBole's own sequential models work as ever."
    )


def _recbole_models() -> list[str]:
    """RecBole's sequential models by their class names."""
    package = sys.modules[_SEQUENTIAL]
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return [name for name in vars(package) if name.lower() in modules and not name.islower()]


def with_our_yaml(original):
    @functools.wraps(original)
    def load_internal_config_dict(self, model, model_class, dataset):
        # RecBole reads the backbone's own yaml under the backbone's name.
        known = _known_name(model, model_class)
        paradigm = paradigm_of(known)
        own = {} if paradigm is None else paradigm.defaults()
        backbone = _backbone_of(known, own | self.external_config_dict)
        name = model if backbone is None else backbone.name
        original(self, name, model_class, dataset)
        for file in ("overall", f"model/{name}") if known else ("overall",):
            path = properties_folder() / f"{file}.yaml"
            if path.is_file():
                self._update_internal_config_dict(str(path))
        if paradigm is not None:
            self.internal_config_dict.update(own)
            if backbone is None:  # no yaml of RecBole's says it: training rows without negatives
                self.internal_config_dict.setdefault("loss_type", "CE")
        columns = (self.internal_config_dict.get("load_col") or {}).get("inter")
        if model_class.type == ModelType.SEQUENTIAL and columns == ["user_id", "item_id"]:
            # RecBole's default for a data set that it does not know; a history has an order.
            self.internal_config_dict["load_col"] = {"inter": [*columns, "timestamp"]}
        if known in our_models():
            # RecBole's default samples negatives, which its own CE models refuse; here the default
            # follows the loss. What the user gives stands, and is checked below.
            loss_type = (self.internal_config_dict | self.external_config_dict).get("loss_type")
            if loss_type == "CE":
                self.internal_config_dict["train_neg_sample_args"] = None

    return load_internal_config_dict


def _known_name(model: str, model_class: type) -> str:
    """A model's name; "" for a user's class that only has the name of one of ours or of the table."""
    named = BACKBONES[model].model_class if model in BACKBONES else our_models().get(model)
    return model if named is None or issubclass(model_class, named) else ""


def _backbone_of(model: str, values: Mapping[str, Any]) -> Backbone | None:
    """The backbone of a model of ours, or the model's own line in the table of backbones."""
    staged = staged_models()
    return backbone_for(staged[model], values) if model in staged else BACKBONES.get(model)


def with_checks(original):
    @functools.wraps(original)
    def set_default_parameters(self):
        values = self.final_config_dict
        for key, value in values.items():
            if isinstance(value, np.generic):  # as a loop over np.arange gives; json knows none
                values[key] = value.item()
            else:
                values[key] = sets_as_lists(value)
        check_are_texts(self.external_config_dict)
        known = _known_name(self.model, self.model_class)
        paradigm, backbone = paradigm_of(known), _backbone_of(known, values)
        ours = known in our_models()
        if paradigm is not None:
            check_command_line(sys.argv[1:])
            check_spelling(self.external_config_dict, self.internal_config_dict)
            check_values(values)
            paradigm.check(values | {"model": self.model})
            check_files(values)
        batchings = ("prefix",) if backbone is None else backbone.batchings
        by_product = backbone is not None and backbone.by_product
        check_training_keys(values, self.model, batchings, by_product)
        if ours or backbone is not None:
            text().check("dataset", self.dataset)
            own_losses = () if ours else backbone.own_losses
            check_recbole_keys(values, self.internal_config_dict, own_losses)
            check_load_col(values)
        if backbone is not None:
            # S3Rec itself is pretrained under other keys than its variants are trained, and GRU4RecCPR
            # may have a table of its own for scores.
            needs = backbone.needs.items()
            needs = {
                key: value for key, value in needs if paradigm is not None or key == "loss_type"
            }
            check_needs(values, needs, self.model)
            if not backbone.scores_single_items:
                check_full_ranking(values, self.model)
        if ours or backbone is not None:
            check_loss(values)
        check_valid_protocol(values, self.model, ours or backbone is not None)
        try:
            original(self)
        except ValueError as error:
            if "should be None when the loss_type is CE" not in str(error):
                raise
            raise ValueError(
                "train_neg_sample_args: loss_type: [CE] takes no negative items. Set "
                "train_neg_sample_args: ~, on the command line --train_neg_sample_args=None."
            ) from None
        if ours:
            check_columns(values)
            check_item_columns(values)
            check_interactions(values)
        if ours or backbone is not None:
            check_label(values)

    return set_default_parameters


def with_our_precision(original):
    @functools.wraps(original)
    def init_device(self):
        original(self)
        choose_precision(self.final_config_dict)

    return init_device


def naming_filters(original):
    @functools.wraps(original)
    def data_filtering(self):
        try:
            original(self)
        except ValueError as error:
            if "Some feat is empty" not in str(error):
                raise
            given = given_filters(self.config)
            raise ValueError(
                f"dataset: the filters leave nothing of [{self.dataset_name}]. Loosen them"
                f"{': ' if given else ''}{', '.join(given)}."
            ) from error

    return data_filtering


def with_a_look_at_the_order(original):
    @functools.wraps(original)
    def change_feat_format(self):
        # Ready-made rows have their own; and who trained a checkpoint was told then.
        if self.config["benchmark_filename"] is None and self.config["trained_on"] is None:
            check_order(self)
        original(self)
        if self.config["benchmark_filename"] is not None:
            backbone = BACKBONES.get(self.config["model"])
            check_list_width(self, backbone is None or backbone.cuts_padding)

    return change_feat_format


def with_a_device_each(original):
    """Under torchrun, RecBole would put every process on the same GPU, and have each write the log."""

    @functools.wraps(original)
    def init_device(self):
        if processes.count() == 1:
            original(self)
            return
        values = self.final_config_dict
        if paradigm_of(self.model) is None:
            raise ValueError(
                f"torchrun: [{self.model}] has no stages that several processes make together, and each "
                f"would train it. Start one process; RecBole's own way to several is nproc."
            )
        if "gpu_id" not in self.external_config_dict:  # RecBole's default is a single one
            n_local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            all_gpus = ",".join(str(gpu) for gpu in range(n_local))
            values["gpu_id"] = os.environ.get("CUDA_VISIBLE_DEVICES", all_gpus)
        original(self)
        if values["device"].type == "cuda":
            values["device"] = processes.local_device()
        if not processes.is_first():
            values["state"] = "CRITICAL"
            values["show_progress"] = False

    return init_device
