"""What a language model is, told by its configuration, and transformers' class that loads it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource

CAUSAL, ENCODER, ENCODER_DECODER = "causal", "encoder", "encoder-decoder"


def kind_of(config: PretrainedConfig) -> str:
    """``causal``, ``encoder`` or ``encoder-decoder``."""
    if config.is_encoder_decoder:
        return ENCODER_DECODER
    text = config.get_text_config()
    comes_with = getattr(config, "auto_map", None) or {}  # the classes of a model's own code
    if getattr(text, "is_decoder", False) or "AutoModelForCausalLM" in comes_with:
        return CAUSAL
    # An encoder such as BERT is among the causal ones as well: with is_decoder it can serve as one.
    is_causal = type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    return CAUSAL if is_causal and type(text) not in MODEL_FOR_MASKED_LM_MAPPING else ENCODER


def check_kind(llm: str, config: PretrainedConfig, kinds: Collection[str]) -> None:
    """Raise ValueError for a kind of model that the paradigm cannot take."""
    kind = kind_of(config)
    if kind not in kinds:
        raise ValueError(
            f"llm: [{llm}] is of the kind {kind} ({config.model_type}). Give a language model of the "
            f"kind {' or '.join(kinds)}."
        )


def model_class(source: LanguageModelSource, head: bool) -> type:
    """transformers' class that makes the model, as a trunk or with its language-model head.

    Raises:
        ValueError: the model has no head that gives the next token.
    """
    if not head:
        return AutoModel
    if source.kind == ENCODER:
        raise ValueError(
            f"llm: [{source.name}] is of the kind {ENCODER} and has no head that gives the next token. "
            f"Give a language model of the kind {CAUSAL} or {ENCODER_DECODER}."
        )
    return AutoModelForCausalLM if source.kind == CAUSAL else AutoModelForSeq2SeqLM
