"""A linear map of the items' vectors: items that follow each other in histories come to be alike.

x' = x + x A, where A starts at 0, so that the words' own similarity is where it begins. A is learned by
InfoNCE (arXiv 1807.03748) on pairs of consecutive items of the training histories: of a batch's items
the one that came next is to be the nearest, by the cosine over a temperature. The others stand in for
the whole catalogue; what is drawn often is corrected for that (Yi et al., RecSys 2019, Eq. 3). Nothing
of the language model is tuned, and an item's vector stays a function of its words.
"""

from __future__ import annotations

from logging import getLogger

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from recbole_tslrec.data.histories import Histories

_BATCH = 256
_EPOCHS = 3
_LEARNING_RATE = 1e-3
_TEMPERATURE = 0.2


def contrastive_map(
    vectors: Tensor,
    histories: Histories,
    seed: int,
    device: torch.device,
    show_progress: bool = False,
) -> Tensor:
    """The vectors after the map; rows of zeros, items of which nothing is known, stay zeros.

    An epoch costs O(pairs · batch · width): it grows with the interactions and not with the items.

    Args:
        vectors: [n, width] in the order of internal ids, without padding, columns with mean 0.
        histories: the users' training histories.
        seed: of the order of the pairs.
        device: where A is learned.
        show_progress: whether to draw a progress bar, if it takes more than two seconds.

    Returns:
        [n, width] float32, rows of length 1, on the CPU.
    """
    rows = functional.normalize(vectors.float(), dim=1).to(device)
    pairs = consecutive(histories) - 1  # without padding
    known = vectors.any(dim=1).numpy()
    pairs = torch.from_numpy(pairs[known[pairs].all(axis=1)])
    frequency = pairs.flatten().bincount(minlength=len(rows)).to(device, torch.float32)
    log_frequency = (frequency / frequency.sum().clamp(min=1)).log()
    change = torch.zeros(rows.shape[1], rows.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    batches = [
        batch
        for _ in range(_EPOCHS)
        for batch in pairs[torch.randperm(len(pairs), generator=generator)].split(_BATCH)
    ]
    bar = tqdm(
        batches, desc="Map", unit=" batches", delay=2, leave=False, disable=not show_progress
    )
    losses = []
    for batch in bar:
        items = batch.to(device)
        loss = info_nce(_changed(rows[items], change), items, log_frequency)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if losses:
        of_epoch = torch.stack(losses).chunk(_EPOCHS)
        getLogger(__name__).info(
            f"Map of the items' vectors, learned on {len(pairs):,} pairs of consecutive items: loss "
            f"{of_epoch[0].mean():.3f} in the first epoch, {of_epoch[-1].mean():.3f} in the last."
        )
    with torch.no_grad():
        return _changed(rows, change).cpu()


def consecutive(histories: Histories) -> np.ndarray:
    """Each item of a history with the one after it, but where both are the same. [n_pairs, 2] int64"""
    items = histories.items
    is_last = np.zeros(len(items), dtype=bool)
    is_last[histories.offsets[1:] - 1] = True
    pairs = np.stack([items[:-1], items[1:]], axis=1)[~is_last[:-1]]
    return pairs[pairs[:, 0] != pairs[:, 1]]


def info_nce(vectors: Tensor, items: Tensor, log_frequency: Tensor) -> Tensor:
    """The mean cross-entropy of naming, of a batch's items, the one beside each; in both directions.

    Args:
        vectors: [B, 2, width], rows of length 1: of each pair both items.
        items: [B, 2] int64; an item that is the answer of another pair as well is no wrong one.
        log_frequency: of every item, the logarithm of its share among all that is drawn.
    """
    right = torch.arange(len(items), device=items.device)
    loss = vectors.new_zeros(())
    for asked, answer in ((0, 1), (1, 0)):
        answers = items[:, answer]
        logits = vectors[:, asked] @ vectors[:, answer].T / _TEMPERATURE
        twice = (answers[:, None] == answers) & (right[:, None] != right)
        logits = (logits - log_frequency[answers]).masked_fill(twice, -torch.inf)
        loss = loss + functional.cross_entropy(logits, right) / 2
    return loss


def _changed(rows: Tensor, change: Tensor) -> Tensor:
    return functional.normalize(rows + rows @ change, dim=-1)
