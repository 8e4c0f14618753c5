"""Makes RecBole find our models, trainers and yaml; called once, when the package is imported.

RecBole has no registry: it looks for a module named after the model, for an attribute of
``recbole.trainer`` named after the model, and for a yaml in its own folder. The first two are
answered here without touching RecBole; for the third, and to check what the user gave, four methods
of ``Config`` are wrapped.
"""

from __future__ import annotations

import difflib
import functools
import importlib.machinery
import os
import pkgutil
import sys
import types
from pathlib import Path

import numpy as np
import recbole.model
import recbole.quick_start
import recbole.trainer
from recbole.config import Config
from recbole.utils import ModelType

from recbole_tslrec import processes, settings
from recbole_tslrec.interactions_file import check_interactions
from recbole_tslrec.item_tensors import check_numbering
from recbole_tslrec.model.e4srec import E4SRec
from recbole_tslrec.model.fmlprec import FMLPRec
from recbole_tslrec.model.specifications import BACKBONES, MODELS
from recbole_tslrec.recbole_keys import check_loss, check_recbole_keys
from recbole_tslrec.trainer import BackboneTrainer, LanguageModelTrainer, TwoStageTrainer

_SEQUENTIAL = "recbole.model.sequential_recommender"

# The other paradigms on the same parts, each with its trainer. A new one is a line here, and a yaml of
# its name for the keys that TSLRec.yaml does not have.
PEERS: dict[type, type] = {E4SRec: LanguageModelTrainer}

# Models that need stages, by name; each has a `backbone`.
STAGED: dict[str, type] = {**MODELS, **{model.__name__: model for model in PEERS}}
_OUR_MODELS: dict[str, type] = {"FMLPRec": FMLPRec, **STAGED}


def properties_folder() -> Path:
    """Our yaml: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def register() -> None:
    """Make RecBole's entry points know everything of ours. A second call changes nothing."""
    if f"{_SEQUENTIAL}.fmlprec" in sys.modules:
        return
    for model in _OUR_MODELS.values():
        _register_model(model)
    for name in BACKBONES:
        setattr(recbole.trainer, f"{name}Trainer", BackboneTrainer)
    for name in MODELS:
        setattr(recbole.trainer, f"{name}Trainer", TwoStageTrainer)
    for model, trainer in PEERS.items():
        setattr(recbole.trainer, f"{model.__name__}Trainer", trainer)
    Config._get_model_and_dataset = _naming_models(Config._get_model_and_dataset)
    Config._load_internal_config_dict = _with_our_yaml(Config._load_internal_config_dict)
    Config._set_default_parameters = _with_checks(Config._set_default_parameters)
    Config._init_device = _with_a_device_each(Config._init_device)
    loading = _refusing_other_items(recbole.quick_start.load_data_and_model)
    recbole.quick_start.load_data_and_model = loading
    recbole.quick_start.quick_start.load_data_and_model = loading


def _register_model(model: type) -> None:
    """``get_model`` imports ``<kind>_recommender.<name in lower case>``; let it find the class."""
    name = f"{_SEQUENTIAL}.{model.__name__.lower()}"
    module = types.ModuleType(name, f"Stands for {model.__module__}.{model.__name__}.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    setattr(module, model.__name__, model)
    sys.modules[name] = module


def _naming_models(original):
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
    models = {model.lower(): model for model in (*_OUR_MODELS, *_recbole_models())}
    near = [models[match] for match in difflib.get_close_matches(name.lower(), models, n=3)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"There is no model [{name}].{hint} Models of recbole_tslrec: {', '.join(_OUR_MODELS)}; "
        f"RecBole's own sequential models work as ever."
    )


def _recbole_models() -> list[str]:
    """RecBole's sequential models by their class names."""
    package = sys.modules[_SEQUENTIAL]
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return [name for name in vars(package) if name.lower() in modules and not name.islower()]


def _with_our_yaml(original):
    @functools.wraps(original)
    def load_internal_config_dict(self, model, model_class, dataset):
        # RecBole reads the backbone's own yaml under the backbone's name.
        backbone = STAGED[model].backbone.name if model in STAGED else model
        original(self, backbone, model_class, dataset)
        ours = ("TSLRec", model) if model in STAGED else ()
        for file in ("overall", f"model/{backbone}", *ours):
            path = properties_folder() / f"{file}.yaml"
            if path.is_file():
                self._update_internal_config_dict(str(path))
        columns = (self.internal_config_dict.get("load_col") or {}).get("inter")
        if model_class.type == ModelType.SEQUENTIAL and columns == ["user_id", "item_id"]:
            # RecBole's default for a data set that it does not know; a history has an order.
            self.internal_config_dict["load_col"] = {"inter": [*columns, "timestamp"]}
        if model in _OUR_MODELS:
            # RecBole's default samples negatives, which its own CE models refuse; here the default
            # follows the loss. What the user gives stands, and is checked below.
            loss_type = (self.internal_config_dict | self.external_config_dict).get("loss_type")
            if loss_type == "CE":
                self.internal_config_dict["train_neg_sample_args"] = None

    return load_internal_config_dict


def _with_checks(original):
    @functools.wraps(original)
    def set_default_parameters(self):
        values = self.final_config_dict
        for key, value in values.items():
            if isinstance(value, np.generic):  # as a loop over np.arange gives; json knows none
                values[key] = value.item()
        if self.model in STAGED:
            settings.check_command_line(sys.argv[1:])
            settings.check_spelling(self.external_config_dict, self.internal_config_dict)
            settings.check_values(values)
        backbone = (
            STAGED[self.model].backbone if self.model in STAGED else BACKBONES.get(self.model)
        )
        settings.settle_batching(values, self.model, backbone is not None and backbone.causal)
        if self.model in _OUR_MODELS or backbone is not None:
            check_recbole_keys(values, self.internal_config_dict)
        if self.model in _OUR_MODELS:
            check_loss(values)
        original(self)
        if self.model in _OUR_MODELS:
            settings.check_columns(values)
            check_interactions(values)

    return set_default_parameters


def _refusing_other_items(original):
    @functools.wraps(original)
    def load_data_and_model(model_file):
        loaded = original(model_file)
        config, _, dataset, *_ = loaded
        check_numbering(config["trained_on"], dataset, model_file)
        return loaded

    return load_data_and_model


def _with_a_device_each(original):
    """Under torchrun, RecBole would put every process on the same GPU, and have each write the log."""

    @functools.wraps(original)
    def init_device(self):
        if processes.count() == 1:
            original(self)
            return
        values = self.final_config_dict
        if self.model not in STAGED:
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
