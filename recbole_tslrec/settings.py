"""The plug-in's keys: which stage depends on each, and what values it takes.

This table and ``properties/TSLRec.yaml`` (defaults and meanings) are the two halves of a key, with a
yaml for each peer that has keys of its own (``E4SRec.yaml``); a test holds them together. A stage's
fingerprint is made of the keys that name the stage here, so a new key is declared once and can
neither be forgotten by a stage nor make an unrelated one run again.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

# Stages, in the paper's order. RECOMMENDATION is the fused model: RecBole keeps its checkpoint.
# PLACE marks keys that say where things lie or come from; no stage's result depends on them (what an
# input file holds is fingerprinted by its content), and those that trade memory for time alone.
BACKBONE = "backbone"
CATEGORIES = "categories"
LANGUAGE_MODEL = "language_model"  # read by fine-tuning and by the untuned control alike
FINE_TUNING = "fine_tuning"
RECOMMENDATION = "recommendation"
PEER = "peer"  # a model of another paradigm, trained in RecBole's loop
PLACE = "place"


@dataclass(frozen=True)
class Setting:
    """One public key: the stage that depends on it and the test its value must pass."""

    stage: str
    accepts: Callable[[Any], bool]
    expected: str


def _one_of(stage: str, *values: str) -> Setting:
    return Setting(stage, lambda value: value in values, f"one of {', '.join(values)}")


def _integer(stage: str, low: int) -> Setting:
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    return Setting(stage, accepts, f"a whole number, {low} or larger")


def _number(stage: str, test: Callable[[float], bool], expected: str) -> Setting:
    def accepts(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and test(value)

    return Setting(stage, accepts, expected)


def _text(stage: str, optional: bool = False) -> Setting:
    def accepts(value: Any) -> bool:
        return (optional and value is None) or (isinstance(value, str) and value.strip() != "")

    return Setting(stage, accepts, "a text" + (" or ~" if optional else ""))


def _is_text_or_texts(value: Any) -> bool:
    texts = value if isinstance(value, (list, tuple)) else [value]
    return len(texts) > 0 and all(isinstance(text, str) and text for text in texts)


SETTINGS: dict[str, Setting] = {
    "backbone_checkpoint": _text(PLACE, optional=True),
    "n_categories": _integer(CATEGORIES, 2),
    "category_backend": _one_of(CATEGORIES, "auto", "sklearn", "faiss"),
    "llm": _text(PLACE),
    "llm_trust_remote_code": Setting(PLACE, lambda value: isinstance(value, bool), "True or False"),
    "llm_quantization": _one_of(LANGUAGE_MODEL, "none", "int8", "nf4"),
    "llm_attention": _one_of(PLACE, "sdpa", "eager", "flash_attention_2"),
    "llm_instruction": _text(LANGUAGE_MODEL),
    "llm_response": _text(LANGUAGE_MODEL),
    "llm_max_history": _integer(FINE_TUNING, 1),
    "llm_gradient_checkpointing": Setting(
        PLACE, lambda value: isinstance(value, bool), "True or False"
    ),
    "llm_pooling": _one_of(LANGUAGE_MODEL, "last", "mean"),
    "lora_r": _integer(FINE_TUNING, 1),
    "lora_alpha": _number(FINE_TUNING, lambda value: value > 0, "a number above 0"),
    "lora_dropout": _number(FINE_TUNING, lambda value: 0 <= value < 1, "a number in [0, 1)"),
    "lora_target_modules": Setting(
        FINE_TUNING, _is_text_or_texts, "'all-linear', or a module's name, or a list of them"
    ),
    "sft_epochs": _integer(FINE_TUNING, 1),
    "sft_learning_rate": _number(FINE_TUNING, lambda value: value > 0, "a number above 0"),
    "sft_batch_positions": _integer(FINE_TUNING, 1),
    "sft_optimizer": _one_of(FINE_TUNING, "adamw_torch", "adamw_8bit", "paged_adamw_8bit"),
    "sft_valid_ratio": _number(FINE_TUNING, lambda value: 0 <= value <= 0.5, "a number in [0, .5]"),
    "sft_stopping_step": _integer(FINE_TUNING, 1),
    "enhancement": _one_of(
        RECOMMENDATION, "tslrec", "preferences", "pretrained", "random", "untuned"
    ),
    "enhanced_items": _text(PLACE, optional=True),
    "fusion": _one_of(RECOMMENDATION, "gate", "sum"),
    "enhanced_dim": _integer(RECOMMENDATION, 1),
    "enhanced_scale": _number(RECOMMENDATION, lambda value: value > 0, "a number above 0"),
    "item_norm": _one_of(RECOMMENDATION, "none", "l2"),
    "max_examples_per_user": _integer(PEER, 1),
    "examples_per_step": _integer(PEER, 1),
    "e4srec_instruction": _text(PEER),
    "e4srec_learning_rate": _number(PEER, lambda value: value > 0, "a number above 0"),
    "tslrec_dir": _text(PLACE),
}

# Keys of properties/overall.yaml, which every sequential model has.
BATCHING_KEYS = ("train_batching", "train_window_context")

# RecBole's own keys of which a wrong value stops nothing before training.
_TRAINING = {
    "epochs": _integer("", 1),
    "train_batch_size": _integer("", 1),
    "eval_step": Setting(
        "",
        lambda value: isinstance(value, int) and not isinstance(value, bool),  # 0 or less: never
        "a whole number",
    ),
    "stopping_step": Setting(
        "",
        lambda value: isinstance(value, (int, float)) and value >= 0,  # inf: never
        "a number, 0 or larger",
    ),
    "learning_rate": _number("", lambda value: value > 0, "a number above 0"),
}

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


def stage_settings(config: Mapping[str, Any], *stages: str) -> dict[str, Any]:
    """The values of the keys on which the given stages depend, for their fingerprint."""
    return {key: config[key] for key, setting in SETTINGS.items() if setting.stage in stages}


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
        if key not in SETTINGS and key not in without_effect
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
    for key, setting in SETTINGS.items():
        if key in config and not setting.accepts(config[key]):
            raise ValueError(f"{key}: [{config[key]!r}] is not {setting.expected}.")
    if config["enhanced_items"] is not None and config["enhancement"] != "tslrec":
        raise ValueError(
            f"enhanced_items: [{config['enhanced_items']}] would take the place of the control "
            f"enhancement: [{config['enhancement']}]. Give one of the two."
        )
    for key in ("backbone_checkpoint", "enhanced_items"):
        path = config.get(key)
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{key}: there is no file [{path}].")


def check_training(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of RecBole's with which training would do nothing, or fail late."""
    for key, setting in _TRAINING.items():
        if not setting.accepts(config[key]):
            raise ValueError(f"{key}: [{config[key]!r}] is not {setting.expected}.")


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
        if not _integer("", 1).accepts(cutoff):
            raise ValueError(f"topk: [{cutoff!r}] is not a whole number, 1 or larger.")


