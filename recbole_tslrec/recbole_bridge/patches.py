"""All that the package changes in RecBole, torch and the standard library, in one list.

``python -m recbole_tslrec patches`` prints it. Where several patches have one target, the later ones
stand around the earlier: they are asked first.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from colorama.ansitowin32 import StreamWrapper
from tabulate import tabulate

from recbole_tslrec.recbole_bridge import config_files, pickles, register, sound_files
from recbole_tslrec.stages import trained_on
from recbole_tslrec.store.stored_config import (
    config_state,
    let_torch_read_configs,
    restore_config,
)

_LOADING = (
    "recbole.quick_start.load_data_and_model recbole.quick_start.quick_start.load_data_and_model"
)


@dataclass(frozen=True)
class Patch:
    """One change.

    Attributes:
        target: what is changed, by its dotted name; several names of one thing with blanks between.
        reason: why.
        apply: makes the change, given the target.
        issue: where RecBole's users have reported it; None if nowhere.
    """

    target: str
    reason: str
    apply: Callable[[str], None]
    issue: str | None = None


def _around(wrap: Callable[[Any], Any]) -> Callable[[str], None]:
    """In the target's place comes what ``wrap`` makes of it."""

    def apply(target: str) -> None:
        names = target.split()
        owner, attribute = _place(names[0])
        wrapped = wrap(getattr(owner, attribute, None))
        for name in names:
            setattr(*_place(name), wrapped)

    return apply


def _instead(value: Any) -> Callable[[str], None]:
    """In the target's place comes ``value``, whatever stands there."""
    return _around(lambda original: value)


def _place(name: str) -> tuple[Any, str]:
    """The module or class that has an attribute, and the attribute's name."""
    path, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(path), attribute
    except ModuleNotFoundError:
        module, _, kind = path.rpartition(".")
        return getattr(importlib.import_module(module), kind), attribute


def _by(function: Callable[[], None]) -> Callable[[str], None]:
    """The change is no attribute's, or of many: the function makes it."""
    return lambda target: function()


def _done_before() -> None:
    """``first_imports`` made the change as the package's first import, and this list came later."""


def _silence_recboles_future_warnings() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")


