"""The prompts of published paradigms as templates, read as text."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recbole_tslrec.language_model.prompts.segments import (
    Field,
    Items,
    Soft,
    TokenTable,
    Words,
    tokens_of,
)
from recbole_tslrec.language_model.prompts.template import make_template

TITLES = ["", "nail file", "soap", "hand cream", "comb"]


@pytest.fixture(scope="module")
def tokenizer():
    """Knows single letters and marks: what it reads can be written again, letter by letter."""
    signs = sorted(set("abcdefghijklmnopqrstuvwxyzABC0123456789()[]:;,.\n?_ "))
    vocabulary = {sign: number for number, sign in enumerate(["<unk>", *signs])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def read(tokenizer, batch: dict[str, torch.Tensor], row: int = 0) -> str:
    """A prompt as text: slots as <3>, learned vectors as {0}."""
    found = []
    for position in range(int(batch["attention_mask"][row].sum())):
        parts = {name: int(part[row, position]) for name, part in batch.items()}
        if parts.get("item_rows", -1) >= 0:
            found.append(f"<{parts['item_rows']}>")
        elif parts.get("soft_rows", -1) >= 0:
            found.append(f"{{{parts['soft_rows']}}}")
        else:
            found.append(tokenizer.convert_ids_to_tokens(parts["token_ids"]))
    return "".join(found)


def words(tokenizer, text: str) -> Words:
    return Words(tokens_of(tokenizer, text))


@pytest.mark.parametrize(
    ("slots", "with_text", "first"),
    [(False, True, "nail f"), (True, False, "<1>"), (True, True, "<1>nail f")],
)
def test_llamarec(tokenizer, slots, with_text, first):
    """ArXiv 2311.02089, §3.2: numbered titles, cut, and candidates under letters."""
    shown = {
        "slots": slots,
        "texts": TokenTable.of(tokenizer, TITLES, most=6) if with_text else None,
        "separator": tokens_of(tokenizer, " \n "),
    }
    numbers = TokenTable.of(tokenizer, ["(1) ", "(2) "])
    letters = TokenTable.of(tokenizer, ["(A) ", "(B) ", "(C) "])
    segments = [
        words(tokenizer, "user history: "),
        Items("history", labels=numbers, most=2, **shown),
        words(tokenizer, "; \ncandidate pool: "),
        Items("candidates", labels=letters, candidates=True, **shown),
        words(tokenizer, "\nanswer:\n"),
    ]
    values = {"history": [np.array([2, 4, 1])], "candidates": [np.array([1, 2, 1])]}
    soap, comb = (("<2>" * slots + "soap" * with_text), ("<4>" * slots + "comb" * with_text))
    assert read(tokenizer, make_template(tokenizer, segments, 500).batch(values)) == (
        f"user history: (1) {comb} \n (2) {first}; \n"
        f"candidate pool: (A) {first} \n (B) {soap} \n (C) {first}\nanswer:\n"
    )


def test_llm_trsr(tokenizer):
    """ArXiv 2403.13325, §4.3: too long a summary is cut, never the candidate behind it."""
    titles = TokenTable.of(tokenizer, TITLES)
    segments = [
        words(tokenizer, "[summary] "),
        Field("summary", most=9),
        words(tokenizer, " [history]\n"),
        Items("history", texts=titles, separator=tokens_of(tokenizer, "\n"), most=2),
        words(tokenizer, "\n[next] "),
        Items("candidate", texts=titles, candidates=True),
        words(tokenizer, "\nyes or no?"),
    ]
    summary = np.array(tokens_of(tokenizer, "likes soap a lot"))
    values = {"summary": [summary], "history": [np.array([4, 1, 3])], "candidate": [np.array([2])]}
    template = make_template(tokenizer, segments, 500)
    ending = "\n[next] soap\nyes or no?"
    assert read(tokenizer, template.batch(values)) == (
        f"[summary] likes soa [history]\nnail file\nhand cream{ending}"
    )
    short = make_template(tokenizer, segments, 59)
    assert read(tokenizer, short.batch(values)) == (
        f"[summary] likes [history]\nhand cream{ending}"
    )


def test_delrec(tokenizer):
    """ArXiv 2406.11156: learned vectors among the words, histories of several parts of a sequence."""
    titles = {"texts": TokenTable.of(tokenizer, TITLES), "separator": tokens_of(tokenizer, ", ")}
    segments = [
        words(tokenizer, "its pattern is "),
        Soft(0, 3),
        words(tokenizer, ". watched "),
        Items("first", **titles),
        words(tokenizer, ", _, next "),
        Items("later", **titles),
        words(tokenizer, ". candidates: "),
        Items("candidates", candidates=True, **titles),
    ]
    template = make_template(tokenizer, segments, 500)
    values = {
        "first": [np.array([1, 2]), np.array([3])],
        "later": [np.array([4]), np.array([1])],
        "candidates": [np.array([3, 1]), np.array([2, 4])],
    }
    batch = template.batch(values)
    assert read(tokenizer, batch, 0) == (
        "its pattern is {0}{1}{2}. watched nail file, soap, _, next comb. "
        "candidates: hand cream, nail file"
    )
    assert read(tokenizer, batch, 1) == (
        "its pattern is {0}{1}{2}. watched hand cream, _, next nail file. candidates: soap, comb"
    )


def test_pod(tokenizer):
    """POD (CIKM 2023): a task's vectors in front, then user and items by number, without words."""
    codes = TokenTable.of(tokenizer, [f"item_{1000 + row}" for row in range(5)])
    segments = [
        Soft(3, 2),  # the second task's
        Field("user"),
        Items("history", texts=codes, separator=tokens_of(tokenizer, " ")),
    ]
    values = {
        "user": [np.array(tokens_of(tokenizer, "user_7 "))],
        "history": [np.array([4, 2])],
    }
    batch = make_template(tokenizer, segments, 512).batch(values)
    assert read(tokenizer, batch) == "{3}{4}user_7 item_1004 item_1002"
