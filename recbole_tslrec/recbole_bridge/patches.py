"""What RecBole 1.2.1 needs to run on today's torch and pandas; nothing else.

Since version 2.6 torch reads a file with ``weights_only=True``: without running code that the file
names, and in full only from pickle protocol 2. RecBole 1.2.1 writes its checkpoints with protocol 4
and with classes in them, and so fails at its own test step. Here it learns to write what torch
accepts, and torch to accept what is harmless in it; torch's check stays on.
"""

from __future__ import annotations

import copyreg
import enum
import errno
import functools
import hashlib
import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import recbole.quick_start
import recbole.quick_start.quick_start
import torch
from recbole.config import Config
from recbole.evaluator.collector import Collector
from recbole.trainer import Trainer
from recbole.utils import EvaluatorType, InputType, ModelType, set_color

from recbole_tslrec.store.files import file_hash, write_atomically

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

_NO_FILE = "\0"  # no file can have this name

# torch's checking reader stops at the first instruction of protocol 4 ("Unsupported operand 149")
# and at the bytes of protocol 3, which every NumPy number has.
_PICKLE_PROTOCOL = 2

# Classes, which torch would refuse. The loader is made anew on reading; RecBole finds the model
# again by its name.
_LEFT_OUT_OF_CONFIG = ("yaml_loader", "model_class")


