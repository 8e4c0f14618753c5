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
    rows = [f"{item}\t{text}" for item, text in texts.items()]
    path = Path("data") / name / f"{name}.item"
    path.write_text("\n".join(["item_id:token\ttitle:token_seq", *rows]) + "\n", encoding="utf-8")
    return texts
