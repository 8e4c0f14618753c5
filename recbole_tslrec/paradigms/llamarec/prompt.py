"""LlamaRec's prompt (§3.2.1): a numbered history, candidates under letters, and room for one letter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_tslrec.language_model.prompts.segments import (
    Items,
    TokenTable,
    Words,
    tokens_of,
)
from recbole_tslrec.language_model.prompts.template import (
    ANSWER,
    Template,
    special_tokens,
    with_answer,
)
from recbole_tslrec.language_model.reader import check_prompt
from recbole_tslrec.language_model.source import LanguageModelSource
from recbole_tslrec.language_model.verbalizer import LAST_WORDS, candidate_labels, letters_behind
from recbole_tslrec.recbole_bridge.candidate_examples import CANDIDATES, HISTORY


@dataclass(frozen=True)
class Answers:
    """The tokens that may be answered.

    Attributes:
        tokens: the letters' ids behind the prompt, by the candidates' places.
        end: what ends an answer; None if the tokenizer has no such token.
    """

    tokens: tuple[int, ...]
    end: int | None


def answers_of(source: LanguageModelSource, n_candidates: int, with_end: bool) -> Answers:
    """The letters of so many candidates.

    Args:
        with_end: whether an end is needed.

    Raises:
        ValueError: the language model cannot answer with letters, or the tokenizer has no end.
    """
    if source.kind != "causal":
        raise ValueError(
            f"llamarec_head: [letters] needs the head of a causal language model, and [{source.name}] "
            f"is of the kind {source.kind}. Set llamarec_head: linear, or give a causal llm, for one "
            f"smollm2."
        )
    end = source.tokenizer.eos_token_id
    if with_end and end is None:
        raise ValueError(
            f"llamarec_loss: [vocabulary] learns the end of an answer as well, and the tokenizer of "
            f"[{source.name}] has no token for it. Set llamarec_loss: letters."
        )
    return Answers(tuple(letters_behind(source, LAST_WORDS, n_candidates)), end)


def make_template(
    source: LanguageModelSource,
    instruction: str,
    texts: TokenTable | None,
    n_candidates: int,
    max_history: int,
    closed: bool,
) -> Template:
    """The prompt.

    Args:
        source: the language model.
        instruction: the first words.
        texts: the items' texts by internal id; None: each item is a slot.
        n_candidates: the most candidates.
        max_history: the most items of a history.
        closed: whether the tokenizer's closing tokens follow, as encoders expect them.
    """
    tokenizer = source.tokenizer
    opening, closing = special_tokens(tokenizer)
    shown = {
        "slots": texts is None,
        "texts": texts,
        "separator": tokens_of(tokenizer, "\n"),
    }
    numbers = TokenTable.of(tokenizer, [f"({place})" for place in range(1, max_history + 1)])
    labels = TokenTable.of(tokenizer, [f"({label})" for label in candidate_labels(n_candidates)])
    segments = [
        Words(opening + tokens_of(tokenizer, f"{instruction}\n\nHistory:\n")),
        Items(HISTORY, labels=numbers, most=max_history, **shown),
        Words(tokens_of(tokenizer, "\n\nCandidates:\n")),
        Items(CANDIDATES, labels=labels, candidates=True, **shown),
        Words(tokens_of(tokenizer, LAST_WORDS) + (closing if closed else ())),
    ]
    return Template(tuple(segments), source.context_length)


def check_template(source: LanguageModelSource, template: Template, n_candidates: int) -> None:
    """Raise ValueError if candidates with long texts and one item of a history do not fit the context,
    or the language model does not know the words."""
    texts = next(part.texts for part in template.segments if isinstance(part, Items))
    lengths = np.zeros(n_candidates + 1) if texts is None else texts.lengths
    longest = np.argsort(-lengths[1:], kind="stable")[:n_candidates] + 1
    letter = np.zeros(1, dtype=np.int64)
    values = {HISTORY: [longest[:1]], CANDIDATES: [longest], ANSWER: [letter]}
    check_prompt(source, with_answer(template), values)
