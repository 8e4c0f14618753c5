"""The two sides of the efficiency experiment, and the prompts and batches that each computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch.nn import functional as F

from recbole_tslrec.language_model.batches import PositionBudgetSampler
from recbole_tslrec.language_model.prompt import Prompt

# Words around the history; their numbers are those of the two papers' instructions in Llama's tokens.
_BEFORE = {"TSLRec": 20, "E4SRec": 16}
_AFTER = 3
_INFERENCE_POSITIONS = 8192  # of a batch, both sides


@dataclass(frozen=True)
class Scale:
    """What the experiment is to measure.

    Attributes:
        train_lengths: items in every user's training history, [n_users] int.
        test_lengths: items that are known of every test user, [n_test_users] int.
        n_items: items of the data set, without padding.
        size: the language model, a name in ``random_model.SIZES`` or a folder with its config.
        quantization: as the key ``llm_quantization``.
        batch_positions: as the key ``sft_batch_positions``, for both sides.
        max_history: the most items in a prompt.
        most_examples: the most examples of a user of E4SRec.
        device: where to run.
        seed: of the batches and of the weights.
    """

    train_lengths: np.ndarray
    test_lengths: np.ndarray
    n_items: int
    size: str
    quantization: str = "none"
    batch_positions: int = 1024
    max_history: int = 50
    most_examples: int = 50
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Way:
    """One bar: a side, a part of it, and how its prompts are computed."""

    side: str  # TSLRec or E4SRec
    part: str  # training or inference
    means: str  # one of MEANS

    @property
    def name(self) -> str:
        return f"{self.side} {self.part}, {self.means}"


PADDED_TO_MOST, PADDED_BY_BATCH, BY_LENGTH, SHARED = (
    "whole prompts, padded to the longest of all",
    "whole prompts, padded by batch",
    "whole prompts, by length",
    "shared prefix, by length",
)
WAYS = (
    Way("TSLRec", "training", SHARED),
    Way("TSLRec", "inference", SHARED),
    Way("E4SRec", "training", SHARED),
    Way("E4SRec", "inference", SHARED),
    Way("TSLRec", "training", BY_LENGTH),
    Way("TSLRec", "training", PADDED_BY_BATCH),
    Way("TSLRec", "training", PADDED_TO_MOST),
    Way("TSLRec", "inference", BY_LENGTH),
)


def interaction_lengths(train_lengths: np.ndarray, most: int) -> np.ndarray:
    """The items before each target that E4SRec trains on: the latest ``most`` of every user.

    Args:
        train_lengths: [n_users] int; a history of n items has n - 1 targets.

    Returns:
        [n_examples] int, 1 or more each.
    """
    n_examples = np.minimum(train_lengths - 1, most)
    first_of_user = np.repeat(np.cumsum(n_examples) - n_examples, n_examples)
    age = np.arange(n_examples.sum()) - first_of_user  # 0 for the latest
    return np.repeat(train_lengths - 1, n_examples) - age


def history_lengths(way: Way, scale: Scale) -> np.ndarray:
    """The items in each of a way's prompts, before ``max_history`` cuts them."""
    if way.side == "TSLRec":
        training, inference = scale.train_lengths, np.ones(scale.n_items, dtype=np.int64)
    else:
        training = interaction_lengths(scale.train_lengths, scale.most_examples)
        inference = scale.test_lengths
    return training if way.part == "training" else inference


def batches_of(way: Way, scale: Scale) -> list[np.ndarray]:
    """A way's batches, as positions in ``history_lengths``."""
    lengths = np.minimum(history_lengths(way, scale), scale.max_history)
    if way.part == "inference":  # as many positions as memory allows, whatever they are of
        computed = prompt_of(way, scale).lengths(lengths)
        return PositionBudgetSampler(computed, _INFERENCE_POSITIONS, scale.seed).batches()
    sampler = PositionBudgetSampler(lengths + _AFTER, scale.batch_positions, scale.seed)
    if way.means in (SHARED, BY_LENGTH):
        return sampler.batches()
    # As many prompts in a batch on average, in any order.
    shuffled = np.random.default_rng(scale.seed).permutation(len(lengths))
    return np.array_split(shuffled, len(sampler))


def prompt_of(way: Way, scale: Scale) -> Prompt:
    """A prompt of as many words as the side's instruction has; which words does not matter."""
    before = tuple(range(1, 1 + _BEFORE[way.side]))
    return Prompt(before, (1,) * _AFTER, scale.max_history, shared_prefix=way.means == SHARED)


def computed_positions(way: Way, scale: Scale, batches: list[np.ndarray]) -> tuple[int, int]:
    """Positions that a way's batches compute, and those of them that are no padding."""
    prompt = prompt_of(way, scale)
    lengths = prompt.lengths(history_lengths(way, scale))
    once = len(prompt.before) if prompt.shared_prefix else 0
    longest = int(prompt.lengths(np.array([scale.max_history]))[0])
    padded = filled = 0
    for batch in batches:
        width = longest if way.means == PADDED_TO_MOST else int(lengths[batch].max())
        padded += len(batch) * width + once
        filled += int(lengths[batch].sum()) + once
    return padded, filled


def prompts_of(way: Way, scale: Scale, batch: np.ndarray, rng: np.random.Generator) -> dict:
    """A batch as the language model takes it, of random items."""
    lengths = history_lengths(way, scale)[batch]
    items = [rng.integers(1, scale.n_items + 1, size=length) for length in lengths]
    prompt = prompt_of(way, scale)
    tensors = prompt.batch(items)
    if way.means == PADDED_TO_MOST:
        longest = int(prompt.lengths(np.array([scale.max_history]))[0])
        missing = longest - tensors["token_ids"].shape[1]
        fill = {"token_ids": 0, "item_rows": -1, "attention_mask": 0}
        tensors = {name: F.pad(tensors[name], (0, missing), value=fill[name]) for name in fill}
    return {name: tensor.to(scale.device) for name, tensor in tensors.items()}
