"""The checks of our keys: a paradigm's, and those that every sequential model has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.config.key import KEYS, Effect
from recbole_tslrec.config.keys import TRAINING_KEYS
from recbole_tslrec.config.recbole_keys import modes_of


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
            raise FileNotFoundError(
                f"{name}: there is no file [{path}]. Set {name} to one that is there, or leave it out."
            )


def check_training_keys(
    config: dict[str, Any], model: str, batchings: Sequence[str], by_product: bool
) -> None:
    """Check these keys, and put in the place of ``train_batching: auto`` what it is for a backbone.

    Args:
        config: all values.
        model: RecBole's name of the model.
        batchings: the values of ``train_batching`` that its backbone takes, the quickest first.
        by_product: whether it is, or starts from, a backbone that scores by products of states and
            items.

    Raises:
        ValueError: a value is unknown, or one that the model cannot have.
    """
    for name, key in TRAINING_KEYS.items():
        key.check(config.get(name, key.default))
    if config["train_batching"] == "auto":
        config["train_batching"] = batchings[0]
    if config["train_batching"] not in batchings:
        raise ValueError(
            f"train_batching: [{config['train_batching']}] is not for [{model}], which takes "
            f"{', '.join(batchings)}. Set one of these, or auto."
        )
    if config["sampled_loss"] != "none":
        _check_sampled_loss(config, model, by_product)
    if not by_product:
        _check_precision_of_others(config, model)
    if config["train_precision"] != "float32" and config.get("enable_amp"):
        raise ValueError(
            f"train_precision: [{config['train_precision']}] and enable_amp: [True] both choose the "
            f"precision of training. Set enable_amp: False."
        )


def _check_precision_of_others(config: dict[str, Any], model: str) -> None:
    """``auto`` is float32 where nothing is trained by the softmax of products with the items."""
    if config["train_precision"] == "bfloat16":
        raise ValueError(
            f"train_precision: [bfloat16] is for backbones whose scores are products of states and "
            f"items; [{model}] is none. Set train_precision: float32, or auto."
        )
    config["train_precision"] = "float32"


def _check_sampled_loss(config: Mapping[str, Any], model: str, by_product: bool) -> None:
    given = config["sampled_loss"]
    if not by_product:
        raise ValueError(
            f"sampled_loss: [{given}] is for backbones whose scores are products of states and items; "
            f"[{model}] is none. Set sampled_loss: none."
        )
    if config.get("loss_type") != "CE":
        raise ValueError(
            f"sampled_loss: [{given}] stands for CE, and loss_type is [{config.get('loss_type')}]. Set "
            f"loss_type: CE, or sampled_loss: none."
        )


def choose_precision(config: dict[str, Any]) -> None:
    """Put in the place of ``train_precision: auto`` what it is on a device.

    Args:
        config: all values, RecBole's ``device`` among them.

    Raises:
        ValueError: bfloat16 was asked for, and the device has no instructions for it.
    """
    asked = config["train_precision"]
    if asked == "float32":
        return
    fast = bf16_is_fast(config["device"])
    if asked == "bfloat16" and not fast:
        raise ValueError(
            f"train_precision: [bfloat16] has no instructions on this [{config['device']}]. Set "
            f"train_precision: auto."
        )
    config["train_precision"] = "bfloat16" if fast else "float32"


def check_valid_protocol(config: Mapping[str, Any], model: str, ours: bool) -> None:
    """Raise ValueError for a ``valid_protocol`` that nobody would follow.

    Args:
        config: all values.
        model: its name.
        ours: whether a trainer of ours trains it.
    """
    protocol = config.get("valid_protocol", "ranked")
    if protocol == "ranked":
        return
    if not ours:
        raise ValueError(
            f"valid_protocol: [{protocol}] is not to be had with [{model}], which RecBole's own trainer "
            f"trains. Set valid_protocol: ranked."
        )
    mode, _ = modes_of(config)
    if mode != "full":
        raise ValueError(
            f"valid_protocol: [{protocol}] ranks all items, and eval_args: mode [{mode}] does not. Set "
            f"mode: full, or valid_protocol: ranked."
        )
