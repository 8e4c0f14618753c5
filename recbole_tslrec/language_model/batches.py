"""Batches of prompts with a budget of positions, formed by length (no user is padded far)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from logging import getLogger
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from recbole_tslrec.language_model.prompts.template import Template, Values
from recbole_tslrec.language_model.task import Examples, Task, TrainingSettings
from recbole_tslrec.store import processes

_EXAMPLES_AT_ONCE = 4096


class PositionBudgetSampler(Sampler[list[tuple[int, float]]]):
    """Batches of examples of like length that together fill a budget of positions.

    Lengths are rounded up to a grid of about 12 %, examples are shuffled within a grid step, and
    batches are cut from short to long, then shuffled. So an epoch always has the same number of
    batches, whatever the shuffling, and what shares a batch changes from epoch to epoch.

    With several processes each takes its share of every batch, so that a step is the same step
    whatever their number. Shares are of equal size: some may be filled up by an example of weight 0.

    Args:
        lengths: the positions of every example, [n] int, above 0.
        budget: the most positions of a batch, padding included; an example that is longer is a batch
            by itself, or with others until there are ``least``.
        seed: the same seed and epoch give the same batches.
        process, processes: which share is iterated over.
        tell_epoch: called with each epoch that is chosen, as what an example holds may follow from it.
        least: the fewest examples of a batch, over the budget if need be; 0: as many as fit, or one.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        budget: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        tell_epoch: Callable[[int], None] = lambda epoch: None,
        least: int = 0,
    ):
        self.lengths = np.asarray(lengths)
        self.seed, self.process, self.processes = seed, process, processes
        self.epoch, self._tell_epoch = 0, tell_epoch
        self._grid_lengths = _round_up(self.lengths)
        self._ends = _cut(np.sort(self._grid_lengths), budget, least)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def examples_a_batch(self) -> float:
        """The mean number of examples in a batch."""
        return len(self.lengths) / len(self)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose shuffling the next iteration has."""
        self.epoch = epoch
        self._tell_epoch(epoch)

    def batches(self) -> list[np.ndarray]:
        """The epoch's batches of all processes together, positions in ``lengths``."""
        generator = np.random.default_rng((self.seed, self.epoch))
        shuffled = generator.permutation(len(self.lengths))
        ordered = shuffled[np.argsort(self._grid_lengths[shuffled], kind="stable")]
        batches = np.split(ordered, self._ends[:-1])
        return [batches[number] for number in generator.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """Batches as pairs of an example's number and its weight, 1 or 0."""
        for batch in self.batches():
            share = [(int(example), 1.0) for example in batch[self.process :: self.processes]]
            size = -(-len(batch) // self.processes)
            yield share + [(int(batch[0]), 0.0)] * (size - len(share))

    def positions_an_epoch(self, more: tuple[int, int] = (0, 0)) -> int:
        """The positions computed in an epoch, padding included, and some for each batch and example."""
        a_batch, an_example = more
        padded = sum(len(batch) * int(self.lengths[batch].max()) for batch in self.batches())
        return padded + a_batch * len(self) + an_example * len(self.lengths)

    def padding_share(self) -> float:
        """The share of positions that are padding, over the epoch."""
        return 1 - self.lengths.sum() / self.positions_an_epoch()


def make_batches(task: Task, settings: TrainingSettings) -> tuple[PositionBudgetSampler, int]:
    """The batches of an epoch, and the positions that are computed in it; logs what they are."""
    more = {}
    if hasattr(task.examples, "set_epoch"):
        more["tell_epoch"] = task.examples.set_epoch
    sampler = PositionBudgetSampler(
        task.lengths,
        settings.batch_positions,
        settings.seed,
        processes.number(),
        processes.count(),
        least=task.least_examples * processes.count(),
        **more,
    )
    positions = _positions_an_epoch(task, sampler)
    getLogger(__name__).info(
        f"{task.name} on {len(task.lengths)} {task.unit} in {len(sampler)} batches an epoch, "
        f"{sampler.examples_a_batch:.1f} {task.unit} each; "
        f"{positions:,} positions an epoch, {settings.epochs} "
        f"epochs at most{_of_prompts(task, sampler)}"
    )
    return sampler, positions


def _of_prompts(task: Task, sampler: PositionBudgetSampler) -> str:
    """What there is to say of the batches where an example is a prompt."""
    if task.positions_of is not None:
        return ""
    shared, of_each = task.more_positions
    return (
        f"; {100 * sampler.padding_share():.1f} % of the positions are padding; "
        f"instruction of {shared + of_each} positions "
        f"{'in every prompt' if of_each else 'shared by a batch'}"
    )


def _positions_an_epoch(task: Task, sampler: PositionBudgetSampler) -> int:
    if task.positions_of is None:
        return sampler.positions_an_epoch(task.more_positions)
    return sum(map(task.positions_of, sampler.batches()))


class Weighted(Dataset):
    """Examples with their weights, as the sampler asks for them; without it the weight is 1."""

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, example: int | tuple[int, float]) -> tuple[Any, float]:
        number, weight = example if isinstance(example, tuple) else (example, 1.0)
        return self.examples[number], weight


class Batches(DataLoader):
    """torch's loader, which passes the epoch on to the sampler of batches.

    Where training goes on within an epoch, transformers puts another loader in its place and tells the
    epoch to the sampler alone. So it is the sampler that tells the examples.
    """

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def own_lengths(template: Template, values: Values) -> np.ndarray:
    """The positions of prompts without the instruction, so that batches are the same however it is read.

    Args:
        values: as ``Template.lengths`` takes them.

    Returns:
        [n] int.
    """
    return replace(template, shared_prefix=True).lengths(values)


def instruction_positions(template: Template) -> tuple[int, int]:
    """The positions of the leading words: for each batch, for each prompt."""
    return (template.n_leading, 0) if template.shared_prefix else (0, template.n_leading)


def lengths_in_blocks(
    examples: Examples, lengths: Callable[[Sequence[Any]], np.ndarray]
) -> np.ndarray:
    """The positions of every example's prompt, so many prompts at a time as memory holds. [n]

    Args:
        examples: n, at least one.
        lengths: the positions of some examples' prompts.
    """
    blocks = np.array_split(np.arange(len(examples)), -(-len(examples) // _EXAMPLES_AT_ONCE))
    return np.concatenate([lengths([examples[number] for number in block]) for block in blocks])


def of_like_length(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Batches for an evaluation, from short to long.

    Args:
        lengths: the positions of every prompt, [n] int, above 0.
        budget: the most positions of a batch, padding included; a longer prompt is one by itself.

    Returns:
        places in ``lengths``, each in one batch.
    """
    order = np.argsort(lengths, kind="stable")
    return np.split(order, _cut(lengths[order], budget)[:-1])


def _round_up(lengths: np.ndarray) -> np.ndarray:
    """To multiples of an eighth of the power of two below: 1..16, 18, 20, ..., 32, 36, ..."""
    step = 2 ** np.maximum(np.floor(np.log2(lengths)).astype(int) - 3, 0)
    return -(-lengths // step) * step


def _cut(ascending: np.ndarray, budget: int, least: int = 0) -> np.ndarray:
    """Where batches end in examples that are sorted by length; each has ``least`` or more."""
    ends, start = [], 0
    while start < len(ascending):
        # The longest of a batch is its last, so count * length is ascending as well.
        candidates = ascending[start : start + budget // ascending[start] + 1]
        positions = candidates * np.arange(1, len(candidates) + 1)
        fitting = int(np.searchsorted(positions, budget, side="right"))
        start = min(start + max(fitting, least, 1), len(ascending))
        ends.append(start)
    if len(ends) > 1 and ends[-1] - ends[-2] < least:  # the last takes from the one before, or all
        before, border = ends[-3] if len(ends) > 2 else 0, ends[-1] - least
        ends[-2:-1] = [border] if border - before >= least else []
    return np.array(ends, dtype=np.int64)
