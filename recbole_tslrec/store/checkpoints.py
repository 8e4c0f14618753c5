"""Checkpoints on disk: written as torch reads them without trust, and checked before anything is used.

RecBole's file is a dictionary of plain values and tensors. Nothing here knows what the models are.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import shlex
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.config import Config

from recbole_tslrec.store.files import check_output, file_hash, write_atomically
from recbole_tslrec.store.stored_config import (
    fault_of_config,
    fault_of_plain,
    fault_of_tensor,
    numbers_of_numpy_too,
    plain_config,
)

if TYPE_CHECKING:
    from torch.serialization import MAP_LOCATION

# What a zip with altered bits raises, by where they are.
_SIGNS_OF_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    struct.error,
)

# What values of the wrong form raise where they are used. A forged pickle as it is read, too.
_SIGNS_OF_FORGERY = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

# torch's checking reader stops at the first instruction of protocol 4 ("Unsupported operand 149")
# and at the bytes of protocol 3, which every NumPy number has.
_PICKLE_PROTOCOL = 2

# What a checkpoint has beside its config and its weights, all of it optional.
_NUMBERS: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "cur_step": (int,),
    "best_valid_score": (int, float, np.number),
}
_FOR_TRAINING = (*_NUMBERS, "optimizer")


def load_checkpoint(path: str | os.PathLike, map_location: MAP_LOCATION = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything it contains, and say clearly what is wrong.

    Args:
        path: a checkpoint that a RecBole trainer has written with this package imported.
        map_location: where the tensors go, as in :func:`torch.load`. The default suits every
            machine, whatever the checkpoint was trained on.

    Returns:
        What the trainer wrote: ``config``, ``state_dict``, ``optimizer``, ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no checkpoint, or holds what torch reads only on trust,
            as a plain RecBole's checkpoints do.
    """
    check_checkpoint(path)
    with saying_which(path), numbers_of_numpy_too():
        return torch.load(path, map_location=map_location, weights_only=True)


def config_of(path: str | os.PathLike) -> Config:
    """The config of a checkpoint that was checked just now; the numbers are not read."""
    with numbers_of_numpy_too():
        return torch.load(path, map_location="meta", weights_only=True)["config"]


def check_checkpoint(path: str | os.PathLike, to_resume: bool = False) -> None:
    """Raise, as :func:`load_checkpoint` does, for a file that is not what a trainer writes.

    The whole file is read, to compare its checksums; none of what it holds is kept.

    Args:
        path: the file.
        to_resume: whether it must have what training goes on with as well.
    """
    name = os.fspath(path)
    if not is_intact(path):
        raise ValueError(f"[{name}] is not a checkpoint, or is damaged or cut short.")
    try:
        # Everything but the numbers.
        with numbers_of_numpy_too():
            content = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"[{name}] is refused: it {_reason_for_refusal(path)}, which torch reads only on trust, "
            f"since such a file can run any program as it is read. A checkpoint of RecBole alone "
            f"must be saved again with recbole_tslrec imported: train again or, if you trust whoever "
            f"made this one file (a model such as SLIMElastic or RippleNet, whose files always hold "
            f"objects, is tested with evaluate(load_best_model=False)): "
            f"python -m recbole_tslrec convert --checkpoint={shlex.quote(name)} "
            f"--output=<new file> --trusted_sha256={file_hash(Path(path))}"
        ) from error
    except _SIGNS_OF_FORGERY as error:
        raise ValueError(f"[{name}] is damaged, or no checkpoint: {in_one_line(error)}") from error
    _check_form(content, name)
    missing = [key for key in _FOR_TRAINING if key not in content] if to_resume else []
    if missing:
        raise ValueError(
            f"[{name}] has no {', '.join(missing)}: no training can go on from it. Give a checkpoint "
            f"that a trainer wrote; a folded one is for use."
        )


def _check_form(content: Any, name: str) -> None:
    """Raise ValueError unless these are the types that a trainer writes, whatever their values."""
    if type(content) is not dict:
        raise ValueError(f"[{name}] is not a checkpoint: it holds a {type(content).__name__}.")
    if "config" not in content:
        raise ValueError(
            f"[{name}] is not a checkpoint of RecBole's trainers: it has no config. Weights alone do "
            f"not say of what model, settings and items they are."
        )
    if fault := fault_of_content(content):
        raise ValueError(
            f"[{name}] is not a checkpoint that a trainer wrote: {fault}. Give the trainer's own file."
        )


