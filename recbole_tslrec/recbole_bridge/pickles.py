"""No file on disk runs code: RecBole reads a pickle only where the user of this process names it.

RecBole 1.2.1 unpickles a data set or its loaders wherever a config names them, and from
``checkpoint_dir`` without being asked. A config may come from somebody else's checkpoint, and what
it names then nobody has asked for. So it is asked for by path, where a Config is *made*: one that is
read from a checkpoint is not. A language model's own code is asked for in the same way.
"""

from __future__ import annotations

import functools
import types
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import recbole.model.context_aware_recommender.kd_dagfm as kd_dagfm
from recbole.config import Config
from torch import nn

from recbole_tslrec.store.checkpoints import config_of
from recbole_tslrec.store.stored_config import is_from_a_file

# RecBole's keys that name a pickle, and how the files end that it would look for without them.
_PICKLES = {"dataset_save_path": "Dataset.pth", "dataloaders_save_path": "-dataloader.pth"}

# RecBole's keys under which it writes such pickles. Loading a checkpoint asks for none, in whatever
# folder the checkpoint names.
_WRITTEN = ("save_dataset", "save_dataloaders")

_NO_FILE = "\0"  # no file can have this name: RecBole makes anew what it would have read

_asked_for: set[str] = set()

# The key with which a language model's own Python code may run, for the llm that it is given with.
_TRUST = "llm_trust_remote_code"
_trusted: set[str] = set()


def noting_what_is_asked_for(original):
    @functools.wraps(original)
    def merge_external_config_dict(self):
        original(self)
        given = (self.external_config_dict.get(key) for key in _PICKLES)
        _asked_for.update(str(path) for path in given if path)
        if self.external_config_dict.get(_TRUST) is True:
            _trusted.add(str(self.external_config_dict.get("llm")))

    return merge_external_config_dict


def trust_code(config: Config) -> None:
    """Let Python code that comes with a config's language model run: the caller trusts its maker."""
    _trusted.add(str(config["llm"]))


def naming_no_other_pickle(original):
    # Here, where RecBole looks: a file that is read sets its values again after any check of ours,
    # and scripts hold RecBole's functions from before this package was imported.
    @functools.wraps(original)
    def get_item(self, key):
        if key in _WRITTEN and is_from_a_file(self):
            return False
        value = original(self, key)
        if key == _TRUST:
            return value is True and str(original(self, "llm")) in _trusted
        if key not in _PICKLES or str(value) in _asked_for:
            return value
        _say_what_is_left(self, key, value)
        return _NO_FILE

    return get_item


def giving_generators_back(original):
    """A patch of ``save_split_dataloaders``, which leaves the loaders without what they draw from.

    ``save_dataloaders`` would change every result: each loader would draw from torch's own generator.
    """

    @functools.wraps(original)
    def save_split_dataloaders(config, dataloaders):
        owners = [owner for loader in dataloaders for owner in (loader, loader.sampler)]
        generators = [getattr(owner, "generator", None) for owner in owners]
        try:
            original(config, dataloaders)
        finally:
            for owner, generator in zip(owners, generators, strict=True):
                owner.generator = generator

    return save_split_dataloaders


def trusting_whom_the_caller_trusts(original):
    @functools.wraps(original)
    def load_data_and_model(model_file, llm_trust_remote_code=False, **more):
        if llm_trust_remote_code is True:
            trust_code(config_of(model_file))
        return original(model_file, **more)

    return load_data_and_model


def _say_what_is_left(config: Config, key: str, named: Any) -> None:
    left = [named] if named else []
    folder, start = Path(str(config["checkpoint_dir"])), f"{config['dataset']}-"
    if not named and folder.is_dir():
        names = (file.name for file in folder.iterdir())
        left = [folder / n for n in names if n.startswith(start) and n.endswith(_PICKLES[key])]
    for file in left:
        getLogger(__name__).warning(
            f"{key}: [{file}] is not read: such a file can run any program as it is read. If you "
            f"trust whoever wrote it, give {key}: [{file}] yourself, as a key of the run."
        )


def setting_no_other_attribute(original):
    @functools.wraps(original)
    def load_other_parameter(self, para):
        others = set(para or ()) - set(getattr(self, "other_parameter_name", ()))
        if others:  # the class may say by a method of its own what it keeps
            others -= set(self.other_parameter() or ())
        if others:
            raise ValueError(
                f"other_parameter: [{', '.join(sorted(map(str, others)))}] is nothing that "
                f"[{type(self).__name__}] keeps there. Give a checkpoint as its trainer wrote it."
            )
        return original(self, para)

    return load_other_parameter


def teacher(name: str) -> type[nn.Module]:
    """What KD_DAGFM evaluates its key ``teacher`` for: a network of its own module."""
    network = vars(kd_dagfm).get(name)
    if not (isinstance(network, type) and network.__module__ == kd_dagfm.__name__):
        raise ValueError(f"teacher: [{name}] is no network of KD_DAGFM. Give CIN or CrossNet.")
    return network


class NumPyWithoutPickles(types.ModuleType):
    """NumPy for LDiffRec, which would unpickle ``item_emb.npy`` of the data set's folder."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def load(file, allow_pickle: bool = False) -> np.ndarray:
        return np.load(file, allow_pickle=False)
