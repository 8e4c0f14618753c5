"""Enhanced embeddings: each item alone through the language model, and the controls (paper §4.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_tslrec.store import processes
from recbole_tslrec.store.item_tensors import ItemTensors

if TYPE_CHECKING:
    from recbole_tslrec.language_model.encoder import ItemPromptModel
    from recbole_tslrec.language_model.prompt import Prompt
    from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import (
        ReconstructionModel,
    )

# Names of the tensors in a file of enhanced items.
ENHANCED_EMBEDDING = "enhanced_embedding"  # h^v, [n_items, hidden] float32
CATEGORY_DISTRIBUTION = "category_distribution"  # ĝ^v, [n_items, K] float32

# A step's size in prompt positions, to begin with. It changes the speed, not the result, but for int8
# (docs/determinism.md).
_POSITIONS_A_BATCH = {"cuda": 65_536, "cpu": 8192}
# Items in a file of partial results: what a kill can cost at the most, and what processes share out.
ITEMS_A_SHARD = 1024
_ROWS_AT_ONCE = 4096


def read_items(
    reader: ItemPromptModel,
    prompt: Prompt,
    tokens: Sequence[str],
    folder: Path,
    show_progress: bool = True,
    items_a_shard: int = ITEMS_A_SHARD,
) -> Tensor | None:
    """h^v: the hidden state of every item as a one-item history.

    Args:
        reader: its item embeddings are [n_items, d] with the padding row 0, which is left out.
        prompt: the words around the item.
        tokens: the items' tokens, in the order of the rows.
        folder: for finished shards; those that are there already are not computed again.
        items_a_shard: the items of a shard; several processes share the shards out.

    Returns:
        [n_items - 1, hidden] float32 on the CPU; None in all processes but the first.

    Raises:
        ValueError: a state is NaN or infinite; names items.
    """
    reader.eval()
    rows = np.arange(1, len(reader.item_embeddings))
    shards = np.split(rows, range(items_a_shard, len(rows), items_a_shard))
    files = [folder / f"shard-{number:06d}.safetensors" for number in range(len(shards))]
    mine = range(processes.number(), len(shards), processes.count())
    read = _halving_on_out_of_memory(reader, prompt, min(items_a_shard, len(rows)))
    with tqdm(
        total=sum(len(shards[number]) for number in mine) * _positions_an_item(prompt),
        desc="Augmentation",
        unit=" positions",
        unit_scale=True,
        disable=not show_progress,
    ) as bar:
        for number in mine:
            # Tied to the items by token: the run that goes on may number them otherwise.
            items = [tokens[row - 1] for row in shards[number]]
            if not _is_whole(files[number], items):
                states = {ENHANCED_EMBEDDING: read(shards[number])}
                ItemTensors(items, states).save(files[number])
            bar.update(len(shards[number]) * _positions_an_item(prompt))
    processes.wait_for_all()
    if not processes.is_first():
        return None
    return torch.cat([ItemTensors.load(file).tensors[ENHANCED_EMBEDDING] for file in files])


def _is_whole(shard: Path, tokens: list[str]) -> bool:
    """Whether a shard was finished by an earlier run; one that was altered since is made again."""
    if not shard.is_file():
        return False
    try:
        return ItemTensors.load(shard).tokens == tokens
    except (ValueError, FileNotFoundError) as error:
        getLogger(__name__).warning(f"Augmentation: a partial result is made again: {error}")
        return False


def _halving_on_out_of_memory(
    reader: ItemPromptModel, prompt: Prompt, most: int
) -> Callable[[np.ndarray], Tensor]:
    """Reads items in batches as large as memory allows, ``most`` or fewer: h^v of rows of the table."""
    # transformers is slow to import, and a trained model that is loaded again does without it.
    from accelerate.utils import find_executable_batch_size

    from recbole_tslrec.language_model.load import bf16_is_fast

    device = reader.item_embeddings.device
    size = min(max(_POSITIONS_A_BATCH[device.type] // _positions_an_item(prompt), 1), most)

    def halve() -> int:
        nonlocal size
        size //= 2
        if size == 0:
            raise RuntimeError(
                f"Augmentation: not even one item, {_positions_an_item(prompt)} positions, fits the "
                f"memory of [{device}]. Give llm_quantization: nf4 or a smaller language model."
            )
        getLogger(__name__).warning(
            f"Augmentation: out of memory; going on with {size} items in a batch"
        )
        return size

    @torch.no_grad()
    def read(size: int, rows: np.ndarray) -> Tensor:
        parts = []
        for start in range(0, len(rows), size):
            batch = prompt.batch(rows[start : start + size, None])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
                parts.append(reader(**batch).cpu())
        return torch.cat(parts)

    return find_executable_batch_size(read, size, halve)


def _positions_an_item(prompt: Prompt) -> int:
    return int(prompt.lengths(np.ones(1, dtype=np.int64))[0])


@torch.no_grad()
def infer_categories(model: ReconstructionModel, enhanced: Tensor) -> Tensor:
    """ĝ^v: Eq. 2 on the items' hidden states. [n, hidden] -> [n, K] float32"""
    weight = model.preference_head.weight
    blocks = enhanced.split(_ROWS_AT_ONCE)  # all of h^v may be more than a GPU has left
    return torch.cat([model.distribution(rows.to(weight)).cpu() for rows in blocks])


def random_embeddings(n_items: int, width: int, seed: int) -> Tensor:
    """The control ``random``: fixed Gaussian vectors in place of h^v, [n_items, width] float32."""
    return torch.randn(n_items, width, generator=torch.Generator().manual_seed(seed))
