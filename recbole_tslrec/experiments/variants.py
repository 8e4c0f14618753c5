"""The methods that stand side by side in a comparison, and the keys on which each depends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_tslrec import settings

# What a comparison sets for each cell; taken out of what the user gives.
OWN_KEYS = ("model", "dataset", "seed", "enhancement", "checkpoint_dir")
# Their content counts, not where they lie.
INPUT_FILES = ("backbone_checkpoint", "enhanced_items")
# Of our keys, those that cannot change a result: where things lie, how they are read, what is traded
# for memory.
_WITHOUT_EFFECT = (
    "tslrec_dir",
    "llm_trust_remote_code",
    "llm_attention",
    "llm_gradient_checkpointing",
)


@dataclass(frozen=True)
class Variant:
    """One of the methods that stand side by side.

    Attributes:
        prefix: what stands before the backbone's name in the model's.
        enhancement: the value of that key; None for models that do not have it.
        stages: the result depends on all keys of these (``settings.SETTINGS``).
        keys: and on these.
        peer: for a model of another paradigm, whose whole name ``prefix`` is, its one backbone.
    """

    prefix: str
    enhancement: str | None = None
    stages: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    peer: str | None = None

    @property
    def takes_backbone(self) -> bool:
        """Whether its stages start from a trained backbone; Base's serves."""
        return "backbone_checkpoint" in self.keys

    def depends_on(self, key: str) -> bool:
        """Whether the result can depend on a key; on RecBole's own it can in every variant."""
        setting = settings.SETTINGS.get(key)
        return setting is None or setting.stage in self.stages or key in self.keys

    def choose(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What this variant is given of all settings."""
        return {
            key: value
            for key, value in given.items()
            if key not in OWN_KEYS and (self.depends_on(key) or key in _WITHOUT_EFFECT)
        }


_CATEGORIES, _LANGUAGE_MODEL = settings.CATEGORIES, settings.LANGUAGE_MODEL
_FINE_TUNING, _RECOMMENDATION = settings.FINE_TUNING, settings.RECOMMENDATION
VARIANTS: dict[str, Variant] = {  # in the order of a table
    "Base": Variant(""),
    "Norm": Variant("Norm_"),
    "CI": Variant("CI_", stages=(_CATEGORIES,), keys=("backbone_checkpoint", "item_norm")),
    "TSLRec": Variant(
        "TSLRec_",
        "tslrec",
        (_CATEGORIES, _LANGUAGE_MODEL, _FINE_TUNING, _RECOMMENDATION),
        ("llm", *INPUT_FILES),
    ),
    "E4SRec": Variant(
        "E4SRec",
        None,
        (_LANGUAGE_MODEL, settings.PEER),
        (
            "llm",
            "backbone_checkpoint",
            "llm_max_history",
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "lora_target_modules",
            "sft_epochs",
            "sft_stopping_step",
        ),
        peer="SASRec",
    ),
    # The controls: TSLRec with something else in place of h^v, which it must beat for the tuned
    # language model to have added anything.
    "preferences": Variant(
        "TSLRec_", "preferences", (_CATEGORIES, _RECOMMENDATION), ("backbone_checkpoint",)
    ),
    "pretrained": Variant("TSLRec_", "pretrained", (_RECOMMENDATION,), ("backbone_checkpoint",)),
    "random": Variant("TSLRec_", "random", (_RECOMMENDATION,), ("llm",)),  # as wide as h^v
    "untuned": Variant(
        "TSLRec_",
        "untuned",
        (_LANGUAGE_MODEL, _RECOMMENDATION),
        ("llm", "backbone_checkpoint", "n_categories"),  # the instruction names n_categories
    ),
}
MAIN_VARIANTS = ("Base", "CI", "TSLRec")
CONTROLS = ("preferences", "pretrained", "random", "untuned")
