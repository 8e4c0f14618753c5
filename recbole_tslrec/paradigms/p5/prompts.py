"""Prompts of users and item codes, and their answers; the sentences are our own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.paradigms.p5.vocabulary import END, PAD, Vocabulary

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Segment, Template

# The first one is that of the tests.
SENTENCES = (
    "here is what {user} has chosen so far : {items} . what comes next ?",
    "{user} took these items in this order : {items} . name the next one .",
    "after {items} , which item will {user} want ?",
    "the history of {user} reads {items} . go on with one item .",
    "what follows {items} for {user} ?",
    "guess the item that {user} picks after {items} .",
    "{items} are the latest items of {user} . recommend another .",
    "continue the list of {user} : {items} ,",
    "given {items} , what should {user} be shown now ?",
    "{user} liked {items} one after the other ; the next is",
)
SEPARATOR = ","


def words_of(sentence: str) -> str:
    """A sentence without what is put into it."""
    return re.sub(r"\{\w+\}", " ", sentence)


class Prompts:
    """Sentences as templates, and batches of prompts and answers made from them.

    Args:
        vocabulary: with the items' codes.
        sentences: with {user}, and {items} or {candidates}, in them.
        separator: the words between two items.
        most_items: the most {items} of a prompt; of more, the most recent enter. All candidates do.
        context_length: the most positions of a prompt.
        leading: by a sentence's number what stands before it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sentences: Sequence[str],
        separator: str,
        most_items: int,
        context_length: int,
        leading: Mapping[int, Segment] | None = None,
    ):
        # transformers is slow to import, and the models are imported with the package.
        from recbole_tslrec.language_model.prompts.segments import Field, Items, TokenTable, Words
        from recbole_tslrec.language_model.prompts.template import Template

        self._answers = vocabulary.answers()
        items = Items(
            "items",
            texts=TokenTable(*vocabulary.items()),
            separator=vocabulary.words(separator),
            most=most_items,
        )
        placed = {"{user}": Field("user"), "{items}": items}
        placed["{candidates}"] = replace(items, most=None, candidates=True)

        def template(number: int, sentence: str) -> Template:
            parts = [part.strip() for part in re.split(r"(\{\w+\})", sentence)]
            segments = [placed.get(part) or Words(vocabulary.words(part)) for part in parts if part]
            before = [leading[number]] if leading and number in leading else []
            return Template((*before, *segments, Words((END,))), context_length)

        self.templates = [template(*numbered) for numbered in enumerate(sentences)]

    def longest_of(self, sentences: Sequence[int]) -> int:
        """The number of the sentence with the most words."""

        def n_words(number: int) -> int:
            return sum(getattr(part, "size", 0) for part in self.templates[number].segments)

        return max(sentences, key=n_words)

    def lengths(self, sentences: np.ndarray, users: np.ndarray, items: Sequence) -> np.ndarray:
        """The positions of prompts, [n] int64; the arguments as ``batch`` takes them."""
        lengths = np.empty(len(sentences), dtype=np.int64)
        for number in np.unique(sentences):
            own = np.flatnonzero(sentences == number)
            values = {"user": users[own], "items": [items[row] for row in own]}
            lengths[own] = self.templates[number].lengths(values)
        return lengths

    def batch(self, sentences: np.ndarray, users: np.ndarray, items: Sequence) -> dict[str, Tensor]:
        """Prompts, padded on the right.

        Args:
            sentences: the number of each prompt's sentence, [B] int64.
            users: their token ids, [B, L] int64.
            items: internal ids, oldest first, one array a prompt.

        Returns:
            ``token_ids`` and ``attention_mask`` [B, T] int64; with learned vectors ``soft_rows`` [B, T].
        """
        parts = {}
        for number in np.unique(sentences):
            own = np.flatnonzero(sentences == number)
            values = {"user": users[own], "items": [items[row] for row in own]}
            parts[number] = (own, self.templates[number].batch(values))
        width = max(part["token_ids"].shape[1] for _, part in parts.values())
        fill = {"token_ids": PAD, "attention_mask": 0, "soft_rows": -1}
        names = {name for _, part in parts.values() for name in part}
        batch = {name: torch.full((len(users), width), fill[name]) for name in sorted(names)}
        for own, part in parts.values():
            for name, tensor in part.items():
                batch[name][torch.from_numpy(own), : tensor.shape[1]] = tensor
        return batch

    def answers(self, items: np.ndarray) -> Tensor:
        """The codes of items as token ids, behind each the end token, -1 behind that.

        Args:
            items: internal ids, [B] int64.

        Returns:
            [B, L] int64.
        """
        codes = np.pad(self._answers[items], ((0, 0), (0, 1)), constant_values=-1)
        codes[np.arange(len(codes)), (codes >= 0).sum(axis=1)] = END
        return torch.from_numpy(codes)

    def collate(
        self, examples: Sequence[tuple[int, np.ndarray, np.ndarray, int]]
    ) -> dict[str, Any]:
        """Examples (sentence, user, items, target) as a ``CodeWriter`` takes them."""
        sentences, users, items, targets = zip(*examples, strict=True)
        prompts = self.batch(np.array(sentences), np.stack(users), items)
        return prompts | {"answer_ids": self.answers(np.array(targets))}
