"""What the training loop for language models is handed, and what it gives back.

A paradigm describes what it learns as a ``Task`` and hands its model over as a ``Learner``; the loop
(``training.py``) knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Learner(Protocol):
    """A model as the loop takes it: an ``nn.Module`` with these.

    Called with a batch it returns tensors [B] by name: ``error``, each example's term of the loss, and
    metrics for held-out examples. What ``save`` leaves out does not change in training.
    """

    reader: nn.Module  # which gets the prompts, for the meter

    def __call__(self, **batch: Tensor) -> dict[str, Tensor]: ...

    def save(self, folder: Path) -> None:
        """Write what is trained into a folder."""

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote."""


class Examples(Protocol):
    """Examples by number; each is what the task's ``collate`` takes.

    If they have a method ``set_epoch(epoch)``, it is called before each epoch, with its number from 0
    on: what an example draws at random must follow from that, and from no generator that a resumed
    training would find elsewhere.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


@dataclass(frozen=True)
class HeldOut:
    """Examples that are not learned from, to stop by and to choose the epoch.

    Attributes:
        examples: as the task's.
        batch_size: examples in a batch.
    """

    examples: Examples
    batch_size: int


def listed(metrics: Mapping[str, float]) -> str:
    """Metrics for a log line."""
    return ", ".join(f"{name}: {value:.4f}" for name, value in metrics.items())


@dataclass(frozen=True)
class Task:
    """What a language model is to learn, and by what its best epoch is known.

    Attributes:
        name: for log lines, error messages and TensorBoard's curves.
        unit: what an example is, in the plural.
        learning_rate_key: the key of the settings that an error names.
        examples: what is learned from.
        lengths: the positions of every example, [n] int; what a batch shares is not counted.
        collate: from a list of examples to the model's arguments, tensors [B, ...] by name.
        more_positions: positions that are computed besides for each batch, and for each example.
        least_examples: the fewest in a process's share of a batch, over the budget if need be; 0: it may
            be empty, and batches are the same whatever the number of processes.
        positions_of: the positions that a batch of examples takes, by their numbers; None: what their
            lengths come to when all are as long as the longest.
        validation: held-out examples, or a function that is called after an epoch, in the first process
            alone, with the epoch's number from 1 on and returns metrics; None: the last epoch is kept.
        metric: the metric that chooses the epoch.
        larger_is_better: whether it is to be large.
        describe: a line on an epoch's metrics.
    """

    name: str
    unit: str
    learning_rate_key: str
    examples: Examples
    lengths: np.ndarray
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    more_positions: tuple[int, int] = (0, 0)
    least_examples: int = 0
    positions_of: Callable[[np.ndarray], int] | None = None
    validation: HeldOut | Callable[[int], Mapping[str, float]] | None = None
    metric: str = "error"
    larger_is_better: bool = False
    describe: Callable[[Mapping[str, float]], str] = listed

    @property
    def tag(self) -> str:
        """The name as TensorBoard's curves have it."""
        return self.name.lower().replace("-", "_")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        epochs: at the most.
        learning_rate: the highest.
        batch_positions: positions of a batch, padding included.
        optimizer: one of the values of the key ``sft_optimizer``.
        stopping_step: epochs without a better metric before training stops.
        seed: of the batches and of dropout.
        schedule: ``linear``, which falls to 0 after a warm-up over the first 5 %, or ``constant``.
        weight_decay: of AdamW, for all weights but biases and norms.
    """

    epochs: int
    learning_rate: float
    batch_positions: int
    optimizer: str
    stopping_step: int
    seed: int
    schedule: str = "linear"
    weight_decay: float = 0.0

    @classmethod
    def of(cls, config, **more: Any) -> TrainingSettings:
        """Those of the keys ``sft_*``, and RecBole's seed; ``more`` as the class takes them."""
        return cls(
            epochs=config["sft_epochs"],
            learning_rate=config["sft_learning_rate"],
            batch_positions=config["sft_batch_positions"],
            optimizer=config["sft_optimizer"],
            stopping_step=config["sft_stopping_step"],
            seed=config["seed"],
            **more,
        )


@dataclass
class Epoch:
    """What an epoch came to.

    Attributes:
        number: from 1 on.
        loss: the mean over the examples that were learned from; of an epoch that was gone on with, over
            those after the interruption.
        metrics: of the validation; none without.
    """

    number: int
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainingReport:
    """The course of a training, and what it cost (``Meter.cost``)."""

    epochs: list[Epoch]
    cost: dict[str, Any]

    def best(self, task: Task) -> Epoch:
        """The epoch whose weights the model holds: the first of the best, or the last of all."""
        if task.validation is None:
            return self.epochs[-1]
        sign = 1 if task.larger_is_better else -1
        return max(self.epochs, key=lambda epoch: sign * epoch.metrics[task.metric])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> TrainingReport:
        """What ``as_dict`` gave, maybe read from json."""
        return cls([Epoch(**epoch) for epoch in stored["epochs"]], stored["cost"])
