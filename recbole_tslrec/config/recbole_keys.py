"""RecBole's own keys: the values with which our models and their backbones train and are tested.

RecBole 1.2.1 checks few of them. A wrong value fails in pandas or torch without the key's name, at
times after an epoch, or changes the experiment in silence (an unknown ``learner`` is Adam). The table
takes what RecBole takes and what works. A model is asked only of the keys that it has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_tslrec.config.values import Values, integer, number, one_of, text

# ---- tests of single values ----------------------------------------------------------------------


def _or_none(values: Values) -> Values:
    return Values(
        lambda value: value is None or values.accepts(value), f"{values.expected}, or ~ for none"
    )


def _in_any_case(*names: str) -> Values:
    return Values(
        lambda value: isinstance(value, str) and value.lower() in names,
        f"one of {', '.join(names)}",
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _are_devices(value: Any) -> bool:
    """What CUDA_VISIBLE_DEVICES takes; without one that is there, RecBole runs on the CPU unasked."""
    if value is None or value in ("", "cpu"):
        return True
    if not isinstance(value, (str, int, tuple)) or isinstance(value, bool):
        return False
    parts = value if isinstance(value, tuple) else str(value).split(",")
    return all(re.fullmatch(r"-?\d+|(GPU|MIG)-[\w/-]+", str(part).strip()) for part in parts)


def _are_intervals(value: Any) -> bool:
    """RecBole's intervals, ``[5,inf)`` for one, several with ';' between them."""
    parts = [part.strip() for part in str(value).split(";")]
    found = [re.fullmatch(r"[(\[]([^,]+),([^,]+)[)\]]", part) for part in parts]
    return all(ends and _are_ends(*ends.groups()) for ends in found)


def _are_ends(low: str, high: str) -> bool:
    try:
        return float(low) <= float(high)
    except ValueError:
        return False


def _is_split(value: Any) -> bool:
    if not isinstance(value, Mapping) or len(value) != 1:
        return False
    ((kind, how),) = value.items()
    if kind == "LS":
        return how in ("valid_and_test", "valid_only", "test_only")
    shares = how if isinstance(how, list) and len(how) == 3 else [None]
    return (
        kind in ("RS", "TS") and all(_SHARE.accepts(share) for share in shares) and sum(shares) > 0
    )


def _is_mode(value: Any) -> bool:
    modes = value.values() if isinstance(value, Mapping) else [value]
    keys = value if isinstance(value, Mapping) else ()
    known = all(re.fullmatch(r"full|labeled|(uni|pop)0*[1-9]\d*", str(mode)) for mode in modes)
    return known and set(keys) <= {"valid", "test"}


def _is_norm(value: Any) -> bool:
    """What torch makes a number of, above 0; infinity, too."""
    try:
        return not isinstance(value, bool) and float(value) > 0
    except (TypeError, ValueError):
        return False


# ---- the table -----------------------------------------------------------------------------------

_SWITCH = Values(lambda value: value in (True, False, None), "True or False")
_SHARE = number(lambda value: value >= 0, "a number, 0 or larger")
_DROPOUT = number(lambda value: 0 <= value <= 1, "a number in [0, 1]")
_INTERVALS = _or_none(Values(_are_intervals, 'intervals as in "[5,inf)"'))
_PATH = Values(_is_path, "a path")

