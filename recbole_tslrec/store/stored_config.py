"""RecBole's Config in a checkpoint: what is written of it, and what may come back."""

from __future__ import annotations

import copyreg
import enum
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, InputType, ModelType

# What a Config holds under MODEL_TYPE, MODEL_INPUT_TYPE and eval_type.
_ENUMS: tuple[type[enum.Enum], ...] = (ModelType, InputType, EvaluatorType)

# What torch reads back as it is; a Config's other values are kept as text.
_READABLE = (bool, int, float, str, torch.device, torch.dtype, torch.Tensor, *_ENUMS)

# What RecBole's Config has beside the classes of its yaml loader and its model, which torch would
# refuse. The loader is made anew on reading; RecBole finds the model again by its name.
_DICTIONARIES = (
    "parameters",
    "file_config_dict",
    "variable_config_dict",
    "cmd_config_dict",
    "external_config_dict",
    "internal_config_dict",
    "final_config_dict",
)
_STORED = (*_DICTIONARIES, "model", "dataset")

# Keys that are read before RecBole, or with it, makes anything of the others.
_TYPES: dict[str, type] = {
    "model": str,
    "dataset": str,
    "seed": int,
    "device": torch.device,
    "checkpoint_dir": str,
    "data_path": str,
    "eval_args": dict,
    "train_neg_sample_args": dict,
    "valid_neg_sample_args": dict,
    "test_neg_sample_args": dict,
    "MODEL_TYPE": ModelType,
}

_FROM_A_FILE = "is_from_a_file"  # what a Config of a checkpoint's has beside all that

_DEEPEST = 16  # levels of lists and dictionaries; RecBole's own have three
_MOST = 1_000_000  # values in all of them


class _StoredConfig(Config):
    """What torch puts in Config's place while it reads a checkpoint.

    A class that torch accepts may also be *called* by the file, and ``Config()`` evaluates strings
    as Python: with Config itself on torch's list, a forged checkpoint could run anything.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        raise pickle.UnpicklingError("a checkpoint may hold a Config, but not call it")

    def __setstate__(self, state: Any) -> None:
        # Nothing is checked here: the file may change what it has made until its last byte.
        self.__class__ = Config
        restore_config(self, state if isinstance(state, dict) else {})
        setattr(self, _FROM_A_FILE, True)  # which no file can take back: it is not _STORED


def is_from_a_file(config: Config) -> bool:
    """Whether a Config was read from a checkpoint, and not made for a run of this process."""
    return _FROM_A_FILE in vars(config)


class _StoredDtype:
    """What torch puts in the place of NumPy's dtype, which a forged pickle makes write out of bounds."""

    def __init__(self, kind: Any, *_: Any):
        self.kind = kind

    def __setstate__(self, state: Any) -> None:
        pass  # the order of bytes, which is that of the machine


def _stored_number(dtype: Any, content: Any) -> float:
    kinds = ("f8", "f4", "i8", "i4")
    if type(dtype) is not _StoredDtype or dtype.kind not in kinds or type(content) is not bytes:
        raise pickle.UnpicklingError(
            "a checkpoint may hold a number of NumPy's, but no other object"
        )
    return np.frombuffer(content, dtype=dtype.kind).item()


_SAFE_GLOBALS = [(_StoredConfig, f"{Config.__module__}.{Config.__qualname__}"), *_ENUMS]

# Earlier checkpoints, and converted ones, have best_valid_score as a np.float64.
_NUMPYS = [(_StoredDtype, "numpy.dtype"), (_stored_number, "numpy.core.multiarray.scalar")]


@contextmanager
def numbers_of_numpy_too() -> Iterator[None]:
    """While a checkpoint is read: torch takes NumPy's numbers in it, and makes Python's of them."""
    known = torch.serialization.get_safe_globals()
    # At its end torch takes away what it was given, also from who stands around this.
    with torch.serialization.safe_globals([one for one in _NUMPYS if one not in known]):
        yield


def let_torch_read_configs() -> None:
    """Have Python write a Config's enums as calls of their class, and torch read them and a Config."""
    for members in _ENUMS:
        # Up to Python 3.11.3 (Debian 12 has 3.11.2) a member is written as a call of getattr, which
        # torch does not read, and rightly; later as a call of its class.
        copyreg.pickle(members, lambda member: (type(member), (member.value,)))
    torch.serialization.add_safe_globals(_SAFE_GLOBALS)