def _memory_of_a_gpu_alone(original: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(original)
    def get_gpu_usage(device=None):
        if device is not None and torch.device(device).type != "cuda":
            return "0.0 / 0.0"  # RecBole's own words where there is no GPU
        return original(device)

    return get_gpu_usage


def _wrapping_once(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(*args, **kwargs):
        before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
        original(*args, **kwargs)
        for name, stream in before.items():
            if isinstance(stream, StreamWrapper):
                setattr(sys, name, stream)

    return init


_IMPORTS = [
    Patch(
        "torch.autograd.set_detect_anomaly",
        "RecBole's SINE switches it on for the whole process as it is imported: off again",
        _by(_done_before),
    ),
    Patch(
        "warnings.filters[ray._private.parameter]",
        "Ray, which RecBole imports, warns its users of how it is itself made",
        _by(_done_before),
    ),
]
_NOTES = [
    Patch(
        "recbole.data.dataset.SequentialDataset.build",
        "a hash of the test rows, which a trainer never sees, for the notes in a checkpoint",
        _around(trained_on.hashing_test_rows),
    ),
    Patch(
        "recbole.trainer.Trainer.resume_checkpoint",
        "training goes on with no other data than before unasked",
        _around(trained_on.remembering_its_data),
    ),
    Patch(
        "recbole.trainer.Trainer.fit",
        "a checkpoint has no tokens: it notes on what items and interactions it was trained",
        _around(trained_on.noting_its_data),
    ),
    Patch(
        "recbole.trainer.trainer.S3RecTrainer.fit",
        "the same where S3Rec is pretrained, which has a loop of its own",
        _around(trained_on.noting_its_data),
    ),
    Patch(
        "recbole.model.sequential_recommender.s3rec.S3Rec.__init__",
        "S3Rec goes on from a pretrained file, by row: of no other items or training interactions",
        _around(trained_on.going_on_from_the_same_data),
    ),
    Patch(
        "recbole.trainer.Trainer.evaluate",
        "no metrics of a model whose rows are other items', or that was trained on the test",
        _around(trained_on.comparing_what_is_evaluated),
    ),
    Patch(
        _LOADING,
        "the same of a model that is loaded",
        _around(trained_on.comparing_what_is_loaded),
    ),
]
_NO_CODE = [
    Patch(
        "recbole.config.Config._merge_external_config_dict",
        "which pickles the user of this process has named, and whose code is trusted",
        _around(pickles.noting_what_is_asked_for),
    ),
    Patch(
        "recbole.config.Config.__getitem__",
        "no other pickle is read, whichever a stored config or checkpoint_dir names, and none written "
        "where a stored config says",
        _around(pickles.naming_no_other_pickle),
    ),
    Patch(
        "recbole.model.abstract_recommender.AbstractRecommender.load_other_parameter",
        "RecBole sets any attribute of a model that a checkpoint names",
        _around(pickles.setting_no_other_attribute),
    ),
    Patch(
        _LOADING,
        "takes llm_trust_remote_code, which a checkpoint's own config cannot give",
        _around(pickles.trusting_whom_the_caller_trusts),
    ),
    Patch(
        "recbole.data.utils.save_split_dataloaders recbole.data.save_split_dataloaders",
        "save_dataloaders leaves the loaders no generator: other results, and our stages would fail",
        _around(pickles.giving_generators_back),
    ),
    Patch(
        "recbole.model.context_aware_recommender.kd_dagfm.eval",
        "KD_DAGFM evaluates its key teacher, which a stored config may hold; a module's own name "
        "comes before the built-in one",
        _instead(pickles.teacher),
    ),
    Patch(
        "recbole.model.general_recommender.ldiffrec.np",
        "LDiffRec unpickles item_emb.npy of the data set's folder",
        _instead(pickles.NumPyWithoutPickles("numpy")),
    ),
]
_CHECKPOINTS = [
    Patch(
        "recbole.config.Config.__getstate__",
        "a Config holds classes, which torch refuses to read since 2.6: plain values are written",
        _instead(config_state),
        "#2174",
    ),
    Patch(
        "recbole.config.Config.__setstate__",
        "and a Config is made of them again",
        _instead(restore_config),
        "#2174",
    ),
    Patch(
        "torch._weights_only_unpickler._marked_safe_globals_set copyreg.dispatch_table",
        "what is harmless in RecBole's checkpoints, torch reads with its check on",
        _by(let_torch_read_configs),
        "#2174",
    ),
    Patch(
        "recbole.trainer.Trainer._save_checkpoint",
        "RecBole writes with pickle protocol 4, of which torch's check reads nothing since 2.6",
        _instead(sound_files.save_checkpoint),
        "#2174, #2212",
    ),
    Patch(
        "recbole.quick_start.quick_start.run_recboles",
        "the processes of run(nproc=2) load the plug-in too",
        _instead(sound_files.run_with_the_plug_in),
    ),
    Patch(
        "recbole.trainer.Trainer.resume_checkpoint",
        "torch loads altered weights without a word: a damaged or forged file is refused",
        _around(sound_files.resuming_what_is_sound),
    ),
    Patch(
        "recbole.trainer.Trainer.evaluate",
        "the same of the file that is evaluated",
        _around(sound_files.evaluating_what_is_sound),
    ),
    Patch(
        _LOADING,
        "the same of the file that is loaded",
        _around(sound_files.loading_what_is_sound),
    ),
    Patch(
        "recbole.model.sequential_recommender.s3rec.S3Rec.__init__",
        "its pretrained file may have been written on a GPU, and there may be none",
        _around(sound_files.starting_on_the_device_there_is),
    ),
    Patch(
        "recbole.evaluator.collector.Collector.get_data_struct",
        "RecBole moves counts to the CPU as if they were tensors: ItemCoverage and three more fail",
        _around(sound_files.collecting_numbers_too),
    ),
    Patch(
        "recbole.utils.utils.get_gpu_usage recbole.utils.get_gpu_usage "
        "recbole.trainer.trainer.get_gpu_usage",
        "asked for the memory of the CPU, where a GPU is there and gpu_id is '': fails after training",
        _around(_memory_of_a_gpu_alone),
    ),
    Patch(
        "recbole.utils.logger.init",
        "each run has colorama wrap the screen once more: every line takes twice as long as in the run "
        "before, and fails after 200 runs",
        _around(_wrapping_once),
    ),
    Patch(
        "warnings.filters[recbole.*]",
        "RecBole's own calls of what pandas and torch are to change: its users cannot mend them",
        _by(_silence_recboles_future_warnings),
    ),
]
_REGISTRATION = [
    Patch(
        "sys.modules[recbole.model.sequential_recommender.*] recbole.trainer.*Trainer",
        "RecBole has no registry: it finds models and trainers by these names",
        _by(register.register),
    ),
    Patch(
        "recbole.config.Config._load_config_files",
        "a yaml file that is none is named",
        _around(config_files.naming_files),
    ),
    Patch(
        "recbole.data.dataset.SequentialDataset._data_filtering",
        "filters that leave nothing are named, with their values",
        _around(register.naming_filters),
    ),
    Patch(
        "recbole.config.Config._get_model_and_dataset",
        "a misspelt model is answered by the names that there are",
        _around(register.naming_models),
    ),
    Patch(
        "recbole.config.Config._load_internal_config_dict",
        "RecBole reads yaml of defaults from its own folder alone: ours too",
        _around(register.with_our_yaml),
    ),
    Patch(
        "recbole.config.Config._set_default_parameters",
        "the values of keys are checked before anything is trained",
        _around(register.with_checks),
    ),
    Patch(
        "recbole.config.Config._init_device",
        "under torchrun RecBole puts every process on the same GPU",
        _around(register.with_a_device_each),
    ),
    Patch(
        "recbole.config.Config._init_device",
        "train_precision: auto becomes what the device has, before anything depends on it",
        _around(register.with_our_precision),
    ),
    Patch(
        "recbole.data.dataset.SequentialDataset._change_feat_format",
        "RecBole sorts times as float32, which may put histories in another order: a warning",
        _around(register.with_a_look_at_the_order),
    ),
]

PATCHES: tuple[Patch, ...] = (*_IMPORTS, *_NOTES, *_NO_CODE, *_CHECKPOINTS, *_REGISTRATION)


@functools.cache
def apply() -> None:
    """Make all the changes, in the order of the list.

    After it RecBole's entry points know all that is ours. Training,
    ``evaluate(load_best_model=True)`` and ``load_data_and_model`` work on today's torch for every model
    whose ``other_parameter`` holds tensors and layers alone: all the sequential ones, but not those that
    keep NumPy or SciPy matrices there, as ItemKNN and EASE do: these are tested with
    ``load_best_model=False``. Only the first call acts: a later one cannot undo what somebody has put on
    top.
    """
    for patch in PATCHES:
        patch.apply(patch.target)


def table() -> str:
    """The list, for a screen."""
    rows = [[patch.target.replace(" ", "\n"), patch.reason, patch.issue] for patch in PATCHES]
    return tabulate(
        rows, headers=["target", "reason", "RecBole's issue"], maxcolwidths=[70, 50, 12]
    )
