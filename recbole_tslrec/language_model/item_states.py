"""The hidden states of single items: each alone through a language model, in finished shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.store import processes
from recbole_tslrec.store.duration import Pace
from recbole_tslrec.store.item_tensors import ItemTensors

if TYPE_CHECKING:
    from recbole_tslrec.language_model.meter import Meter
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.language_model.workload import Workload

_STATES = "hidden_state"  # the name of the tensor in a shard

# A step's size in prompt positions, to begin with. It changes the speed, not the result, but for int8
# (docs/determinism.md).
_POSITIONS_A_BATCH = {"cuda": 65_536, "cpu": 8192}
# Items in a file of partial results: what a kill can cost at the most, and what processes share out.
ITEMS_A_SHARD = 1024


def read_items(
    reader: nn.Module,
    prompt: Template,
    tokens: Sequence[str],
    folder: Path,
    doing: str,
    show_progress: bool = True,
    items_a_shard: int = ITEMS_A_SHARD,
) -> Tensor | None:
    """The hidden state of every item, each alone in a prompt.

    Args:
        reader: from a batch of ``prompt`` to one vector each, such as an ``ItemPromptModel``.
        prompt: of histories, see ``make_prompt``.
        tokens: the items' tokens, in the order of the rows of ``reader``'s tables, of which row 0 is
            padding and left out.
        folder: for finished shards; those that are there already are not computed again.
        doing: what the progress bar and the log call it.
        items_a_shard: the items of a shard; several processes share the shards out.

    Returns:
        [n_items - 1, hidden] float32 on the CPU; None in all processes but the first.

    Raises:
        ValueError: a state is NaN or infinite; names items.
    """
    reader.eval()
    rows = np.arange(1, len(tokens) + 1)
    positions = prompt.lengths(of_histories(rows[:, None]))
    shards = np.split(rows, range(items_a_shard, len(rows), items_a_shard))
    files = [folder / f"shard-{number:06d}.safetensors" for number in range(len(shards))]
    mine = range(processes.number(), len(shards), processes.count())
    most = min(items_a_shard, len(rows))
    read = _halving_on_out_of_memory(reader, prompt, int(positions.max()), most, doing)
    total = sum(int(positions[shards[number] - 1].sum()) for number in mine)
    pace, done = Pace(doing), 0
    with tqdm(
        total=total,
        desc=doing,
        unit=" positions",
        unit_scale=True,
        disable=not show_progress,
    ) as bar:
        for number in mine:
            # Tied to the items by token: the run that goes on may number them otherwise.
            items = [tokens[row - 1] for row in shards[number]]
            own = positions[shards[number] - 1]
            if not _is_whole(files[number], items, doing):
                by_length = np.argsort(own, kind="stable")  # little padding
                states = read(shards[number][by_length])[np.argsort(by_length)]
                ItemTensors(items, {_STATES: states}).save(files[number])
                done += int(own.sum())
                pace.tell(done, total)
            else:
                total -= int(own.sum())  # an earlier run has read it
            bar.update(int(own.sum()))
    processes.wait_for_all()
    if not processes.is_first():
        return None
    return torch.cat([ItemTensors.load(file).tensors[_STATES] for file in files])


def _is_whole(shard: Path, tokens: list[str], doing: str) -> bool:
    """Whether a shard was finished by an earlier run; one that was altered since is made again."""
    if not shard.is_file():
        return False
    try:
        stored = ItemTensors.load(shard)
        return stored.tokens == tokens and _STATES in stored.tensors
    except (ValueError, FileNotFoundError) as error:
        getLogger(__name__).warning(f"{doing}: a partial result is made again: {error}")
        return False


def _halving_on_out_of_memory(
    reader: nn.Module, prompt: Template, longest: int, most: int, doing: str
) -> Callable[[np.ndarray], Tensor]:
    """Reads items in batches as large as memory allows, ``most`` or fewer.

    Args:
        longest: the positions of the longest prompt.

    Returns:
        a function from rows to their states.
    """
    # transformers is slow to import, and a trained model that is loaded again does without it.
    from accelerate.utils import find_executable_batch_size

    device = next(reader.parameters()).device
    size = min(max(_POSITIONS_A_BATCH[device.type] // longest, 1), most)

    def halve() -> int:
        nonlocal size
        size //= 2
        if size == 0:
            raise RuntimeError(
                f"{doing}: not even one item, {longest} positions, fits the memory of [{device}]. "
                f"Give llm_quantization: nf4 or a smaller language model."
            )
        getLogger(__name__).warning(
            f"{doing}: out of memory; going on with {size} items in a batch"
        )
        return size

    def read(size: int, rows: np.ndarray) -> Tensor:
        starts = range(0, len(rows), size)
        return torch.cat([_states(reader, prompt, rows[start : start + size]) for start in starts])

    return find_executable_batch_size(read, size, halve)


@torch.no_grad()
def _states(reader: nn.Module, prompt: Template, rows: np.ndarray) -> Tensor:
    """The hidden states of some items, read in one batch. [n, hidden] float32"""
    device = next(reader.parameters()).device
    batch = prompt.batch(of_histories(rows[:, None]))
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
        return reader(**batch).cpu()


def workload(reader: nn.Module, prompt: Template, n_items: int, means: str = "") -> Workload:
    """What the hidden states of all items ask of a language model, to be measured.

    Args:
        reader, prompt: as ``read_items`` takes them.
        n_items: without padding.
        means: as ``Workload`` has it.
    """
    from recbole_tslrec.language_model.workload import When, Workload, batch_sizes, in_groups

    lengths = prompt.lengths(of_histories(np.arange(1, n_items + 1)[:, None]))
    device = next(reader.parameters()).device
    size = max(_POSITIONS_A_BATCH[device.type] // int(lengths.max()), 1)
    groups = in_groups(lengths, min(size, ITEMS_A_SHARD))

    def run(places: np.ndarray, meter: Meter) -> None:
        reader.eval()
        _states(reader, prompt, places + 1)

    sizes = batch_sizes(groups)
    return Workload("items", When.INFERENCE, "items", reader, groups, sizes, run, means)