def listed(config: Mapping[str, Any], key: str) -> list:
    """The values of a key of RecBole's that may stand without a list; none if it is not given."""
    value = config.get(key, [])
    return list(value) if isinstance(value, (list, tuple)) else [value]


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


def check_spelling(given_keys: Mapping[str, Any], known_keys: Mapping[str, Any]) -> None:
    """Raise ValueError for a key the user gave that is unknown but looks like one of ours or RecBole's.

    RecBole takes any key in silence, and a user's own keys stay allowed; but ``n_category=20`` or
    ``epoch=1`` must not run for hours with the default of ``n_categories`` or ``epochs``.

    Args:
        known_keys: those of the model. Keys of another backbone may be given, too: a yaml may serve
            several.
    """
    known = {*known_keys, *SETTINGS, *_RECBOLE_KEYS, *_WITHOUT_EFFECT_ON_TRAINING}
    for key in given_keys:
        if key in known:
            continue
        near = difflib.get_close_matches(key, [*SETTINGS, *BATCHING_KEYS], n=1, cutoff=0.8)
        # RecBole's words are common ones, and other models' keys are made of them.
        near += difflib.get_close_matches(key, _RECBOLE_KEYS, n=1, cutoff=0.9)
        if near:
            raise ValueError(f"There is no key [{key}]. Did you mean [{near[0]}]?")


def check_loss(config: Mapping[str, Any]) -> None:
    """Raise ValueError where the loss and the negative sampling contradict each other.

    RecBole itself refuses CE with negatives; BPR without would fail in the first training step.
    """
    negatives = config.get("train_neg_sample_args")
    if negatives == "None":  # what yaml makes of None, and RecBole takes for ~
        negatives = None
    if config.get("loss_type") == "BPR" and not (negatives or {}).get("distribution"):
        raise ValueError(
            f"loss_type: [BPR] needs negative items, and train_neg_sample_args is [{negatives}]. "
            f"Leave the key out, or give {{'distribution': 'uniform', 'sample_num': 1}}."
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
    if not _number("", lambda value: 0 <= value <= 1, "").accepts(context):
        raise ValueError(f"train_window_context: [{context}] is not a number in [0, 1].")
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
        known = key in SETTINGS or key in _RECBOLE_KEYS
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
        if near and key not in SETTINGS and key not in _RECBOLE_KEYS:
            raise ValueError(
                f"There is no option [--{key}]. Did you mean [--{near[0]}]? A key of your own that is "
                f"called so can stand in a yaml file."
            )
    check_command_line(arguments)
