"""The checks of RecBole's own keys: what is wrong with an experiment, said before it is run.

A model is asked only of the keys that it has.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType
from recbole.utils.argument_list import dataset_arguments, evaluation_arguments

from recbole_tslrec.config.recbole_tables import (
    ENCODING,
    ENTRIES,
    RECBOLE_KEYS,
    SHARES_OF_TRANSFORMS,
)
from recbole_tslrec.config.values import UP_TO_1, integer

# What is compared and how it is judged: the same for all rows, or the easier data would win. The length
# of histories is a model's own, though RecBole has it among the keys of the data.
SAME_FOR_ALL = frozenset({*dataset_arguments, *evaluation_arguments, "data_path", "valid_protocol"})
SAME_FOR_ALL -= {"MAX_ITEM_LIST_LENGTH", "eval_batch_size", "metric_decimal_place"}

_FILTERS = ("user_inter_num_interval", "item_inter_num_interval", "val_interval", "rm_dup_inter")
_KEEPING_ALL = (None, False, {}, "[0,inf)")


def check_recbole_keys(
    config: Mapping[str, Any], model_keys: Collection[str], own_losses: Collection[str] = ()
) -> None:
    """Raise ValueError for the first of RecBole's keys whose value is not one it takes.

    Args:
        config: all values, before RecBole has changed any.
        model_keys: those that RecBole's defaults of the model hold. Another backbone's may be given,
            too, and are not read.
        own_losses: values of ``loss_type`` that the model takes besides those of all.
    """
    check_metrics(config)
    for key, values in RECBOLE_KEYS.items():
        if key in model_keys and not (key == "loss_type" and config[key] in own_losses):
            values.check(key, config[key])
    ENCODING.check("encoding", config.get("encoding"))
    _check_transform(config)
    _check_entries(config, "clip_grad_norm", required=("max_norm",))
    _check_entries(config, "train_neg_sample_args")
    eval_args = config["eval_args"]
    if isinstance(eval_args, Mapping):
        eval_args = {"order": "RO", **eval_args}  # as RecBole has it where it is left out
    _check_entries({"eval_args": eval_args}, "eval_args", optional=False)
    _check_kinds(config)
    for key in ("selected_features", "item_attribute"):
        if key in model_keys:
            _check_features(config, key)
    if "train_stage" in model_keys:
        _check_pretraining(config)
    width = "hidden_size" if "hidden_size" in model_keys else "embedding_size"  # CORE has no other
    if "n_heads" in model_keys and config[width] % config["n_heads"]:
        raise ValueError(
            f"n_heads: [{config['n_heads']}] does not divide {width}: [{config[width]}]. "
            f"Give one that does."
        )


def _check_transform(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a transform without its share, which it would miss in the first batch."""
    key = SHARES_OF_TRANSFORMS.get(config["transform"])
    if key is not None and not UP_TO_1.accepts(config.get(key)):
        raise ValueError(
            f"transform: [{config['transform']}] reads from {key} what share of a history it changes, "
            f"and {key} is [{config.get(key)!r}]. Set {key} to {UP_TO_1.expected}."
        )


def _check_entries(
    config: Mapping[str, Any], key: str, required: Collection[str] = (), optional: bool = True
) -> None:
    given, entries = config[key], ENTRIES[key]
    none = given is None or given is False or given == "None" or (required and given == {})
    if optional and none:
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


def _check_kinds(config: Mapping[str, Any]) -> None:
    """Raise ValueError for metrics that cannot be computed together, or not in the mode given."""
    kinds = {metric_types[name.lower()] for name in listed(config, "metrics")}
    if len(kinds) > 1:
        raise ValueError(
            f"metrics: [{config['metrics']}] rank items and judge single scores, which RecBole does "
            f"not do in one run. Give one kind."
        )
    mode, modes = config["eval_args"].get("mode", "full"), modes_of(config)
    if kinds == {EvaluatorType.VALUE} and "full" in modes:
        raise ValueError(
            f"metrics: [{config['metrics']}] judge single scores, and eval_args: mode [{mode}] ranks "
            f"all items. Give mode: uni100, or other metrics."
        )
    if kinds == {EvaluatorType.RANKING} and "labeled" in modes:
        raise ValueError(
            f"metrics: [{config['metrics']}] rank items, and eval_args: mode [{mode}] judges single "
            f"scores. Give mode: full, or metrics: ['AUC']."
        )