RECBOLE_KEYS: dict[str, Values] = {
    # the run
    "gpu_id": Values(_are_devices, "numbers of GPUs as in '0,1', or '' for the CPU"),
    "use_gpu": _SWITCH,
    "worker": integer(0),
    "seed": Values(
        lambda value: integer(0).accepts(value) and value < 2**32, "a whole number in [0, 2**32)"
    ),
    "state": _or_none(_in_any_case("debug", "info", "warning", "error", "critical")),
    "reproducibility": _SWITCH,
    "data_path": _PATH,
    "checkpoint_dir": _PATH,
    "show_progress": _SWITCH,
    "save_dataset": _SWITCH,
    "dataset_save_path": _or_none(_PATH),
    "save_dataloaders": _SWITCH,
    "dataloaders_save_path": _or_none(_PATH),
    "log_wandb": _SWITCH,
    "shuffle": _SWITCH,
    # training
    "epochs": integer(1),
    "train_batch_size": integer(1),
    # Not sparse_adam: the gradients of these models are dense.
    "learner": _in_any_case("adam", "adamw", "sgd", "adagrad", "rmsprop"),
    "learning_rate": number(lambda value: value > 0, "a number above 0"),
    "weight_decay": _SHARE,
    "eval_step": Values(  # 0 or less: never
        lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"
    ),
    "stopping_step": Values(  # inf: never
        lambda value: isinstance(value, (int, float)) and value >= 0, "a number, 0 or larger"
    ),
    "loss_decimal_place": Values(lambda value: str(value).isdecimal(), "a whole number"),
    "enable_amp": _SWITCH,
    "enable_scaler": _SWITCH,
    "transform": _or_none(
        one_of("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")
    ),
    # evaluation
    "eval_batch_size": integer(1),
    "metrics": Values(
        lambda value: isinstance(value, (str, list, tuple)) and len(value) > 0,
        "a metric's name or a list of them",
    ),
    "topk": Values(
        lambda value: (
            all(integer(1).accepts(k) for k in (value if isinstance(value, list) else [value]))
            and value != []
        ),
        "a whole number, 1 or larger, or a list of them as in [5,10]",
    ),
    "valid_metric": text(),
    "valid_metric_bigger": _SWITCH,
    "metric_decimal_place": integer(0),
    # data
    "field_separator": Values(lambda value: isinstance(value, str) and value != "", "a text"),
    "seq_separator": Values(lambda value: isinstance(value, str) and value != "", "a text"),
    "NEG_PREFIX": text(),
    "LIST_SUFFIX": text(),
    "ITEM_LIST_LENGTH_FIELD": text(),
    "MAX_ITEM_LIST_LENGTH": integer(1),
    "rm_dup_inter": _or_none(
        Values(lambda value: value in ("first", "last", False), "first, last")
    ),
    "filter_inter_by_user_or_item": _SWITCH,
    "user_inter_num_interval": _INTERVALS,
    "item_inter_num_interval": _INTERVALS,
    # models
    "loss_type": one_of("CE", "BPR"),
    "hidden_size": integer(1),
    "embedding_size": integer(1),
    "inner_size": integer(1),
    "n_layers": integer(1),
    "n_heads": integer(1),
    "num_layers": integer(1),
    "nh": integer(1),
    "nv": integer(1),
    "dropout_prob": _DROPOUT,
    "hidden_dropout_prob": _DROPOUT,
    "attn_dropout_prob": _DROPOUT,
    "hidden_act": one_of("gelu", "relu", "swish", "tanh", "sigmoid"),
    "layer_norm_eps": _SHARE,
    "initializer_range": _SHARE,
    "reg_weight": _SHARE,
}

# Keys that hold entries: which there are, and what each takes.
_ENTRIES: dict[str, dict[str, Values]] = {
    "clip_grad_norm": {
        "max_norm": Values(_is_norm, "a number above 0"),
        "norm_type": Values(_is_norm, "a number above 0"),
        "error_if_nonfinite": _SWITCH,
        "foreach": _SWITCH,
    },
    "train_neg_sample_args": {
        "distribution": Values(
            lambda value: value in ("uniform", "popularity", None, "None"),
            "one of uniform, popularity",
        ),
        "sample_num": integer(1),
        "alpha": number(lambda value: True, "a number"),
        "dynamic": _SWITCH,
        "candidate_num": integer(0),
    },
    "eval_args": {
        "split": Values(_is_split, "{'LS': 'valid_and_test'} or {'RS': [0.8, 0.1, 0.1]}"),
        "order": Values(
            lambda value: value == "TO", "TO (by time), and where eval_args leaves it out it is RO"
        ),
        "group_by": _or_none(_in_any_case("user", "none")),
        "mode": Values(_is_mode, "full, uni100 or pop100 (of any number), labeled"),
    },
}


def check_recbole_keys(config: Mapping[str, Any], model_keys: Collection[str]) -> None:
    """Raise ValueError for the first of RecBole's keys whose value is not one it takes.

    Args:
        config: all values, before RecBole has changed any.
        model_keys: those that RecBole's defaults of the model hold. Another backbone's may be given,
            too, and are not read.
    """
    check_metrics(config)
    for key, values in RECBOLE_KEYS.items():
        if key in model_keys:
            values.check(key, config[key])
    _check_entries(config, "clip_grad_norm", required=("max_norm",))
    _check_entries(config, "train_neg_sample_args")
    _check_entries({"eval_args": _with_recboles_order(config["eval_args"])}, "eval_args")
    _check_kinds(config)
    if "n_heads" in model_keys and config["hidden_size"] % config["n_heads"]:
        raise ValueError(
            f"n_heads: [{config['n_heads']}] does not divide hidden_size: [{config['hidden_size']}]. "
            f"Give one that does."
        )


def _check_entries(config: Mapping[str, Any], key: str, required: Collection[str] = ()) -> None:
    given, entries = config[key], _ENTRIES[key]
    if given is None or given is False or given == "None" or (required and given == {}):
        return
    if not isinstance(given, Mapping):
        raise ValueError(f"{key}: [{given!r}] does not say which of {', '.join(entries)} is what.")
    for entry, value in given.items():
        if entry not in entries:
            raise ValueError(f"{key}: [{entry}] is not one of {', '.join(entries)}.")
        entries[entry].check(f"{key}: {entry}", value)
    for entry in required:
        if entry not in given:
            raise ValueError(f"{key}: [{given}] has no {entry}. Give {{'{entry}': 1}}.")
    if given.get("dynamic") and not given.get("candidate_num"):
        raise ValueError(f"{key}: dynamic needs candidate_num, 1 or larger; it is 0.")