def fault_of_content(content: dict[Any, Any]) -> str | None:
    """What no trainer writes in a checkpoint with a config, in words; None if there is nothing."""
    return fault_of_config(content["config"]) or _fault_of_the_rest(content)


def _fault_of_the_rest(content: dict[Any, Any]) -> str | None:
    weights = content.get("state_dict")
    if not isinstance(weights, dict) or not weights:
        return "it has no state_dict with weights"
    for name, weight in weights.items():
        if type(name) is not str:
            return f"state_dict has a {type(name).__name__} for a name"
        if name.endswith("_extra_state"):  # what a module keeps beside its tensors, torch's name
            fault = fault_of_plain(weight, name)
        else:
            fault = fault_of_tensor(weight)
        if fault:
            return f"state_dict holds {fault} [{name}]"
    if (fault := fault_of_plain(content.get("other_parameter"), "other_parameter")) is not None:
        return fault
    if not isinstance(content.get("other_parameter") or {}, dict):
        return "other_parameter is no dictionary"
    for name, types in _NUMBERS.items():
        if name in content and (
            not isinstance(content[name], types) or isinstance(content[name], bool)
        ):
            return f"{name} is no number"
    return _fault_of_optimizer(content["optimizer"]) if "optimizer" in content else None


def _fault_of_optimizer(optimizer: Any) -> str | None:
    if fault := fault_of_plain(optimizer, "optimizer"):
        return fault
    groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
    if type(groups) is not list or type(optimizer.get("state")) is not dict:
        return "optimizer has no state or no param_groups"
    if any(type(group) is not dict or type(group.get("params")) is not list for group in groups):
        return "optimizer's param_groups are no groups"
    if any(type(state) is not dict for state in optimizer["state"].values()):
        return "optimizer's state is none"
    return None


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if an optimiser took from a checkpoint what its next step cannot use.

    torch compares the numbers of weights alone.
    """
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if name not in group or not _alike(group[name], default):
                raise ValueError(f"optimizer: its [{name}] is missing, or of another kind")
    kinds = {frozenset(state) for state in optimizer.state.values()}
    if len(kinds) > 1:
        raise ValueError("optimizer: its states are of different kinds")
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, (torch.Tensor, int, float, NoneType)):
                raise ValueError(f"optimizer: its [{name}] is no number")
            if name == "step":
                if not 0 <= float(value) < float("inf"):
                    raise ValueError(f"optimizer: its step is [{float(value)}]")
            elif isinstance(value, torch.Tensor) and value.shape != weight.shape:
                raise ValueError(f"optimizer: its [{name}] is of another shape than the weight")
    _check_one_kind(optimizer)


def _check_one_kind(optimizer: torch.optim.Optimizer) -> None:
    kinds: dict[str, type] = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            if kinds.setdefault(name, type(value)) is not type(value):
                raise ValueError(f"optimizer: its [{name}] is of different kinds")


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, (tuple, list)):
        return (
            isinstance(value, (tuple, list))
            and len(value) == len(default)
            and all(map(_alike, value, default))
        )
    if isinstance(default, bool) or default is None:
        return value is None or isinstance(value, bool)
    if isinstance(value, torch.Tensor):  # as a learning rate may be
        return value.numel() == 1
    return isinstance(value, (int, float)) or not isinstance(default, (int, float))


@contextmanager
def saying_which(path: str | os.PathLike) -> Iterator[None]:
    """Name the checkpoint in what its values raise where they are used.

    Their form is right by then; a size of 0, a missing table or the name of no model is not found
    before a model is made of them.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _SIGNS_OF_FORGERY as error:
        if isinstance(error, ValueError) and os.fspath(path) in str(error):
            raise
        raise ValueError(
            f"[{os.fspath(path)}] cannot be used here: its config, its weights and the data set do not "
            f"go together ({in_one_line(error)}). Give the checkpoint as its trainer wrote "
            f"it, and the data that it was trained on."
        ) from error


