"""Sequences of different lengths, one after the other in one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """Several sequences of whole numbers.

    Attributes:
        flat: all of them, one after the other, [n] int64.
        counts: how long each is, [B] int64; sums to n.
    """

    flat: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(
        cls, sequences: Sequence[np.ndarray], most: int | None = None, keep: str = "end"
    ) -> Ragged:
        """The sequences, of each the ``most`` numbers at its ``end`` or ``start``."""
        if most is not None:
            kept = slice(-most, None) if keep == "end" else slice(most)
            sequences = [sequence[kept] for sequence in sequences]
        counts = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        flat = np.concatenate(sequences) if len(sequences) else counts
        return cls(flat.astype(np.int64, copy=False), counts)

    def positions(self) -> np.ndarray:
        """The place of each number within its own sequence, from 0. [n]"""
        return spans(np.zeros_like(self.counts), self.counts)

    def cut(self, counts: np.ndarray, keep: str) -> Ragged:
        """Of each sequence no more than ``counts`` numbers, those at its ``end`` or ``start``."""
        counts = np.minimum(counts, self.counts)
        starts = np.cumsum(self.counts) - (counts if keep == "end" else self.counts)
        return Ragged(self.flat[spans(starts, counts)], counts)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of ``values``, one a number, over each sequence. [n] -> [B]"""
        running = np.concatenate([[0], np.cumsum(values)])
        ends = np.cumsum(self.counts)
        return running[ends] - running[ends - self.counts]


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``starts[0]``, ``starts[0] + 1``, … for ``lengths[0]`` numbers, then the same of the next."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