class _StoredConfig(Config):
    """What torch puts in Config's place while it reads a checkpoint.

    A class that torch accepts may also be *called* by the file, and ``Config()`` evaluates strings
    as Python: with Config itself on torch's list, a forged checkpoint could run anything.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        raise pickle.UnpicklingError("a checkpoint may hold a Config, but not call it")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__class__ = Config
        _restore_config(self, state)
        # RecBole would load a pickled data set that lies beside the checkpoint, or that it names: such
        # a file can run anything. There is no file of this name, so the data set is built anew.
        for key in ("dataset_save_path", "dataloaders_save_path"):
            self.final_config_dict[key] = _NO_FILE


# RecBole's own, which a process of ``run(nproc=2)`` starts with.
_RUN_RECBOLES = recbole.quick_start.quick_start.run_recboles

# What a Config holds under MODEL_TYPE, MODEL_INPUT_TYPE and eval_type.
_ENUMS: tuple[type[enum.Enum], ...] = (ModelType, InputType, EvaluatorType)

# What torch reads back as it is; a Config's other values are kept as text.
_READABLE = (bool, int, float, str, torch.device, torch.dtype, torch.Tensor, *_ENUMS)

_SAFE_GLOBALS = [
    (_StoredConfig, f"{Config.__module__}.{Config.__qualname__}"),
    # torch asks about the object's own class as well.
    _StoredConfig,
    *_ENUMS,
    # best_valid_score is a np.float64: these three make it.
    np.core.multiarray.scalar,
    np.dtype,
    type(np.dtype(np.float64)),
]


@functools.cache
def apply() -> None:
    """Make RecBole's checkpoints pass torch's ``weights_only`` check, and all its metrics run.

    After it, training, ``evaluate(load_best_model=True)`` and, in any process that has called it
    too, ``load_data_and_model`` work as they are, for every model whose ``other_parameter`` holds
    tensors and layers alone: all the sequential ones, but not those that keep NumPy or SciPy
    matrices there, as ItemKNN and EASE do. RecBole's own calls of what pandas and torch are to
    change no longer warn: its users cannot mend them. Only the first call acts: a later one cannot
    undo what somebody has put on top.
    """
    for members in _ENUMS:
        # Up to Python 3.11.3 (Debian 12 has 3.11.2) a member is written as a call of getattr, which
        # torch does not read, and rightly; later as a call of its class.
        copyreg.pickle(members, lambda member: (type(member), (member.value,)))
    Config.__getstate__ = _config_state
    Config.__setstate__ = _restore_config
    Trainer._save_checkpoint = _save_checkpoint
    recbole.quick_start.quick_start.run_recboles = run_with_the_plug_in
    _check_before_reading()
    Collector.get_data_struct = _collecting_numbers_too(Collector.get_data_struct)
    torch.serialization.add_safe_globals(_SAFE_GLOBALS)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")


def run_with_the_plug_in(*args: Any) -> None:
    """What a process of ``run(nproc=2)`` starts with: to find this function, it loads the plug-in."""
    _RUN_RECBOLES(*args)


def _check_before_reading() -> None:
    # RecBole hands its files to torch.load, which takes altered weights without a word.
    Trainer.resume_checkpoint = _resuming_what_is_sound(Trainer.resume_checkpoint)
    Trainer.evaluate = _evaluating_what_is_sound(Trainer.evaluate)
    loading = _loading_what_is_sound(recbole.quick_start.load_data_and_model)
    recbole.quick_start.load_data_and_model = loading
    recbole.quick_start.quick_start.load_data_and_model = loading


def _resuming_what_is_sound(original):
    @functools.wraps(original)
    def resume_checkpoint(self, resume_file):
        check_checkpoint(resume_file)
        return original(self, resume_file)

    return resume_checkpoint


def _evaluating_what_is_sound(original):
    @functools.wraps(original)
    def evaluate(
        self, eval_data, load_best_model=True, model_file=None, show_progress=False, **more
    ):
        if eval_data and load_best_model:
            check_checkpoint(model_file or self.saved_model_file)
        return original(self, eval_data, load_best_model, model_file, show_progress, **more)

    return evaluate


def _loading_what_is_sound(original):
    @functools.wraps(original)
    def load_data_and_model(model_file):
        check_checkpoint(model_file)
        return original(model_file)

    return load_data_and_model


def _collecting_numbers_too(original):
    # RecBole would move counts to the CPU as it does tensors. ItemCoverage, GiniIndex, AveragePopularity
    # and TailPercentage collect counts.
    @functools.wraps(original)
    def get_data_struct(self):
        own = self.data_struct._data_dict
        counts = {key: value for key, value in own.items() if not torch.is_tensor(value)}
        for key in counts:
            del own[key]
        collected = original(self)
        own.update(counts)
        collected._data_dict.update(counts)
        return collected

    return get_data_struct


def load_checkpoint(path: str | os.PathLike, map_location: MAP_LOCATION = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything it contains, and say clearly what is wrong.

    Args:
        path: a checkpoint that a RecBole trainer has written after :func:`apply`.
        map_location: where the tensors go, as in :func:`torch.load`. The default suits every
            machine, whatever the checkpoint was trained on.

    Returns:
        What the trainer wrote: ``config``, ``state_dict``, ``optimizer``, ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no checkpoint, or holds what torch reads only on trust,
            as a plain RecBole's checkpoints do.
    """
    name = os.fspath(path)
    check_checkpoint(path)
    checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    if not isinstance(checkpoint, dict):
        raise ValueError(f"[{name}] is not a checkpoint: it holds a {type(checkpoint).__name__}.")
    if "config" not in checkpoint:
        raise ValueError(
            f"[{name}] is not a checkpoint of RecBole's trainers: it has no config. Weights alone do "
            f"not say of what model, settings and items they are."
        )
    return checkpoint


def check_checkpoint(path: str | os.PathLike) -> None:
    """Raise, as :func:`load_checkpoint` does, for a file that is damaged or read only on trust.

    The whole file is read, to compare its checksums; none of what it holds is kept.
    """
    name = os.fspath(path)
    if not _is_intact(path):
        raise ValueError(f"[{name}] is not a checkpoint, or is damaged or cut short.")
    try:
        torch.load(path, map_location="meta", weights_only=True)  # everything but the numbers
    except RuntimeError as error:
        raise ValueError(f"[{name}] is damaged, or no checkpoint: {error}") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"[{name}] is refused: it {_reason_for_refusal(path)}, which torch reads only on trust, "
            f"since such a file can run any program as it is read. A checkpoint of RecBole alone "
            f"must be saved again with recbole_tslrec imported: train again or, if you trust whoever "
            f"made this one file: python -m recbole_tslrec convert --checkpoint={name} "
            f"--output=<new file> --trusted_sha256={file_hash(Path(path))}"
        ) from error


