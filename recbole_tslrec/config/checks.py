"""The checks of our keys, and of how histories become training rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.keys import KEYS, Effect
from recbole_tslrec.config.values import YES_OR_NO, number

# Keys of properties/overall.yaml, which every sequential model has.
OVERALL_KEYS = ("train_batching", "train_window_context", "valid_protocol", "allow_new_data")


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
        if path is not None and not os.path.isfile(path):  # False, too, of a name that cannot be
            raise FileNotFoundError(f"{name}: there is no file [{path}].")


def check_new_data(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``allow_new_data`` is True or False."""
    if not YES_OR_NO.accepts(config.get("allow_new_data", False)):
        raise ValueError(
            f"allow_new_data: [{config['allow_new_data']}] is neither True nor False. Set one."
        )


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


def check_valid_protocol(config: Mapping[str, Any], model: str, ours: bool) -> None:
    """Raise ValueError for a ``valid_protocol`` that is unknown, or that nobody would follow.

    Args:
        config: all values.
        model: its name.
        ours: whether a trainer of ours trains it.
    """
    protocol = config.get("valid_protocol", "ranked")
    if protocol not in ("ranked", "masked"):
        raise ValueError(f"valid_protocol: [{protocol}] is not one of ranked, masked.")
    if protocol == "ranked":
        return
    if not ours:
        raise ValueError(
            f"valid_protocol: [masked] is not to be had with [{model}], which RecBole's own trainer "
            f"trains. Set valid_protocol: ranked."
        )
    mode = (config["eval_args"] or {}).get("mode", "full")
    if (mode["valid"] if isinstance(mode, Mapping) else mode) != "full":
        raise ValueError(
            f"valid_protocol: [masked] ranks all items, and eval_args: mode [{mode}] does not. Set "
            f"mode: full, or valid_protocol: ranked."
        )
