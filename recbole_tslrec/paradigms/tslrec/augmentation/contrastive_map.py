"""A linear map of the items' vectors: items that follow each other in histories come to be alike.

x' = x + x A, where A starts at 0, so that the words' own similarity is where it begins. A is learned by
InfoNCE (arXiv 1807.03748) on pairs of consecutive items of the training histories: of a batch's items
the one that came next is to be the nearest, by the cosine over a temperature. The others stand in for
the whole catalogue; what is drawn often is corrected for that (Yi et al., RecSys 2019, Eq. 3, by an
item's share in either place of the pairs). Nothing of the language model is tuned.

Vectors that say nothing of the items, if they have columns enough, learn the pairs as well: a gain is
the words' only as far as ``shuffled_text`` under the same map does not have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger
from typing import NamedTuple

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


@torch.enable_grad()
def contrastive_map(
    vectors: Tensor,
    pairs: np.ndarray,
    seed: int,
    device: torch.device,
    show_progress: bool = False,
) -> Tensor:
    """The vectors after the map; rows of zeros, items of which nothing is known, stay zeros.

    An epoch costs O(pairs · batch · width): it grows with the interactions and not with the items.

    Args:
        vectors: [n, width] in the order of internal ids, without padding, columns with mean 0.
        pairs: rows of ``vectors`` that follow each other, [n_pairs, 2] int64; see ``consecutive``.
        seed: of the order in which they are read.
        device: where A is learned.
        show_progress: whether to draw a progress bar, if it takes more than two seconds.

    Returns:
        [n, width] float32, rows of length 1, on the CPU.
    """
    rows = functional.normalize(vectors.float(), dim=1).to(device)
    known = vectors.any(dim=1).numpy()
    pairs = torch.from_numpy(pairs[known[pairs].all(axis=1)])
    frequency = pairs.flatten().bincount(minlength=len(rows)).to(device, torch.float32)
    log_frequency = (frequency / frequency.sum().clamp(min=1)).log()
    change = torch.zeros(rows.shape[1], rows.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=_LEARNING_RATE)
    n_batches = _EPOCHS * -(-len(pairs) // _BATCH)
    hidden = {"delay": 2, "leave": False, "disable": not show_progress}
    losses = []
    for batch in tqdm(_batches(pairs, seed), "Map", n_batches, unit=" batches", **hidden):
        items = batch.to(device)
        loss = info_nce(_changed(rows[items], change), items, log_frequency).loss.mean()
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
    return _changed(rows, change).detach().cpu()


def consecutive(histories: Histories, user_tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item of a history with the one after it, but where both are the same.

    Users come in the order of their tokens: their internal numbers change nothing.

    Args:
        histories: the users' training histories, internal ids.
        user_tokens: str, by internal id.

    Returns:
        the pairs, which count from 0, without padding, [n_pairs, 2] int64; the place of each one's user
        in that order, ascending, [n_pairs] int64.
    """
    order = np.argsort(user_tokens[histories.user_ids].astype(str), kind="stable")
    place = np.argsort(order)
    items = histories.items - 1
    is_last = np.zeros(len(items), dtype=bool)
    is_last[histories.offsets[1:] - 1] = True
    pairs = np.stack([items[:-1], items[1:]], axis=1)
    wanted = ~is_last[:-1] & (pairs[:, 0] != pairs[:, 1])
    of_user = np.repeat(place, histories.lengths)[:-1][wanted]
    by_user = np.argsort(of_user, kind="stable")
    return pairs[wanted][by_user], of_user[by_user]


class Named(NamedTuple):
    """What naming the one item of each pair from the other comes to, the mean of both directions.

    Attributes:
        loss: the cross-entropy, [B].
        right: 1 where the right item was the nearest, [B] float32.
    """

    loss: Tensor
    right: Tensor


def info_nce(
    vectors: Tensor, items: Tensor, log_frequency: Tensor, users: Tensor | None = None
) -> Named:
    """Naming, of a batch's items, the one beside each.

    Args:
        vectors: [B, 2, width], rows of length 1: of each pair both items.
        items: [B, 2] int64; the right answer where it stands once more, and the item that asks, are
            no wrong answers.
        log_frequency: of every item, the logarithm of its share among all that is drawn.
        users: of each pair, [B] int64, if those of a user come together: they are not drawn like the
            others, and are no wrong answers, either.
    """
    own = torch.arange(len(items), device=items.device)
    loss = right = vectors.new_zeros(len(items))
    for ask, answer in ((0, 1), (1, 0)):
        asked, answers = items[:, ask, None], items[:, answer]
        cosines = vectors[:, ask] @ vectors[:, answer].T
        left_out = (answers[:, None] == answers) | (asked == answers)
        if users is not None:
            left_out |= users[:, None] == users
        left_out = left_out.fill_diagonal_(False)
        logits = (cosines / _TEMPERATURE - log_frequency[answers]).masked_fill(left_out, -torch.inf)
        loss = loss + functional.cross_entropy(logits, own, reduction="none") / 2
        nearest = cosines.detach().masked_fill(left_out, -torch.inf).argmax(dim=1)
        right = right + (nearest == own) / 2
    return Named(loss, right)


def _batches(pairs: Tensor, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_EPOCHS if len(pairs) else 0):
        yield from pairs[torch.randperm(len(pairs), generator=generator)].split(_BATCH)


def _changed(rows: Tensor, change: Tensor) -> Tensor:
    return functional.normalize(rows + rows @ change, dim=-1)
