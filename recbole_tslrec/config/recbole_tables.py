"""The values that RecBole's own keys take, with our models and their backbones.

RecBole 1.2.1 checks few of them. A wrong value fails in pandas or torch without the key's name, at
times after an epoch, or changes the experiment in silence (an unknown ``learner`` is Adam). The table
takes what RecBole takes and what works.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.values import UP_TO_1, YES_OR_NO, Values, integer, number, one_of, text

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


def are_intervals(value: Any) -> bool:
    """RecBole's intervals, ``[5,inf)`` for one, several with ';' between them."""
    parts = [part.strip() for part in str(value).split(";")]
    found = [re.fullmatch(r"[(\[]([^,]+),([^,]+)[)\]]", part) for part in parts]
    return all(ends and _are_ends(*ends.groups()) for ends in found)


def _are_ends(low: str, high: str) -> bool:
    try:
        return float(low) <= float(high)
    except ValueError:
        return False


def _are_value_filters(value: Any) -> bool:
    """Intervals of numbers, or lists of tokens, by column."""
    return isinstance(value, Mapping) and all(
        isinstance(kept, (list, tuple)) or (isinstance(kept, str) and are_intervals(kept))
        for kept in value.values()
    )


def _are_columns(value: Any) -> bool:
    """Lists of columns by the kind of file. A text would be taken for a list of its letters."""
    return isinstance(value, Mapping) and all(
        isinstance(columns, (list, tuple, set)) for columns in value.values()
    )


def _is_encoding(value: Any) -> bool:
    try:
        return isinstance(value, str) and codecs.lookup(value) is not None
    except (LookupError, ValueError):
        return False


def _are_parts(value: Any) -> bool:
    """RecBole takes the rows of training, validation and test apart by them."""
    is_list = isinstance(value, (list, tuple)) and len(value) == 3
    return is_list and all(isinstance(part, str) for part in value)


def _is_split(value: Any) -> bool:
    if not isinstance(value, Mapping) or len(value) != 1:
        return False
    ((kind, how),) = value.items()
    if kind == "LS":
        return how in ("valid_and_test", "valid_only", "test_only")
    shares = how if isinstance(how, list) and len(how) == 3 else [None]
    if kind not in ("RS", "TS") or not all(_SHARE.accepts(share) for share in shares):
        return False
    # The first part gets what is left by rounding the others down: nothing, if one takes all.
    return shares[0] > 0 or (shares[1] > 0 and shares[2] > 0)


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
_INTERVALS = _or_none(Values(are_intervals, 'intervals as in "[5,inf)"'))
_PATH = Values(_is_path, "a path")
_COLUMN = Values(lambda value: isinstance(value, str), "the name of a column")
# More than any machine has the memory for, of which torch says so without the key.
_SIZE = integer(1, 10**7)
_LAYERS = integer(1, 10**4)

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
    "checkpoint_dir": Values(lambda value: _is_path(value) and str(value) != "", "a path"),
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
        lambda value: integer(0).accepts(value) or (isinstance(value, float) and value >= 0),
        "a number, 0 or larger",
    ),
    "loss_decimal_place": Values(
        lambda value: str(value).isdecimal() and int(value) <= 100,
        "a whole number, 0 or larger and 100 or smaller",
    ),
    "enable_amp": YES_OR_NO,
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
    "metric_decimal_place": integer(0, 100),
    # data
    "USER_ID_FIELD": _COLUMN,
    "ITEM_ID_FIELD": _COLUMN,
    "TIME_FIELD": _COLUMN,
    "unload_col": _or_none(
        Values(_are_columns, "lists of columns by kind of file, as in {'inter': ['rating']}")
    ),
    "val_interval": _or_none(
        Values(_are_value_filters, "intervals or lists by column, as in {'rating': '[3,inf)'}")
    ),
    "field_separator": Values(lambda value: isinstance(value, str) and value != "", "a text"),
    "seq_separator": Values(lambda value: isinstance(value, str) and value != "", "a text"),
    "NEG_PREFIX": text(),
    "LIST_SUFFIX": text(),
    "ITEM_LIST_LENGTH_FIELD": text(),
    "MAX_ITEM_LIST_LENGTH": _SIZE,
    "benchmark_filename": _or_none(
        Values(_are_parts, "the parts of ready-made files as in ['train','valid','test']")
    ),
    "rm_dup_inter": _or_none(
        Values(lambda value: value in ("first", "last", False), "first, last")
    ),
    "filter_inter_by_user_or_item": _SWITCH,
    "user_inter_num_interval": _INTERVALS,
    "item_inter_num_interval": _INTERVALS,
    # models
    "loss_type": one_of("CE", "BPR"),
    "train_stage": one_of("pretrain", "finetune"),
    "pretrain_epochs": integer(1),
    "save_step": integer(1),
    "pre_model_path": _PATH,
    "hidden_size": _SIZE,
    "embedding_size": _SIZE,
    "inner_size": _SIZE,
    "n_layers": _LAYERS,
    "n_heads": integer(1),
    "num_layers": _LAYERS,
    "nh": _SIZE,
    "nv": _SIZE,
    "dropout_prob": UP_TO_1,
    "hidden_dropout_prob": UP_TO_1,
    "attn_dropout_prob": UP_TO_1,
    "hidden_act": one_of("gelu", "relu", "swish", "tanh", "sigmoid"),
    "layer_norm_eps": _SHARE,
    "initializer_range": _SHARE,
    "reg_weight": Values(  # SHAN has two
        lambda value: all(map(_SHARE.accepts, value if isinstance(value, list) else [value])),
        "a number, 0 or larger, or a list of them",
    ),
}

# RecBole reads it, and has no default of it.
ENCODING = _or_none(Values(_is_encoding, "an encoding that Python knows, as utf-8 or latin-1"))

# The key from which a transform reads a share of the history; most models have no default of it.
SHARES_OF_TRANSFORMS = {
    "mask_itemseq": "mask_ratio",
    "crop_itemseq": "eta",
    "reorder_itemseq": "beta",
}

# Keys that hold entries: which there are, and what each takes.
ENTRIES: dict[str, dict[str, Values]] = {
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