def convert_checkpoint(checkpoint: Path, output: Path, trusted_sha256: str) -> None:
    """Save a checkpoint of RecBole alone again in the form that is read without trust.

    Reading the old form can run any program that its maker has put in: nothing is read unless the
    file is the very one whose hash is given.

    Args:
        checkpoint: the old file.
        output: where to write; the weights, the config and the optimiser's state are the same.
        trusted_sha256: the file's SHA-256, as the refusal gave it.

    Raises:
        ValueError: the file is damaged, has another hash, or holds no checkpoint.
    """
    if not _is_intact(checkpoint):
        raise ValueError(f"[{checkpoint}] is not a checkpoint, or is damaged or cut short.")
    content = checkpoint.read_bytes()  # once, so that what is hashed is what is read
    found = hashlib.sha256(content).hexdigest()
    if found != trusted_sha256.lower():
        raise ValueError(
            f"--trusted_sha256: [{trusted_sha256}] is not the SHA-256 of [{checkpoint}], which is "
            f"[{found}]. Nothing was read from it."
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    if not isinstance(state, dict) or "state_dict" not in state:
        raise ValueError(f"[{checkpoint}] is not a checkpoint of RecBole.")
    state["other_parameter"] = _without_layers(state.get("other_parameter") or {})
    write_checkpoint(state, output)
    check_checkpoint(output)


def _is_intact(path: str | os.PathLike) -> bool:
    # torch compares no checksums: it would load altered weights without a word.
    try:
        with zipfile.ZipFile(path) as archive:
            has_content = any(name.endswith("/data.pkl") for name in archive.namelist())
            return has_content and archive.testzip() is None
    except _SIGNS_OF_DAMAGE:
        return False
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # else a place that is said to lie before the file's beginning
            raise
        return False


def _reason_for_refusal(path: str | os.PathLike) -> str:
    try:
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except pickle.UnpicklingError:
        return f"is not written with pickle protocol {_PICKLE_PROTOCOL}"
    return f"holds {', '.join(sorted(refused)) or 'what no trainer writes'}"


def _config_state(config: Config) -> dict[str, Any]:
    """What goes into a checkpoint of a Config (its ``__getstate__``)."""
    return {
        name: _as_plain_values(value)
        for name, value in vars(config).items()
        if name not in _LEFT_OUT_OF_CONFIG
    }


def _restore_config(config: Config, state: dict[str, Any]) -> None:
    """Make a Config of what a checkpoint holds of it (its ``__setstate__``)."""
    vars(config).update(state)
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
    return value if value is None or type(value) in _READABLE else str(value)


def _save_checkpoint(self: Trainer, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
    """RecBole's ``Trainer._save_checkpoint``, in a form that torch reads back.

    Args:
        epoch: the current epoch.
        verbose: whether to log the file's name.
        **kwargs: ``saved_model_file``, where to write in place of ``self.saved_model_file``.
    """
    if not self.config["single_spec"] and self.config["local_rank"] != 0:
        return
    saved_model_file = kwargs.pop("saved_model_file", self.saved_model_file)
    state = {
        "config": self.config,
        "epoch": epoch,
        "cur_step": self.cur_step,
        "best_valid_score": self.best_valid_score,
        "state_dict": self.model.state_dict(),
        "other_parameter": _without_layers(self.model.other_parameter()),
        "optimizer": self.optimizer.state_dict(),
    }
    write_checkpoint(state, saved_model_file)
    if verbose:
        self.logger.info(set_color("Saving current", "blue") + f": {saved_model_file}")


def _without_layers(other_parameter: dict[str, Any]) -> dict[str, Any]:
    # SASRecF, DIN and others name a whole layer here, with the dataset in it. Its weights are in
    # state_dict, and the model's constructor makes the rest.
    return {
        name: value
        for name, value in other_parameter.items()
        if not isinstance(value, torch.nn.Module)
    }


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write what torch reads back with its check on; a run that dies here leaves the old file."""
    write_atomically(
        Path(path), lambda file: torch.save(state, file, pickle_protocol=_PICKLE_PROTOCOL)
    )