def in_one_line(error: Exception) -> str:
    """An error's kind and words without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def weights_hash(checkpoint: Path) -> str:
    """A hash of a checkpoint's weights alone: of the same model trained twice the files differ."""
    try:
        weights = load_checkpoint(checkpoint)["state_dict"]
    except (KeyError, ValueError):
        return file_hash(checkpoint)  # whoever loads it says what is wrong
    return hash_of_weights(weights)


def hash_of_weights(weights: Mapping[str, Any]) -> str:
    """A hash of a ``state_dict``: names, types, shapes and numbers."""
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        if not isinstance(tensor, torch.Tensor):  # what a module keeps beside its tensors
            content.update(f"{name} {tensor}".encode())
            continue
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def convert_checkpoint(checkpoint: Path, output: Path, trusted_sha256: str) -> None:
    """Save a checkpoint of RecBole alone again in the form that is read without trust.

    Reading the old form can run any program that its maker has put in: nothing is read unless the
    file is the very one whose hash is given.

    Args:
        checkpoint: the old file.
        output: where to write, another file; the weights, the config and the optimiser's state are
            the same.
        trusted_sha256: the file's SHA-256, as the refusal gave it.

    Raises:
        FileNotFoundError: the folder to write into is not there.
        ValueError: the file is damaged, has another hash, or holds no checkpoint.
    """
    check_output(output, [checkpoint])
    if not is_intact(checkpoint):
        raise ValueError(f"[{checkpoint}] is not a checkpoint, or is damaged or cut short.")
    content = checkpoint.read_bytes()  # once, so that what is hashed is what is read
    found = hashlib.sha256(content).hexdigest()
    if found != trusted_sha256.lower():
        raise ValueError(
            f"--trusted_sha256: [{trusted_sha256}] is not the SHA-256 of [{checkpoint}], which is "
            f"[{found}]. Nothing was read from it."
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
        if isinstance(state, dict) and isinstance(config := state.get("config"), Config):
            state["config"] = plain_config(config)  # as it will be written
    except (*_SIGNS_OF_FORGERY, pickle.UnpicklingError) as error:
        raise ValueError(
            f"[{checkpoint}] is not a checkpoint of RecBole: {in_one_line(error)}"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("other_parameter") or {}, dict):
        raise ValueError(f"[{checkpoint}] is not a checkpoint of RecBole.")
    state["other_parameter"] = without_layers(state.get("other_parameter") or {})
    if isinstance(state.get("best_valid_score"), np.number):
        state["best_valid_score"] = state["best_valid_score"].item()
    _check_form(state, os.fspath(checkpoint))
    write_checkpoint(state, output)
    check_checkpoint(output)


def without_layers(other_parameter: dict[str, Any]) -> dict[str, Any]:
    """A model's ``other_parameter`` as it goes into a checkpoint.

    SASRecF, DIN and others name a whole layer here, with the dataset in it. Its weights are in
    ``state_dict``, and the model's constructor makes the rest.
    """
    return {
        name: value
        for name, value in other_parameter.items()
        if not isinstance(value, torch.nn.Module)
    }


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write what torch reads back with its check on; a run that dies here leaves the old file.

    A link stays one: what it points to is replaced.
    """
    if isinstance(config := state.get("config"), Config):
        state = state | {"config": plain_config(config)}
    write_atomically(
        Path(path).resolve(), lambda file: torch.save(state, file, pickle_protocol=_PICKLE_PROTOCOL)
    )


def is_intact(path: str | os.PathLike) -> bool:
    """Whether a file is a zip with torch's content whose checksums are right."""
    # torch compares no checksums: it would load altered weights without a word.
    try:
        with zipfile.ZipFile(path) as archive:
            has_content = any(name.endswith("/data.pkl") for name in archive.namelist())
            return has_content and archive.testzip() is None
    except _SIGNS_OF_DAMAGE:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place that is said to lie before the file's beginning
            raise
        return False


def _reason_for_refusal(path: str | os.PathLike) -> str:
    try:
        with numbers_of_numpy_too():
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*_SIGNS_OF_FORGERY, pickle.UnpicklingError):
        return f"is not written with pickle protocol {_PICKLE_PROTOCOL}"
    return f"holds {', '.join(sorted(refused)) or 'what no trainer writes'}"