def _with_recboles_order(eval_args: Any) -> Any:
    """``eval_args`` with the order that RecBole gives it where it has none."""
    return {"order": "RO", **eval_args} if isinstance(eval_args, Mapping) else repr(eval_args)


def _check_kinds(config: Mapping[str, Any]) -> None:
    """Raise ValueError for metrics that cannot be computed together, or not in the mode given."""
    kinds = {metric_types[name.lower()] for name in listed(config, "metrics")}
    if len(kinds) > 1:
        raise ValueError(
            f"metrics: [{config['metrics']}] rank items and judge single scores, which RecBole does "
            f"not do in one run. Give one kind."
        )
    mode = config["eval_args"].get("mode", "full")
    modes = mode.values() if isinstance(mode, Mapping) else [mode]
    if kinds == {EvaluatorType.VALUE} and "full" in modes:
        raise ValueError(
            f"metrics: [{config['metrics']}] judge single scores, and eval_args: mode [{mode}] ranks "
            f"all items. Give mode: uni100, or other metrics."
        )


# ---- metrics and losses --------------------------------------------------------------------------


def check_metrics(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a metric that RecBole does not have, or a cutoff that is none.

    Args:
        config: keys as the user gave them, in part or all: one metric may stand without a list.
    """
    chosen_by = str(config.get("valid_metric", "ndcg")).partition("@")[0]
    for key, names in (("valid_metric", [chosen_by]), ("metrics", listed(config, "metrics"))):
        for name in names:
            if str(name).lower() not in metric_types:
                raise ValueError(
                    f"{key}: [{name}] is not one of RecBole's metrics, "
                    f"{', '.join(sorted(metric_types))}. The paper's HR is hit."
                )
    for cutoff in listed(config, "topk"):
        integer(1).check("topk", cutoff)


def listed(config: Mapping[str, Any], key: str) -> list:
    """The values of a key of RecBole's that may stand without a list; none if it is not given."""
    value = config.get(key, [])
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_topk(config: Mapping[str, Any], n_items: int) -> None:
    """Raise ValueError for a ranking that is cut further down than there are items.

    Args:
        config: RecBole's, with its defaults in.
        n_items: the number of items of the data set, without padding.
    """
    names = {metric.lower() for metric in config["metrics"]} - {"gauc"}  # which ranks all items
    cut = any(metric_types[name] == EvaluatorType.RANKING for name in names)
    if cut and max(config["topk"]) > n_items:
        raise ValueError(
            f"topk: [{max(config['topk'])}] is more than the {n_items} items of the data set "
            f"[{config['dataset']}]. Give fewer."
        )


def check_valid_metric(config: Mapping[str, Any]) -> None:
    """Raise ValueError if the metric that is to choose the epoch is none of those computed.

    Args:
        config: RecBole's, with its defaults in.
    """
    computed = [
        name if name == "gauc" or metric_types[name] != EvaluatorType.RANKING else f"{name}@{k}"
        for name in (metric.lower() for metric in config["metrics"])
        for k in config["topk"]
    ]
    if str(config["valid_metric"]).lower() not in computed:
        raise ValueError(
            f"valid_metric: [{config['valid_metric']}] is not computed; these are: "
            f"[{', '.join(dict.fromkeys(computed))}]. Give one of them, or change metrics and topk."
        )


def check_loss(config: Mapping[str, Any]) -> None:
    """Raise ValueError where the loss and the negative sampling contradict each other.

    RecBole itself refuses CE with negatives; BPR without would fail in the first training step.
    """
    negatives = config.get("train_neg_sample_args")
    if negatives == "None":  # what yaml makes of None, and RecBole takes for ~
        negatives = None
    drawn = negatives is not None and negatives.get("distribution", "uniform")
    if config.get("loss_type") == "BPR" and drawn in (None, False, "None"):
        raise ValueError(
            f"loss_type: [BPR] needs negative items, and train_neg_sample_args is [{negatives}]. "
            f"Leave the key out, or give {{'distribution': 'uniform', 'sample_num': 1}}."
        )


def check_validation(config, valid_data) -> None:
    """Raise ValueError if the epoch is to be chosen by a metric not computed, or on no user at all.

    RecBole would look for the metric after the first epoch. Without a user it would train for all
    epochs, and may end without a test, too.

    Args:
        valid_data: RecBole's loader; None if there is to be none.
    """
    if valid_data is None or config["eval_step"] <= 0:
        return
    if len(valid_data._dataset) > 0:
        check_valid_metric(config)
    elif config["eval_args"]["split"] == {"LS": "valid_and_test"}:
        raise ValueError(
            f"dataset: [{config['dataset']}], or what its filters leave of it, has no user with the "
            f"four interactions that training, validation and test take. eval_step: 0 trains without "
            f"validation."
        )
