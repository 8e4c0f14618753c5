"""Candidates: the items that a trained backbone puts first, and what another model makes of their order.

Rows are RecBole's: one a prediction, with the history before it. Items are internal ids; 0, which is
padding, stands where a row has no further candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize
from tqdm import tqdm

from recbole_tslrec.backbones.registry import backbone_of, without_padding
from recbole_tslrec.data.histories import Histories, training_histories
from recbole_tslrec.data.negatives import random_negatives
from recbole_tslrec.evaluation.blocks import cut_lists

if TYPE_CHECKING:
    from recbole.data.dataset import SequentialDataset
    from recbole.data.interaction import Interaction
    from recbole.model.abstract_recommender import SequentialRecommender

# The most rows of a block, and the most bytes of its scores, whatever the number of items.
_ROWS_AT_ONCE = 256
_EXAMPLES_AT_ONCE = 4096
_SCORE_BYTES = 2**27


def scores(model: SequentialRecommender, interaction: Interaction) -> Tensor:
    """The scores of all items, [B, n_items], with a column for padding.

    The model reads a copy of the rows, for it may change what it scores (RecBole's HRM does).
    """
    return model.full_sort_predict(own_rows(interaction)).view(len(interaction), -1)


def own_rows(interaction: Interaction) -> Interaction:
    """A copy of rows that shares nothing with them."""
    return type(interaction)({name: interaction[name].clone() for name in interaction.columns})


def score_each_user_once(model: SequentialRecommender, interaction: Interaction) -> Tensor:
    """The score of each row's own item, as of ``full_sort_predict``. [B]

    RecBole's sampled evaluation has a row an item; rows that differ in the item alone are scored once.
    """
    users, item_seq = interaction[model.USER_ID], interaction[model.ITEM_SEQ]
    histories = torch.cat([users[:, None], item_seq], dim=1)
    distinct, of_row = histories.unique(dim=0, return_inverse=True)
    first = of_row.new_full((len(distinct),), len(of_row))
    first.scatter_reduce_(0, of_row, torch.arange(len(of_row), device=of_row.device), "amin")
    return scores(model, interaction[first])[of_row, interaction[model.ITEM_ID]]


def top_items(all_scores: Tensor, k: int, seen: Tensor | None = None) -> Tensor:
    """The items with the highest scores, of equal ones those with the lower ids.

    Args:
        all_scores: float [B, n_items], with a column for padding, which is no candidate. An item of
            -inf, "not to be ranked", is none either.
        k: how many; 1 or more.
        seen: int64 [B, any], items to leave out, padded with 0; None: none.

    Returns:
        int64 [B, k], the best first; 0 where there are fewer than k candidates.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    _check_scores(all_scores)
    left = all_scores.clone()
    left[:, 0] = -torch.inf
    if seen is not None:
        left.scatter_(1, seen, -torch.inf)
    values, items = left.topk(min(k, left.shape[1]), dim=1)
    # topk leaves open which of several items with the last score it takes.
    tied = (left >= values[:, -1:]).sum(dim=1) > values.shape[1]
    if tied.any():
        order = left[tied].sort(dim=1, descending=True, stable=True).indices
        items[tied] = order[:, : values.shape[1]]
    items = items.sort(dim=1).values
    best = left.gather(1, items).argsort(dim=1, descending=True, stable=True)
    items = items.gather(1, best)
    items = items.masked_fill(left.gather(1, items) == -torch.inf, 0)
    return F.pad(items, (0, k - items.shape[1]))


def padded(rows: Tensor, items: Tensor, n_rows: int) -> Tensor:
    """Items beside their rows, which ascend, as ``SeenItems`` gives them: int64 [n_rows, any], 0-padded.

    Args:
        rows: int64 [P], from 0 to n_rows - 1.
        items: int64 [P].
    """
    counts = rows.bincount(minlength=n_rows)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    found = items.new_zeros(n_rows, int(counts.max()))
    found[rows, place] = items
    return found


def merged_scores(retrieved: Tensor, candidates: Tensor, reranked: Tensor) -> Tensor:
    """Full scores in which the candidates come first in their new order, and all others as before.

    A candidate of rank j (0 is the best) gets ``max(retrieved) + (k - j) * step``. The step is 1, and
    larger where the numbers are so large that their format would round it away; so no two candidates
    tie, and none falls among the others.

    Args:
        retrieved: float [B, n_items], the retriever's scores, with a column for padding.
        candidates: int64 [B, k] as ``top_items`` gives them: those of a row differ, and 0 is none.
        reranked: float [B, k], the candidates' new scores; equal ones stay in the order they have.

    Returns:
        [B, n_items] float32, or float64 if ``retrieved`` is; finite where ``retrieved`` is.

    Raises:
        ValueError: the scores are NaN or infinite, or too large for anything above them.
    """
    _check_scores(retrieved)
    if reranked.isnan().any():
        raise ValueError("A candidate's new score is NaN: the training has diverged.")
    merged = retrieved.to(torch.promote_types(retrieved.dtype, torch.float32), copy=True)
    n_candidates = candidates.shape[1]
    highest = merged.max(dim=1, keepdim=True).values
    # An exact power of 2: 8 units in the last place of numbers of that size.
    exponent = torch.frexp(highest.abs() + n_candidates).exponent
    unit = torch.finfo(merged.dtype).eps
    step = torch.ldexp(torch.full_like(highest, 4 * unit), exponent).clamp(min=1)
    order = reranked.masked_fill(candidates == 0, -torch.inf)
    order = order.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(n_candidates, 0, -1, device=merged.device).expand_as(order)
    above = torch.empty_like(order).scatter_(1, order, places)
    padding = merged[:, 0].clone()
    merged.scatter_(1, candidates, highest + above * step)
    merged[:, 0] = padding
    _check_scores(merged)
    return merged


def _check_scores(all_scores: Tensor) -> None:
    # A maximum is NaN where any score is.
    highest = all_scores.max(dim=1).values
    if not highest.isfinite().all():
        raise ValueError(
            f"The highest score of a row is [{highest[~highest.isfinite()][0]}]: the backbone's "
            f"training has diverged."
        )


# ---- of a trained model, row by row ----------------------------------------------------------------


@torch.no_grad()
def row_candidates(
    model: SequentialRecommender,
    rows: Interaction,
    k: int,
    seen: Callable[[np.ndarray], Tensor] | None = None,
    show_progress: bool = False,
) -> Tensor:
    """The candidates of each row, by a trained model's scores, block by block.

    Of a backbone that does not look at padding the longest histories come first, and a block's are cut
    to its longest.

    Args:
        model: in evaluation mode.
        rows: RecBole's rows.
        k: how many.
        seen: gives the items to leave out, of rows by their positions, int64 [B, any], padded with 0;
            None: none is left out.

    Returns:
        int32 [n_rows, k] on the CPU, as of ``top_items``.
    """
    device, backbone = next(model.parameters()).device, backbone_of(model)
    cut = backbone is not None and backbone.cuts_padding
    lengths = rows[model.ITEM_SEQ_LEN].numpy() if cut else np.zeros(len(rows))
    order = np.argsort(-lengths, kind="stable")
    size = max(1, min(_ROWS_AT_ONCE, _SCORE_BYTES // (4 * model.n_items)))
    found = torch.empty(len(rows), k, dtype=torch.int32)
    starts = tqdm(
        range(0, len(rows), size), desc="Candidates", unit=" blocks", disable=not show_progress
    )
    with parametrize.cached(), without_padding(model):
        for start in starts:
            places = order[start : start + size]
            block = rows[torch.from_numpy(places)].to(device)
            if cut:
                suffix = model.ITEM_SEQ.removeprefix(model.ITEM_ID)
                cut_lists(block, int(lengths[places[0]]), suffix)
            left_out = None if seen is None else seen(places).to(device)
            best = top_items(scores(model, block), k, left_out)
            found[torch.from_numpy(places)] = best.to("cpu", torch.int32)
    return found


def items_before(
    dataset: SequentialDataset, histories: Histories
) -> Callable[[np.ndarray], Tensor]:
    """What a user had before each training row, in full: the rows' own lists may have lost the oldest.

    Args:
        dataset: RecBole's augmented data set of the training rows.
        histories: those of the same data set.

    Returns:
        a function from positions of rows to the items before them, int64 [B, any], padded with 0.
    """
    users = dataset.inter_feat[dataset.uid_field].numpy()
    of_row = np.searchsorted(histories.user_ids, users)
    n_rows = np.bincount(of_row, minlength=len(histories))
    order = np.argsort(of_row, kind="stable")
    number = np.empty(len(users), dtype=np.int64)  # of the row among its user's
    number[order] = np.arange(len(users)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    starts = histories.offsets[of_row]
    # Each row's target is one item of the history, and the last row's is the last one.
    lengths = histories.lengths[of_row] - n_rows[of_row] + number

    def before(places: np.ndarray) -> Tensor:
        positions = np.arange(lengths[places].max())[None, :]
        there = positions < lengths[places][:, None]
        items = np.zeros(there.shape, dtype=np.int64)
        items[there] = histories.items[(starts[places][:, None] + positions)[there]]
        return torch.from_numpy(items)

    return before


def negatives_of(
    dataset: SequentialDataset, rows: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Items for training rows that their users did not have before, and that are not their targets.

    Args:
        dataset: RecBole's augmented training data set.
        rows: positions of its rows, ascending, int64 [n].
        count: how many for each.

    Returns:
        as of ``random_negatives``, [n, count].
    """
    before = items_before(dataset, training_histories(dataset))
    targets = dataset.inter_feat[dataset.iid_field].numpy()[rows]
    drawn = [
        random_negatives(
            before(rows[block]).numpy(), targets[block], dataset.item_num, count, generator
        )
        for block in np.array_split(np.arange(len(rows)), -(-len(rows) // _EXAMPLES_AT_ONCE))
    ]
    return np.concatenate(drawn)
