"""A prompt as a template of segments, and batches of prompts made from it.

Where a prompt is longer than the context, what goes first is the oldest item of a history, item by item
until one is left; then the end of a field that is cut (see ``Field.keep``). Where there are several
histories or fields, the one that stands first in the template is cut first. Words, learned vectors and
candidates are never cut: a prompt that does not fit without them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.language_model.prompts.ragged import Ragged
from recbole_tslrec.language_model.prompts.segments import (
    Field,
    Items,
    Positions,
    Soft,
    Words,
    tokens_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "answer"  # the name of what is answered, where it stands in the prompt

Segment = Words | Soft | Field | Items
Values = Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Template:
    """Segments in order, with the tokenizer's special tokens among them as words.

    Attributes:
        segments: words and learned vectors, the same in every prompt; items and fields, which a
            batch's values fill by their names.
        context_length: the most positions of a prompt.
        shared_prefix: whether what leads and is the same in every prompt stands once beside a batch
            instead of in each of its prompts; see ``shared_prefix.can_share_prefix``.
    """

    segments: tuple[Segment, ...]
    context_length: int
    shared_prefix: bool = False

    @cached_property
    def leading(self) -> tuple[Words | Soft, ...]:
        """The segments that lead and are the same in every prompt."""
        fixed = [isinstance(segment, Words | Soft) for segment in self.segments]
        return self.segments[: (fixed + [False]).index(False)]

    @property
    def n_leading(self) -> int:
        """The positions of ``leading``."""
        return sum(segment.size for segment in self.leading)

    @cached_property
    def _rows(self) -> list[str]:
        """The arrays of rows that a batch has beside its token ids."""
        has_slots = any(isinstance(part, Items) and part.slots for part in self.segments)
        has_soft = any(isinstance(part, Soft) for part in self.segments)
        numbered = any(isinstance(part, Items) and part.numbered for part in self.segments)
        return ["item_rows"] * has_slots + ["soft_rows"] * has_soft + ["item_numbers"] * numbered

    def lengths(self, values: Values) -> np.ndarray:
        """The positions of the prompts themselves, a shared prefix not counted. [B]

        Args:
            values: as for ``batch``; any number of examples.
        """
        _, sizes = self._filled(self.segments, values)
        own = sizes.sum(axis=0)
        return own - self.n_leading if self.shared_prefix else own

    def batch(self, values: Values) -> dict[str, Tensor]:
        """Prompts, padded on the right.

        Args:
            values: by the segments' names, one array an example: of items their rows in the item
                table, oldest first; of a field its token ids.

        Returns:
            ``token_ids`` [B, T] int64, 0 where the position is no word; ``attention_mask`` [B, T]
            int64, 0 at padding; if the template has slots, ``item_rows`` [B, T] int64, -1 where the
            position is none; if it has learned vectors, ``soft_rows`` likewise; if items are numbered,
            ``item_numbers``, -1 where a position belongs to none. With a shared prefix, T counts what
            follows it; ``prefix_ids`` [P] and ``prefix_soft_rows`` [P] int64 hold it.

        Raises:
            ValueError: a prompt does not fit the context with all cut that may be cut.
        """
        filled, sizes = self._filled(self.segments, values)
        if not self.shared_prefix or not self.n_leading:
            return _tensors(self._laid_out(self.segments, filled, sizes))
        n_shared = len(self.leading)
        batch = self._laid_out(self.segments[n_shared:], filled[n_shared:], sizes[n_shared:])
        prefix = self._laid_out(self.leading, filled[:n_shared], sizes[:n_shared, :1])
        own = {"token_ids", "soft_rows"} & prefix.keys()  # there are no slots, and no padding
        return _tensors(batch | _as_prefix({name: prefix[name][0] for name in own}))

    def continued(self, values: Values, by: str) -> dict[str, Tensor]:
        """One prefix an example, and a prompt that goes on from it for each of its candidates.

        What stands before the candidate is computed once an example (LLM-TRSR). It is cut so
        that the longest candidate fits.

        Args:
            values: as for ``batch``; those of ``by`` are candidates, each of which stands alone.
            by: the name of the items that vary within an example; fixed segments alone follow them.

        Returns:
            of what follows the prefixes ``token_ids``, ``item_rows``, ``soft_rows`` and
            ``attention_mask`` [N, T] as ``batch`` has them, N being the candidates of all examples in
            their order, padded on the right; ``prefix_of`` [N] int64, the example of each; of the
            prefixes the same, [B, P], with ``prefix_`` before their names (``prefix_ids``,
            ``prefix_item_rows``, ``prefix_soft_rows``, ``prefix_mask``), padded on the left.
        """
        at = [getattr(segment, "name", None) for segment in self.segments].index(by)
        front, back = self.segments[:at], self.segments[at:]
        candidates = back[0].read(values[by])
        single = Ragged(candidates.flat, np.ones_like(candidates.flat))
        filled = [single, *[None] * (len(back) - 1)]
        sizes = _sizes(back, filled, len(single.counts))
        own, prefix_of = sizes.sum(axis=0), np.repeat(np.arange(len(values[by])), candidates.counts)
        longest = np.zeros(len(values[by]), dtype=np.int64)
        np.maximum.at(longest, prefix_of, own)
        batch = self._laid_out(back, filled, sizes) | {"prefix_of": prefix_of}
        filled, sizes = self._filled(front, values, taken=longest)
        return _tensors(batch | _as_prefix(self._laid_out(front, filled, sizes, pad="left")))

    def _filled(
        self, segments: Sequence[Segment], values: Values, taken: np.ndarray | int = 0
    ) -> tuple[list[Ragged | None], np.ndarray]:
        """What a batch's values put into segments, cut to the context, and the positions they take.

        Args:
            taken: positions of the context that others take.

        Returns:
            of each segment its values, None for fixed ones; sizes [segments, B].
        """
        filled = [
            None if isinstance(segment, Words | Soft) else segment.read(values[segment.name])
            for segment in segments
        ]
        n_prompts = len(next(iter(values.values())))
        sizes = _sizes(segments, filled, n_prompts)
        room = self.context_length - taken - sizes.sum(axis=0)
        for number in _in_order_of_cutting(segments):
            if room.min(initial=0) >= 0:
                break
            filled[number] = segments[number].cut(filled[number], sizes[number] + room)
            left = segments[number].sizes(filled[number])
            room += sizes[number] - left
            sizes[number] = left
        if room.min(initial=0) < 0:
            raise ValueError(
                f"the prompt: its words and candidates, and one item of a history, take "
                f"{self.context_length - room.min()} positions, and the language model's context "
                f"has {self.context_length}. Shorten the words or the items' texts, or give fewer "
                f"candidates{self._or_vectors()}."
            )
        return filled, sizes

    def _or_vectors(self) -> str:
        """What else may be fewer where a prompt is too long."""
        return " or learned vectors" if "soft_rows" in self._rows else ""

    def _laid_out(
        self,
        segments: Sequence[Segment],
        filled: Sequence[Ragged | None],
        sizes: np.ndarray,
        pad: str = "right",
    ) -> Positions:
        """Some of the segments beside each other in every prompt, [B, T] each."""
        total = sizes.sum(axis=0)
        width = int(total.max(initial=0))
        position = np.arange(width)[None, :]
        start = width - total if pad == "left" else np.zeros_like(total)
        mask = _between(position, start, start + total)
        arrays = {"token_ids": np.zeros(mask.shape, dtype=np.int64)}
        arrays |= {name: np.full(mask.shape, -1, dtype=np.int64) for name in self._rows}
        for segment, values, size in zip(segments, filled, sizes, strict=True):
            written = segment.positions() if values is None else segment.positions(values)
            end = start + size
            if (
                values is None and start.size and (start == start[0]).all()
            ):  # as the words at the front
                within = np.s_[:, start[0] : end[0]]
            else:
                within = _between(position, start, end)
                if values is None:
                    written = {name: np.tile(own, len(total)) for name, own in written.items()}
            for name, own in written.items():
                arrays[name][within] = own
            start = end
        return arrays | {"attention_mask": mask.astype(np.int64)}


def make_template(
    tokenizer: PreTrainedTokenizerBase, segments: Sequence[Segment], context_length: int
) -> Template:
    """A template with the tokenizer's special tokens around the whole prompt."""
    opening, closing = special_tokens(tokenizer)
    around = [Words(opening), *segments, Words(closing)]
    kept = [segment for segment in around if not isinstance(segment, Words) or segment.ids]
    return Template(tuple(kept), context_length)


