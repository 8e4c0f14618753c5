"""TSLRec's prompt: d_inst, the items of a history, d_res (paper §4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recbole_tslrec.language_model.preflight import check_language_model
from recbole_tslrec.language_model.reader import (
    make_prompt_for,
    open_source_for,
    shared_if_possible,
)

if TYPE_CHECKING:
    from recbole_tslrec.language_model.encoder import ItemEncoder
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.language_model.source import LanguageModelSource

KEY = "llm_instruction"
_OF_THE_PAPER = (
    "Given the user's purchase history, predict the user's distribution among {n_categories} purchase "
    "preferences."
)
_SHORT = "Purchase history:"


def instruction(config, source: LanguageModelSource) -> str:
    """d_inst, with the number of categories in its place.

    If none is given it is the paper's sentence for a causal model. An encoder reads it in every prompt,
    20 of the 52 positions of 30 items, and has a short one.
    """
    return chosen_words(config, source).replace("{n_categories}", str(config["n_categories"]))


def chosen_words(config, source: LanguageModelSource) -> str:
    """The value of the key, or what stands in its place."""
    of_kind = _OF_THE_PAPER if source.kind == "causal" else _SHORT
    return of_kind if config[KEY] is None else config[KEY]


def make_prompt(
    config, source: LanguageModelSource, texts: Mapping[str, str] | None = None
) -> Template:
    """The experiment's prompt; arguments and errors as of ``make_prompt_for``."""
    return make_prompt_for(config, source, instruction(config, source), KEY, texts)


def as_read_by(reader: ItemEncoder, prompt: Template, config, training: bool) -> Template:
    """The prompt in the form in which ``reader`` takes the fewest positions."""
    return shared_if_possible(prompt, reader, config, KEY, training)


def check_prompt(config) -> None:
    """Raise what would stop the language model from reading items; errors as there."""
    source = open_source_for(config)
    check_language_model(config, instruction(config, source), KEY, source)
