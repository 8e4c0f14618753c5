"""RecBole's checkpoints in a form that today's torch reads, and read only if they are sound.

Since version 2.6 torch reads a file with ``weights_only=True``: without running code that the file
names, and in full only from pickle protocol 2. RecBole 1.2.1 writes its checkpoints with protocol 4
and with classes in them, and so fails at its own test step. Here it learns to write what torch
accepts, and torch to accept what is harmless in it; torch's check stays on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import recbole.quick_start.quick_start
import torch
from recbole.config import Config
from recbole.trainer import Trainer
from recbole.utils import set_color

from recbole_tslrec.backbones.registry import backbone_of
from recbole_tslrec.recbole_bridge.trained_model import known_model, use_on
from recbole_tslrec.store.checkpoints import (
    check_checkpoint,
    check_optimizer,
    config_of,
    fault_of_content,
    in_one_line,
    load_checkpoint,
    saying_which,
    without_layers,
    write_checkpoint,
)
from recbole_tslrec.store.stored_config import numbers_of_numpy_too, plain_config

# RecBole's own, which a process of ``run(nproc=2)`` starts with.
_RUN_RECBOLES = recbole.quick_start.quick_start.run_recboles


def run_with_the_plug_in(*args: Any) -> None:
    """What a process of ``run(nproc=2)`` starts with: to find this function, it loads the plug-in."""
    _RUN_RECBOLES(*args)


def resuming_what_is_sound(original):
    # RecBole hands its files to torch.load, which takes altered weights without a word.
    @functools.wraps(original)
    def resume_checkpoint(self, resume_file):
        check_checkpoint(resume_file, to_resume=True)
        with saying_which(resume_file), numbers_of_numpy_too():
            original(self, resume_file)
            check_optimizer(self.optimizer)

    return resume_checkpoint


def evaluating_what_is_sound(original):
    @functools.wraps(original)
    def evaluate(
        self, eval_data, load_best_model=True, model_file=None, show_progress=False, **more
    ):
        file = model_file or self.saved_model_file
        if eval_data and load_best_model:
            load_checkpoint(file)  # the numbers too: no error of RecBole's reading names the file
        try:
            with numbers_of_numpy_too():
                return original(self, eval_data, load_best_model, model_file, show_progress, **more)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise ValueError(f"[{file}] is of another model: {in_one_line(error)}") from error

    return evaluate


def loading_what_is_sound(original):
    @functools.wraps(original)
    def load_data_and_model(model_file, **more):
        check_checkpoint(model_file)
        known_model(config_of(model_file)["model"], model_file)
        with saying_which(model_file), numbers_of_numpy_too(), _on_the_device_there_is():
            return original(model_file, **more)

    return load_data_and_model


def starting_on_the_device_there_is(original: Callable[..., None]) -> Callable[..., None]:
    """A model's ``__init__`` that reads another model's file, wherever that was written."""

    @functools.wraps(original)
    def init(self, *args, **kwargs):
        with _on_the_device_there_is():
            original(self, *args, **kwargs)

    return init


@contextmanager
def _on_the_device_there_is() -> Iterator[None]:
    """Have torch read what a GPU has written onto the CPU where there is no GPU.

    RecBole calls torch.load without a device, and takes the device of the config that it reads.
    """
    original = torch.load

    def load(f, map_location=None, **more):
        content = original(f, map_location or "cpu", **more)
        if isinstance(content, dict) and isinstance(content.get("config"), Config):
            use_on(content["config"], torch.device("cpu"))
        return content

    if not torch.cuda.is_available():
        torch.load = load
    try:
        yield
    finally:
        torch.load = original


def collecting_numbers_too(original):
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


def save_checkpoint(self: Trainer, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
    """RecBole's ``Trainer._save_checkpoint``, in a form that torch reads back.

    What the test would refuse of it is refused here: after the first epoch, not after the last.

    Args:
        epoch: the current epoch.
        verbose: whether to log the file's name.
        **kwargs: ``saved_model_file``, where to write in place of ``self.saved_model_file``.

    Raises:
        ValueError: the model holds what no checkpoint may.
    """
    if not self.config["single_spec"] and self.config["local_rank"] != 0:
        return
    saved_model_file = kwargs.pop("saved_model_file", self.saved_model_file)
    state = {
        "config": plain_config(self.config),
        "epoch": epoch,
        "cur_step": self.cur_step,
        "best_valid_score": float(self.best_valid_score),  # which is NumPy's
        "state_dict": self.model.state_dict(),
        "other_parameter": without_layers(self.model.other_parameter() or {}),
        "optimizer": self.optimizer.state_dict(),
    }
    # RecBole's own that keep matrices, as EASE does, are written as ever: who tests them loads nothing.
    own = type(self.model).__module__.startswith("recbole.") and backbone_of(self.model) is None
    if not own and (fault := fault_of_content(state)):
        raise ValueError(
            f"model: [{self.config['model']}] cannot be kept in a checkpoint: {fault}, which no reader "
            f"takes. Have the class make it of tensors and plain values, a buffer that it makes anew "
            f"with persistent=False; or set saved=False in RecBole's run or fit, and test the model "
            f"with load_best_model=False."
        )
    write_checkpoint(state, saved_model_file)
    if verbose:
        self.logger.info(set_color("Saving current", "blue") + f": {saved_model_file}")