def special_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str = "a"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text: [CLS] and [SEP] for BERT, <s> for Llama."""
    bare = tokens_of(tokenizer, text)
    whole = tuple(tokenizer(text)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return (), ()


def answers_in_context(
    tokenizer: PreTrainedTokenizerBase, words: str, answers: Sequence[str]
) -> list[int]:
    """The token ids that answers such as letters have behind the prompt's last words.

    By themselves they may have others: Llama 2 has ``▁A`` for a text "A", and ``A`` after a new line.

    Args:
        words: the text of the prompt's last segment; none for an encoder-decoder, which begins to
            answer with nothing before it.
        answers: one token each.

    Raises:
        ValueError: an answer takes several tokens there, or changes those before it, or two are equal.
    """
    before = tokens_of(tokenizer, words)
    ids = []
    for answer in answers:
        with_answer = tokens_of(tokenizer, words + answer)
        if with_answer[:-1] != before:
            raise ValueError(
                f"the prompt: behind [{words}] the tokenizer does not give the answer [{answer}] one "
                f"token of its own. End the prompt with a new line, or give other answers."
            )
        ids.append(with_answer[-1])
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"the prompt: the tokenizer gives the same token to two of the answers {list(answers)} "
            f"behind [{words}]. Give other answers."
        )
    return ids


def _in_order_of_cutting(segments: Sequence[Segment]) -> list[int]:
    """The histories, then the fields."""
    numbered = list(enumerate(segments))
    return [
        number for number, part in numbered if isinstance(part, Items) and not part.candidates
    ] + [number for number, part in numbered if isinstance(part, Field) and part.keep is not None]


def _sizes(
    segments: Sequence[Segment], filled: Sequence[Ragged | None], n_prompts: int
) -> np.ndarray:
    """The positions of each segment in each prompt. [segments, B]"""
    sizes = np.empty((len(segments), n_prompts), dtype=np.int64)
    for number, (segment, values) in enumerate(zip(segments, filled, strict=True)):
        sizes[number] = segment.size if values is None else segment.sizes(values)
    return sizes


def _between(position: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where a prompt's positions are from its start to before its end. [B, T]"""
    return (position >= start[:, None]) & (position < end[:, None])


def _as_prefix(arrays: Positions) -> Positions:
    """The same under the names that a prefix's have."""
    return {
        f"prefix_{name.removeprefix('token_').removeprefix('attention_')}": array
        for name, array in arrays.items()
    }


def _tensors(arrays: Positions) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def with_answer(template: Template) -> Template:
    """The prompt with what is answered, as the values of ``ANSWER``: for a loss over it."""
    return replace(template, segments=(*template.segments, Field(ANSWER, keep=None)))


def largest_token(template: Template) -> int:
    """The largest id among the words of a template and of the texts of its items."""
    found = [0]
    for segment in template.segments:
        if isinstance(segment, Words):
            found += segment.ids
        elif isinstance(segment, Items):
            tables = (segment.texts, segment.labels)
            found += [int(table.tokens.max(initial=0)) for table in tables if table is not None]
            found += segment.separator
    return max(found)