def config_state(config: Config) -> dict[str, Any]:
    """What goes into a checkpoint of a Config (its ``__getstate__``)."""
    return {
        name: _as_plain_values(value) for name, value in vars(config).items() if name in _STORED
    }


def plain_config(config: Config) -> Config:
    """A Config as a checkpoint is to hold it: of RecBole's own class, with plain values.

    Readers take no class of another plug-in's, which need not be there.
    """
    plain = Config.__new__(Config)
    vars(plain).update(config_state(config))
    return plain


def restore_config(config: Config, state: dict[str, Any]) -> None:
    """Make a Config of what a checkpoint holds of it (its ``__setstate__``)."""
    vars(config).update({name: value for name, value in state.items() if name in _STORED})
    # RecBole's dataset asks for it when it must download its files.
    config.yaml_loader = Config._build_yaml_loader(config)
    # The names that NumPy dropped and RecBole's metrics use (np.float); only a Config that is made
    # anew brings them back, and a fresh process that loads a checkpoint makes none.
    config.compatibility_settings()


def _as_plain_values(value: Any) -> Any:
    # RecBole takes a Path for checkpoint_dir, a np.int64 for seed, and yaml gives dates; torch would
    # refuse them all, and only after the training.
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_as_plain_values(key): _as_plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [_as_plain_values(entry) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    if isinstance(value, (set, frozenset)):  # of columns; a text of it could not be loaded by
        return sorted(map(_as_plain_values, value), key=str)
    return value if value is None or type(value) in _READABLE else str(value)


def fault_of_config(config: Any) -> str | None:
    """What is wrong with the form of a checkpoint's ``config``, in words; None if nothing is."""
    if type(config) is not Config:
        return f"its config is a {type(config).__name__}"
    stored = vars(config)
    if "final_config_dict" not in stored:
        return "its config has no values"
    for name in _DICTIONARIES:
        if name in stored and type(stored[name]) is not dict:
            return f"{name} is no dictionary"
        if fault := fault_of_plain(stored.get(name), name):
            return fault
    values = config.final_config_dict
    for key, wanted in _TYPES.items():
        if type(values.get(key)) is not wanted:
            return f"{key}: [{str(values.get(key))[:80]}] is no {wanted.__name__}"
    return _fault_of_notes(values.get("trained_on"))


def _fault_of_notes(noted: Any) -> str | None:
    if noted is None:
        return None
    if type(noted) is not dict or any(type(text) is not str for text in noted.values()):
        return "trained_on holds other things than hashes"
    return None if "items" in noted else "trained_on does not say on which items"


def fault_of_plain(value: Any, name: str) -> str | None:
    """What is no plain value in nested dictionaries, lists and tuples, in words; None if nothing is."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        entry, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST:  # it may hold itself
            return f"{name} is nested too deeply, or holds more than {_MOST} values"
        fault = None
        if type(entry) is dict:
            fault = next((f for key in entry if (f := _fault_of_key(key))), None)
            waiting += [(inner, depth + 1) for inner in entry.values()]
        elif type(entry) in (list, tuple):
            waiting += [(inner, depth + 1) for inner in entry]
        elif isinstance(entry, torch.Tensor):
            fault = fault_of_tensor(entry)
        elif (
            entry is not None and not isinstance(entry, np.number) and type(entry) not in _READABLE
        ):
            fault = f"a {type(entry).__name__}"
        if fault:
            return f"{name} holds {fault}"
    return None


def _fault_of_key(key: Any) -> str | None:
    parts = key if type(key) is tuple else (key,)
    wrong = [part for part in parts if type(part) not in (str, int, float, bool, NoneType)]
    return f"a {type(wrong[0]).__name__} for a key" if wrong else None


def fault_of_tensor(value: Any) -> str | None:
    """What stands in the place of a tensor of numbers, in words; None if it is one."""
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__} in the place of a tensor"
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        return "a tensor of an odd layout"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "a tensor with fewer numbers than its shape has places"
    return None
