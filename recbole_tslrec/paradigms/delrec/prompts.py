"""DELRec's three prompts: temporal analysis, pattern simulating, and the choice of the next item.

The words are ours. All begin alike, so that what leads is read once a batch where the model allows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from recbole_tslrec.language_model.kinds import ENCODER_DECODER
from recbole_tslrec.language_model.prompts.segments import (
    Items,
    Soft,
    TokenTable,
    Words,
    tokens_of,
)
from recbole_tslrec.language_model.prompts.template import (
    Segment,
    Template,
    special_tokens,
)
from recbole_tslrec.language_model.reader import check_prompt
from recbole_tslrec.language_model.source import LanguageModelSource
from recbole_tslrec.language_model.verbalizer import LAST_WORDS, candidate_labels
from recbole_tslrec.paradigms.delrec.examples import (
    ANSWERED,
    BEGINNING,
    CANDIDATES,
    FOLLOWING,
    HISTORY,
    NEXT,
    PLACES,
)

_TITLE = "title"  # the name of what is answered


@dataclass(frozen=True)
class Prompts:
    """The templates of the tasks.

    Attributes:
        analysis: what is missing before the last item, after a worked example (TA).
        pattern: what the recommender ranks first, told its places 2 to h (RPS).
        choice: what comes next (stage 2, and tests).
    """

    analysis: Template
    pattern: Template
    choice: Template


def make_prompts(
    source: LanguageModelSource,
    instruction: str,
    recommender: str,
    texts: TokenTable | None,
    n_candidates: int,
    max_history: int,
    n_vectors: int,
) -> Prompts:
    """The prompts of an experiment.

    Args:
        source: the language model.
        instruction: the first words.
        recommender: the name of the imitated one.
        texts: the items' texts by internal id; None: each item is a slot.
        n_candidates, max_history: the most items.
        n_vectors: how many learned vectors.
    """
    tokenizer = source.tokenizer
    opening, closing = special_tokens(tokenizer)
    # A T5's tokenizer drops line ends, and unlabelled titles would run together.
    separator = tokens_of(tokenizer, "\n") or tokens_of(tokenizer, "; ")
    shown = {"slots": texts is None, "texts": texts, "separator": separator}
    numbers = TokenTable.of(tokenizer, [f"({place})" for place in range(1, max_history + 1)])
    labels = TokenTable.of(tokenizer, [f"({label})" for label in candidate_labels(n_candidates)])
    items = partial(Items, **shown)

    def words(text: str) -> Words:
        return Words(tokens_of(tokenizer, text))

    pattern = f"{instruction}\n\nThe recommendation pattern of {recommender} is "
    front = [Words(opening + tokens_of(tokenizer, pattern)), Soft(0, n_vectors)]
    history = [words("\n\nHistory:\n"), items(HISTORY, labels=numbers, most=max_history)]
    missing = words("\n\nAfter one that is missing came:\n")
    # A causal model answers behind these words, an encoder-decoder behind nothing.
    last = closing if source.kind == ENCODER_DECODER else ()
    back = [
        words("\n\nCandidates:\n"),
        items(CANDIDATES, labels=labels, candidates=True),
        Words(tokens_of(tokenizer, LAST_WORDS) + last),
    ]
    example = [words("\n\nAn example. History:\n"), items(BEGINNING), missing, items(FOLLOWING)]
    example += [words("\n\nMissing was:\n"), items(ANSWERED)]
    places = [words(f"\n\n{recommender} ranks behind its first:\n"), items(PLACES)]

    def template(*middle: Segment) -> Template:
        return Template((*front, *middle, *back), source.context_length)

    return Prompts(
        analysis=template(*example, *history, missing, items(NEXT)),
        pattern=template(*history, *places),
        choice=template(*history),
    )


def check_prompts(
    source: LanguageModelSource,
    prompts: Prompts,
    n_candidates: int,
    titles: TokenTable | None = None,
) -> None:
    """Raise ValueError if candidates with long texts and one item of each kind do not fit the context,
    or the language model does not know the words.

    Args:
        titles: the items' texts as they are answered; a causal model reads each behind the prompt.
    """
    behind = []
    if titles is not None and source.kind != ENCODER_DECODER:
        behind = [Items(_TITLE, texts=titles, candidates=True)]
    for template in (prompts.analysis, prompts.pattern, prompts.choice):
        segments = [part for part in template.segments if isinstance(part, Items)]
        texts = segments[0].texts
        lengths = np.zeros(n_candidates + 1) if texts is None else texts.lengths
        longest = np.argsort(-lengths[1:], kind="stable")[:n_candidates] + 1
        values = {part.name: [longest if part.candidates else longest[:1]] for part in segments}
        if behind:
            values[_TITLE] = [np.array([titles.lengths.argmax()])]
        whole = replace(template, segments=(*template.segments, *behind))
        check_prompt(source, whole, values)
