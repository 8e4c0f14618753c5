"""What a part of a paradigm asks of a language model, so that a sample of it can be timed.

A training epoch, a stage, a test: whoever makes it says in which batches, and computes one as it would
in earnest. Who measures knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.language_model.batches import PositionBudgetSampler
from recbole_tslrec.language_model.meter import Meter

if TYPE_CHECKING:
    from recbole_tslrec.language_model.task import Learner, Task


class When(Enum):
    """How often a part is computed."""

    EPOCH = "each epoch"
    ONCE = "once, before"
    INFERENCE = "inference"


@dataclass(frozen=True, eq=False)
class Workload:
    """A part of what a paradigm computes with its language model.

    Attributes:
        part: as a table calls it.
        when: how often it is computed.
        unit: what an example is, in the plural.
        reader: what the prompts pass through.
        batches: of the whole, places of examples.
        weights: what the cost of each batch goes by, [n_batches]: its positions, or its examples where
            these are not known before it is computed.
        run: computes the batch of these places; a meter counts what does not pass through the reader.
        means: how its prompts are computed, where that is not as in earnest; for an ablation.
    """

    part: str
    when: When
    unit: str
    reader: nn.Module
    batches: Sequence[np.ndarray]
    weights: np.ndarray
    run: Callable[[np.ndarray, Meter], None]
    means: str = ""

    @property
    def n_examples(self) -> int:
        return sum(map(len, self.batches))

    @property
    def n_parameters(self) -> int:
        """Of the language model, with what is trained besides."""
        # transformers is slow to import.
        from recbole_tslrec.language_model.load import n_parameters

        return n_parameters(self.reader)


def training_workload(
    part: str,
    task: Task,
    learner: Learner,
    budget: int,
    seed: int,
    means: str = "",
    batches: Sequence[np.ndarray] | None = None,
    longest: int | None = None,
) -> Workload:
    """An epoch of a training: forward, backward and step of each batch.

    Args:
        part, means: as ``Workload`` has them.
        task, learner: as the training loop takes them.
        budget: the positions of a batch.
        seed: of the batches and of dropout.
        batches: in place of those by length; for an ablation.
        longest: the positions to which every prompt is padded; None: the longest of its batch.
    """
    if batches is None:
        least = task.least_examples
        batches = PositionBudgetSampler(task.lengths, budget, seed, least=least).batches()
    a_batch, an_example = task.more_positions
    widths = [int(task.lengths[batch].max()) if longest is None else longest for batch in batches]
    weights = np.array(
        [
            len(batch) * (width + an_example) + a_batch
            for batch, width in zip(batches, widths, strict=True)
        ]
    )
    device = next(learner.reader.parameters()).device
    optimizer = torch.optim.AdamW(
        [weight for weight in learner.parameters() if weight.requires_grad], lr=1e-5
    )

    def run(places: np.ndarray, meter: Meter) -> None:
        learner.train()
        batch = task.collate([task.examples[int(place)] for place in places])
        if longest is not None:
            batch = _padded(batch, longest + an_example)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            error = learner(**_on(device, batch))["error"].mean()
        error.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Workload(part, When.EPOCH, task.unit, learner.reader, batches, weights, run, means)


_FILL = {"token_ids": 0, "item_rows": -1, "item_numbers": -1, "attention_mask": 0}


def _padded(batch: dict[str, Tensor], longest: int) -> dict[str, Tensor]:
    """Prompts filled up on the right to so many positions."""
    missing = longest - batch["token_ids"].shape[1]
    padded = {
        name: nn.functional.pad(batch[name], (0, missing), value=fill)
        for name, fill in _FILL.items()
        if name in batch
    }
    return batch | padded


def _on(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def in_groups(sizes: np.ndarray, examples: int) -> list[np.ndarray]:
    """Places of ``sizes``, so many of like size in a group, from small to large."""
    order = np.argsort(sizes, kind="stable")
    return np.array_split(order, -(-len(order) // examples))


def batch_sizes(batches: Iterable[np.ndarray]) -> np.ndarray:
    """The examples of each batch, for ``Workload.weights``."""
    return np.array([len(batch) for batch in batches])
