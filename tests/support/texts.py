"""Titles for the items of the small data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import WORDS


def write_texts(name: str = "small", n_items: int = 30, seed: int = 0) -> dict[str, str]:
    """A title of a few words that the small tokenizer knows for every item ``i0``, ``i1``, …"""
    generator = np.random.default_rng(seed)
    texts = {
        f"i{item}": " ".join(generator.choice(WORDS, size=generator.integers(1, 6)))
        for item in range(n_items)
    }
    return _write(texts, name)


def write_titles_of_two_words(first: str, second: str) -> dict[str, str]:
    """Titles that differ in the number behind a word: the first of half of the items, and the second."""
    return _write({f"i{n}": f"{first if n < 15 else second} n{n}" for n in range(30)}, "small")


def _write(texts: dict[str, str], name: str) -> dict[str, str]:
    rows = [f"{item}\t{text}" for item, text in texts.items()]
    path = Path("data") / name / f"{name}.item"
    path.write_text("\n".join(["item_id:token\ttitle:token_seq", *rows]) + "\n", encoding="utf-8")
    return texts
