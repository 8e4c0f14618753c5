"""On which of RecBole's keys a trained backbone depends, for the fingerprint of its stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_tslrec.config.key import KEYS
from recbole_tslrec.store.files import file_hash

# RecBole's keys that cannot change what a trained backbone is. Every other key of the experiment
# that is not ours enters its fingerprint: an unknown key may belong to a user's own backbone.
WITHOUT_EFFECT_ON_TRAINING = frozenset(
    "gpu_id use_gpu worker state data_path checkpoint_dir show_progress config_file config_files "
    "save_dataset dataset_save_path save_dataloaders dataloaders_save_path log_wandb wandb_project "
    "loss_decimal_place eval_batch_size device single_spec local_rank verbose model "
    "nproc world_size ip port offset group_offset enhanced_width enhanced_width_of trained_on "
    "enhanced_texts allow_new_data topk metrics".split()
)

# Keys that are left out at the value before there was a choice: what was stored then stays valid.
BEFORE_A_CHOICE = {"valid_protocol": "ranked", "train_precision": "float32", "sampled_loss": "none"}


def training_settings(
    config: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The values of RecBole's keys on which the trained backbone depends, as text.

    Args:
        config: RecBole's ``final_config_dict``, or a part of it.
        own: the model's ``loss_type`` and ``transform`` where a part does not say them.
    """
    without_effect = set(WITHOUT_EFFECT_ON_TRAINING)
    if config.get("train_batching") in ("prefix", "trimmed"):
        without_effect.add("train_window_context")
    without_effect |= {key for key, value in BEFORE_A_CHOICE.items() if config.get(key) == value}
    without_effect |= _of_losses_not_taken(config)
    # A loader's workers draw other items than it would by itself.
    whole = {**(own or {}), **config}
    if _draws_in_loaders(whole):
        without_effect.remove("worker")
        if (config.get("worker") or 0) > 1:  # which of them draws for whom is by the batch
            without_effect.remove("eval_batch_size")
    if whole.get("transform") is not None:  # it draws once a batch, in validation as well
        without_effect.discard("eval_batch_size")
        config = {"eval_batch_size": None, **config}
    if config.get("train_batching") == "trimmed":  # which is that, computed otherwise
        config = {**config, "train_batching": "prefix"}
    settings = {
        key: str(sets_as_lists(value))
        for key, value in sorted(config.items())
        if key not in KEYS and key not in without_effect
    }
    if config.get("train_stage") == "finetune":  # S3Rec goes on from what is in the file
        settings["pre_model_path"] = file_hash(Path(config["pre_model_path"]))
    return settings


def sets_as_lists(value: Any) -> Any:
    """A value with lists in the place of sets of columns, as ``load_col`` may have them.

    A set's text differs by process, and no checkpoint holds one.
    """
    if not isinstance(value, Mapping):
        return value
    sets = {kind: one for kind, one in value.items() if isinstance(one, set | frozenset)}
    return (
        {**value, **{kind: sorted(one, key=str) for kind, one in sets.items()}} if sets else value
    )


def _of_losses_not_taken(config: Mapping[str, Any]) -> set[str]:
    """The keys of losses that stand aside: what is stored from before there were any stays valid."""
    sampled = config.get("sampled_loss", "none")
    keys = set() if sampled == "gbce" else {"gbce_calibration"}
    if sampled == "none":
        keys.add("sampled_negatives")
    return keys


def _draws_in_loaders(config: Mapping[str, Any]) -> bool:
    """Whether loading draws at random: negative items to train on or to rank, or a transformation."""
    mode = (config.get("eval_args") or {}).get("mode") or "full"
    modes = mode.values() if isinstance(mode, Mapping) else [mode]
    sampled = any(one not in ("full", "labeled") for one in modes)
    return sampled or config.get("loss_type") == "BPR" or config.get("transform") is not None
