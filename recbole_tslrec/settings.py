"""The plug-in's keys: which stage depends on each, and what values it takes.

This table and ``properties/TSLRec.yaml`` (defaults and meanings) are the two halves of a key, with a
yaml for each peer that has keys of its own (``E4SRec.yaml``); a test holds them together. A stage's
fingerprint is made of the keys that name the stage here, so a new key is declared once and can
neither be forgotten by a stage nor make an unrelated one run again.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_tslrec.interactions_file import path_of
from recbole_tslrec.values import Values, integer, number, one_of, text

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
    """One public key: the stage that depends on it and the values that it takes."""

    stage: str
    values: Values


def _is_text_or_texts(value: Any) -> bool:
    texts = value if isinstance(value, (list, tuple)) else [value]
    return len(texts) > 0 and all(isinstance(one, str) and one for one in texts)


_YES_OR_NO = Values(lambda value: isinstance(value, bool), "True or False")
_ABOVE_0 = number(lambda value: value > 0, "a number above 0")

SETTINGS: dict[str, Setting] = {
    "backbone_checkpoint": Setting(PLACE, text(optional=True)),
    "n_categories": Setting(CATEGORIES, integer(2)),
    "category_backend": Setting(CATEGORIES, one_of("auto", "sklearn", "faiss")),
    "llm": Setting(PLACE, text()),
    "llm_trust_remote_code": Setting(PLACE, _YES_OR_NO),
    "llm_quantization": Setting(LANGUAGE_MODEL, one_of("none", "int8", "nf4")),
    "llm_attention": Setting(PLACE, one_of("sdpa", "eager", "flash_attention_2")),
    "llm_instruction": Setting(LANGUAGE_MODEL, text()),
    "llm_response": Setting(LANGUAGE_MODEL, text()),
    "llm_max_history": Setting(FINE_TUNING, integer(1)),
    "llm_gradient_checkpointing": Setting(PLACE, _YES_OR_NO),
    "llm_pooling": Setting(LANGUAGE_MODEL, one_of("last", "mean")),
    "lora_r": Setting(FINE_TUNING, integer(1)),
    "lora_alpha": Setting(FINE_TUNING, _ABOVE_0),
    "lora_dropout": Setting(FINE_TUNING, number(lambda p: 0 <= p < 1, "a number in [0, 1)")),
    "lora_target_modules": Setting(
        FINE_TUNING,
        Values(_is_text_or_texts, "'all-linear', or a module's name, or a list of them"),
    ),
    "sft_epochs": Setting(FINE_TUNING, integer(1)),
    "sft_learning_rate": Setting(FINE_TUNING, _ABOVE_0),
    "sft_batch_positions": Setting(FINE_TUNING, integer(1)),
    "sft_optimizer": Setting(FINE_TUNING, one_of("adamw_torch", "adamw_8bit", "paged_adamw_8bit")),
    "sft_valid_ratio": Setting(FINE_TUNING, number(lambda p: 0 <= p <= 0.5, "a number in [0, .5]")),
    "sft_stopping_step": Setting(FINE_TUNING, integer(1)),
    "enhancement": Setting(
        RECOMMENDATION, one_of("tslrec", "preferences", "pretrained", "random", "untuned")
    ),
    "enhanced_items": Setting(PLACE, text(optional=True)),
    "fusion": Setting(RECOMMENDATION, one_of("gate", "sum")),
    "enhanced_dim": Setting(RECOMMENDATION, integer(1)),
    "enhanced_scale": Setting(RECOMMENDATION, _ABOVE_0),
    "item_norm": Setting(RECOMMENDATION, one_of("none", "l2")),
    "max_examples_per_user": Setting(PEER, integer(1)),
    "examples_per_step": Setting(PEER, integer(1)),
    "e4srec_instruction": Setting(PEER, text()),
    "e4srec_learning_rate": Setting(PEER, _ABOVE_0),
    "tslrec_dir": Setting(PLACE, text()),
}

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
        if key in config:
            setting.values.check(key, config[key])
    if config["enhanced_items"] is not None and config["enhancement"] != "tslrec":
        raise ValueError(
            f"enhanced_items: [{config['enhanced_items']}] would take the place of the control "
            f"enhancement: [{config['enhancement']}]. Give one of the two."
        )
    for key in ("backbone_checkpoint", "enhanced_items"):
        path = config.get(key)
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{key}: there is no file [{path}].")


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


def check_columns(config: Mapping[str, Any]) -> None:
    """Raise ValueError if the first line is not RecBole's, or user, item or time is not loaded.

    Reads the first line of the .inter file alone. A file that is not there is RecBole's to report,
    and one of ready-made sequences (``benchmark_filename``) is the pipeline's.
    """
    path = path_of(config)
    if config.get("benchmark_filename") is not None or not path.is_file():
        return
    with open(path, encoding=config.get("encoding") or "utf-8") as file:
        header = file.readline().rstrip("\n").split(config["field_separator"])
    if header[0].startswith("\ufeff"):
        raise ValueError(f"[{path}] begins with a byte order mark: give encoding: utf-8-sig.")
    if untyped := [column for column in header if column.count(":") != 1]:
        raise ValueError(
            f"[{path}] line 1: {untyped} are no columns of RecBole's, which are name:type and parted by "
            f"[{config['field_separator']!r}], as in user_id:token, item_id:token, timestamp:float. "
            f"To make such a file of another: python -m recbole_tslrec import"
        )
    types = dict(column.split(":") for column in header)
    columns = list(types)
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
        if config[key] not in types:
            raise ValueError(
                f"{key}: [{config[key]}] is not a column of [{path}], which has {columns}."
            )
    time = config["TIME_FIELD"]
    if time not in types:
        raise ValueError(
            f"TIME_FIELD: [{time}] is not a column of [{path}], which has {columns}. Sequential "
            f"recommendation needs the order of the interactions: name the column of their time."
        )
    if types[time] != "float":
        raise ValueError(
            f"TIME_FIELD: [{time}] has the type [{types[time]}] in [{path}], and only numbers have an "
            f"order: {time}:float."
        )
    _check_loaded(config, columns)


def _check_loaded(config: Mapping[str, Any], columns: list[str]) -> None:
    given = {"inter": "*"} if config["load_col"] is None else config["load_col"]
    if not isinstance(given, Mapping):
        raise ValueError(
            f"load_col: [{given}] is not a list of columns by kind of file. On the command line it is "
            f"--load_col=\"{{'inter': ['user_id', 'item_id', '{config['TIME_FIELD']}']}}\""
        )
    loaded = given.get("inter") or []
    loaded = columns if loaded == "*" else loaded
    left_out = (config["unload_col"] or {}).get("inter") or ()
    needed = {key: config[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")}
    for key, column in needed.items():
        if column not in loaded:
            raise ValueError(
                f"load_col: inter {loaded} leaves out the {key} [{column}]. "
                f"Give load_col: {{inter: [{', '.join(dict.fromkeys([*loaded, *needed.values()]))}]}}"
            )
        if column in left_out:
            raise ValueError(f"unload_col: inter leaves out the {key} [{column}].")


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