def modes_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """How validation and test rank, by ``eval_args: mode``; where one alone is given, RecBole takes it
    for both.
    """
    mode = (config["eval_args"] or {}).get("mode", "full")
    if not isinstance(mode, Mapping):
        return mode, mode
    either = mode.get("valid", mode.get("test", "full"))
    return mode.get("valid", either), mode.get("test", either)


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


def check_reranked(config: Mapping[str, Any], model) -> None:
    """Raise ValueError if RecBole's CPR models are to rerank more items than there are.

    Args:
        config: RecBole's, with its defaults in.
        model: RecBole's, of any kind; but for those two none has such a key.
    """
    if not getattr(model, "n_facet_reranker", 0):
        return
    most, n_items = max(model.reranker_CAN_NUM), model.n_items - 1  # padding is none
    if most > n_items:
        raise ValueError(
            f"reranker_CAN_NUM: [{most}] is more than the {n_items} items of the data set "
            f"[{config['dataset']}]. Set reranker_CAN_NUM: {n_items}, or smaller."
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


def check_needs(config: Mapping[str, Any], needs: Mapping[str, Any], model: str) -> None:
    """Raise ValueError where a key has another value than a model's backbone can be trained with."""
    for key, needed in needs.items():
        if config.get(key) != needed:
            raise ValueError(
                f"{key}: [{config.get(key)}] is not what [{model}] can be trained with. "
                f"Set {key}: {needed}."
            )


def given_filters(config: Mapping[str, Any]) -> list[str]:
    """The keys by which RecBole takes interactions out of a data set, each with its value."""
    values = {key: config[key] for key in _FILTERS}
    return [f"{key}: {value}" for key, value in values.items() if value not in _KEEPING_ALL]


def check_full_ranking(config: Mapping[str, Any], model: str) -> None:
    """Raise ValueError if a few items are to be scored by a model that can only score all."""
    if set(modes_of(config)) != {"full"}:
        mode = config["eval_args"]["mode"]
        raise ValueError(
            f"eval_args: [{model}] scores all items at once, and mode [{mode}] samples them. "
            f"Set mode: full."
        )


def _check_features(config: Mapping[str, Any], key: str) -> None:
    """Raise ValueError for an item's feature that the model reads and ``load_col`` does not load."""
    loaded = (config["load_col"] or {"item": "*"}).get("item") or ()
    for name in listed(config, key):
        if loaded != "*" and name not in loaded:
            raise ValueError(
                f"{key}: [{name}] is no column of items that load_col loads. Give load_col with "
                f"'item': ['{config['ITEM_ID_FIELD']}', '{name}'] in it, or {key} another column."
            )


def _check_pretraining(config: Mapping[str, Any]) -> None:
    """Raise ValueError if S3Rec would leave no pretrained model, or find none to go on from."""
    stage, path = config["train_stage"], config["pre_model_path"]
    if stage == "finetune" and not os.path.isfile(path):
        raise ValueError(
            f"pre_model_path: there is no file [{path}]. Train S3Rec with train_stage: pretrain first, "
            f"and give the file that it writes into checkpoint_dir."
        )
    epochs, step = config["pretrain_epochs"], config["save_step"]
    if stage == "pretrain" and epochs < step:
        raise ValueError(
            f"save_step: [{step}] is more than pretrain_epochs: [{epochs}], and no model would be "
            f"written. Set save_step: {epochs}."
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
