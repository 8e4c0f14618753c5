"""The checks of keys, and which of RecBole's a trained backbone depends on."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_tslrec.config.keys import KEYS, Effect
from recbole_tslrec.values import number

# Keys of properties/overall.yaml, which every sequential model has.
BATCHING_KEYS = ("train_batching", "train_window_context")

_RECBOLE_KEYS = frozenset(
    [*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments]
)

# RecBole's keys that cannot change what a trained backbone is. Every other key of the experiment
# that is not ours enters its fingerprint: an unknown key may belong to a user's own backbone.
_WITHOUT_EFFECT_ON_TRAINING = frozenset(
    "gpu_id use_gpu worker state data_path checkpoint_dir show_progress config_file config_files "
    "save_dataset dataset_save_path save_dataloaders dataloaders_save_path log_wandb wandb_project "
    "loss_decimal_place eval_batch_size device single_spec local_rank verbose model "
    "nproc world_size ip port offset group_offset enhanced_width enhanced_width_of trained_on "
    "topk metrics".split()
)


def training_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The values of RecBole's keys on which the trained backbone depends, as text.

    Args:
        config: RecBole's ``final_config_dict``.
    """
    without_effect = set(_WITHOUT_EFFECT_ON_TRAINING)
    if config.get("train_batching") == "prefix":
        without_effect.add("train_window_context")
    if _draws_in_loaders(config):  # a loader's workers draw other items than it would by itself
        without_effect.remove("worker")
        if (config.get("worker") or 0) > 1:  # which of them draws for whom is by the batch
            without_effect.remove("eval_batch_size")
    return {
        key: str(value)
        for key, value in sorted(config.items())
        if key not in KEYS and key not in without_effect
    }


def _draws_in_loaders(config: Mapping[str, Any]) -> bool:
    """Whether loading draws at random: negative items to train on or to rank, or a transformation."""
    mode = (config.get("eval_args") or {}).get("mode") or "full"
    modes = mode.values() if isinstance(mode, Mapping) else [mode]
    sampled = any(one not in ("full", "labeled") for one in modes)
    return sampled or config.get("loss_type") == "BPR" or config.get("transform") is not None


def check_values(config: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of our keys whose value is not one it takes.

    A key that the experiment's model does not have is not there.
    """
    for name, key in KEYS.items():
        if name in config:
            key.check(config[name])


def check_files(config: Mapping[str, Any]) -> None:
    """Raise FileNotFoundError for a file of the user's that is not there."""
    for name, key in KEYS.items():
        path = config.get(name) if key.effect is Effect.FILE else None
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{name}: there is no file [{path}].")


def check_spelling(given_keys: Mapping[str, Any], known_keys: Mapping[str, Any]) -> None:
    """Raise ValueError for a key the user gave that is unknown but looks like one of ours or RecBole's.

    RecBole takes any key in silence, and a user's own keys stay allowed; but ``n_category=20`` or
    ``epoch=1`` must not run for hours with the default of ``n_categories`` or ``epochs``.

    Args:
        known_keys: those of the model. Keys of another backbone may be given, too: a yaml may serve
            several.
    """
    known = {*known_keys, *KEYS, *_RECBOLE_KEYS, *_WITHOUT_EFFECT_ON_TRAINING}
    for key in given_keys:
        if key in known:
            continue
        near = difflib.get_close_matches(key, [*KEYS, *BATCHING_KEYS], n=1, cutoff=0.8)
        # RecBole's words are common ones, and other models' keys are made of them.
        near += difflib.get_close_matches(key, _RECBOLE_KEYS, n=1, cutoff=0.9)
        if near:
            raise ValueError(f"There is no key [{key}]. Did you mean [{near[0]}]?")


def settle_batching(config: dict[str, Any], model: str, causal: bool) -> None:
    """Check ``train_batching`` and put in the place of ``auto`` what it is for this backbone.

    Raises:
        ValueError: the value is unknown, or one that the backbone cannot have.
    """
    batching = config["train_batching"]
    if batching not in ("prefix", "sequence", "auto"):
        raise ValueError(f"train_batching: [{batching}] is not one of prefix, sequence, auto.")
    context = config["train_window_context"]
    number(lambda share: 0 <= share <= 1, "a number in [0, 1]").check(
        "train_window_context", context
    )
    if batching == "sequence" and not causal:
        raise ValueError(
            f"train_batching: [sequence] needs a backbone of ours whose output at a position depends "
            f"on earlier ones alone; [{model}] has none. Set train_batching: prefix, or auto."
        )
    if batching == "auto":
        config["train_batching"] = "sequence" if causal else "prefix"


def check_command_line(arguments: Sequence[str]) -> None:
    """Raise ValueError for a known key with a second '=' in it: RecBole would drop it unread."""
    for argument in arguments:
        key, _, value = argument.removeprefix("--").partition("=")
        known = key in KEYS or key in _RECBOLE_KEYS
        if argument.startswith("--") and known and "=" in value:
            raise ValueError(
                f"[{argument}] is not read from the command line because of its second '='. Give "
                f"{key} in a yaml file."
            )


def check_arguments(arguments: Sequence[str], options: Collection[str]) -> None:
    """Raise ValueError for what a command's own options left over, if it is no key of a yaml file.

    Args:
        arguments: what is left of the command line.
        options: the names of the command's own options. A misspelt one would be taken for a key.
    """
    for argument in arguments:
        key, equals, _ = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise ValueError(f"[{argument}] is neither an option nor a --key=value.")
        near = difflib.get_close_matches(key, options, n=1, cutoff=0.8)
        if near and key not in KEYS and key not in _RECBOLE_KEYS:
            raise ValueError(
                f"There is no option [--{key}]. Did you mean [--{near[0]}]? A key of your own that is "
                f"called so can stand in a yaml file."
            )
    check_command_line(arguments)
