"""LLM-TRSR's prompt: a summary, the latest items, one candidate, and room for yes or no."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from recbole_tslrec.language_model.prompts.segments import (
    Field,
    Items,
    TokenTable,
    Words,
    tokens_of,
)
from recbole_tslrec.language_model.prompts.template import (
    ANSWER,
    Template,
    Values,
    answers_in_context,
    special_tokens,
    with_answer,
)
from recbole_tslrec.language_model.reader import check_prompt
from recbole_tslrec.language_model.source import LanguageModelSource

SUMMARY, HISTORY, CANDIDATE = "summary", "history", "candidate"
# The prompt's last words: the answer is read behind them.
_LAST_WORDS = "\n\nAnswer:\n"
_YES, _NO = "yes", "no"


def check_writes(source: LanguageModelSource, key: str) -> None:
    """Raise ValueError if a language model cannot write, as encoders cannot."""
    if source.kind != "causal":
        raise ValueError(
            f"{key}: [{source.name}] is of the kind {source.kind}, and cannot write a summary or answer "
            f"yes or no. Give a causal language model, for one smollm2."
        )


def answers_of(source: LanguageModelSource) -> tuple[int, int]:
    """The token ids of yes and no behind the prompt; errors as of ``answers_in_context``."""
    yes, no = answers_in_context(source.tokenizer, _LAST_WORDS, [_YES, _NO])
    return yes, no


def make_template(
    source: LanguageModelSource,
    instruction: str,
    texts: TokenTable,
    recent: int,
    summary_tokens: int | None,
) -> Template:
    """The prompt. The candidate is never cut: the oldest item goes first, then the summary's end.

    Args:
        source: the language model.
        instruction: the first words.
        texts: the items' texts by internal id.
        recent: the most items of a history.
        summary_tokens: the most tokens of a summary; None: there is none in the prompt.
    """
    tokenizer = source.tokenizer
    opening, _ = special_tokens(tokenizer)
    shown = {"texts": texts, "separator": tokens_of(tokenizer, "\n")}
    summary = [
        Words(tokens_of(tokenizer, "[Preference Summary]\n")),
        Field(SUMMARY, most=summary_tokens),
        Words(tokens_of(tokenizer, "\n\n")),
    ]
    segments = [
        Words(opening + tokens_of(tokenizer, f"{instruction}\n\n")),
        *(summary if summary_tokens is not None else []),
        Words(tokens_of(tokenizer, "[Historical Items]\n")),
        Items(HISTORY, most=recent, **shown),
        Words(tokens_of(tokenizer, "\n\n[Next Item]\n")),
        Items(CANDIDATE, candidates=True, **shown),
        Words(tokens_of(tokenizer, _LAST_WORDS)),
    ]
    return Template(tuple(segments), source.context_length)


def prompts_of(template: Template, values: Values, continues: bool) -> dict[str, Tensor]:
    """A prompt for each candidate of each example, one after the other.

    Args:
        values: of each example all candidates.
        continues: whether what stands before the candidates is read once an example; else once for
            each candidate.

    Returns:
        what ``Template.continued`` or ``Template.batch`` makes.
    """
    if continues:
        return template.continued(values, CANDIDATE)
    counts = [len(own) for own in values[CANDIDATE]]
    repeated = {name: _repeated(rows, counts) for name, rows in values.items()}
    candidates = np.concatenate(values[CANDIDATE])
    return template.batch(repeated | {CANDIDATE: list(candidates[:, None])})


def positions_of(
    template: Template, values: Values, texts: TokenTable, continues: bool
) -> np.ndarray:
    """The positions of each example's prompts, what leads in all counted as ``Template.lengths`` does.

    Args:
        values, continues: as of ``prompts_of``. Of an example without a candidate nothing is asked; one
            stands for it here.
        texts: the items' texts by internal id.

    Returns:
        [B] int64; where prompts are read one by one, as if each had the longest candidate.
    """
    candidates = [own if len(own) else np.zeros(1, np.int64) for own in values[CANDIDATE]]
    longest = [own[[texts.lengths[own].argmax()]] for own in candidates]
    whole = template.lengths({**values, CANDIDATE: longest})
    counts = np.array([len(own) for own in candidates])
    if not continues:
        return whole * counts
    behind = np.array([texts.lengths[own].sum() for own in candidates])
    behind = behind - texts.lengths[np.concatenate(longest)]
    return whole + behind + (counts - 1) * template.segments[-1].size


def _repeated(rows: Sequence[np.ndarray], counts: Sequence[int]) -> list[np.ndarray]:
    """Each row so many times."""
    return [own for own, count in zip(rows, counts, strict=True) for _ in range(count)]


def check_template(source: LanguageModelSource, template: Template, texts: TokenTable) -> None:
    """Raise ValueError if words, one item and one candidate with long texts do not fit the context, or
    the language model does not know the words."""
    longest = [np.array([1 + int(np.argmax(texts.lengths[1:]))])]
    one = [np.zeros(1, dtype=np.int64)]
    values = {HISTORY: longest, CANDIDATE: longest, SUMMARY: one, ANSWER: one}
    check_prompt(source, with_answer(template), values)
