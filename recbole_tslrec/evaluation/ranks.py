"""Where the test targets rank, under both protocols that are in use, from one pass over the scores.

"Seen items ranked" is RecBole's protocol: all items of the data set are ranked. "Seen items masked"
takes out what the user's history holds, as many papers do. Published figures of the two differ and
must not be mixed, so nothing here is called just "the test result".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.registry import without_padding
from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.evaluation.blocks import BlockDataLoader, with_bar
from recbole_tslrec.evaluation.metrics import metrics
from recbole_tslrec.evaluation.seen_items import SeenItems, repeated_targets
from recbole_tslrec.store.arrays import save_arrays


@dataclass(frozen=True, eq=False)
class Ranks:
    """The rank of every test target, one row a test user.

    Attributes:
        user, item: str ``[n]``, the tokens of the user and of the target.
        rank: int32 ``[n]``, from 1, among all items of the data set.
        rank_masked: int32 ``[n]``, from 1, the items of the user's history taken out; the target
            stays in, also where it is in the history.
        training_length: int32 ``[n]``, items in the user's training history.
        item_count: int32 ``[n]``, training interactions of the target.
        repeated: bool ``[n]``, whether the target is among the user's earlier items.
    """

    user: np.ndarray
    item: np.ndarray
    rank: np.ndarray
    rank_masked: np.ndarray
    training_length: np.ndarray
    item_count: np.ndarray
    repeated: np.ndarray

    def metrics(self) -> dict[str, dict[str, float]]:
        """HR and NDCG under both protocols, ``["ranked"]["ndcg@10"]`` for one."""
        return {"ranked": metrics(self.rank), "masked": metrics(self.rank_masked)}

    def save(self, path: Path) -> None:
        """Write the arrays as one .npz, atomically."""
        save_arrays(path, asdict(self))


def target_ranks(
    scores: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The targets' ranks: 1 + the number of items before the target.

    Before it are the items with a higher score, and of those with the same score the ones with a
    lower internal id: RecBole's topk leaves the order of ties open, this one is the same each time
    and does not favour the target. The padding item 0 never ranks.

    Args:
        scores: ``[B, n_items]``, with a column for padding, which is overwritten.
        targets: int64 ``[B]``, internal ids.
        seen: int64 ``[P]`` each, the rows and the items that the second protocol takes out, a pair
            once. The target always stays.

    Returns:
        int64 ``[B]`` each: among all items, and among those that are not seen.

    Raises:
        ValueError: a score is NaN or infinite; such a row could rank its target first.
    """
    scores[:, 0] = -torch.inf
    # The maximum is NaN where any score is. A score of -inf, "not to be ranked", favours nothing.
    if (highest := scores.max()).isnan() or highest.isposinf():
        raise ValueError(f"The model's highest score is {highest}: its training has diverged.")
    target_scores = scores.gather(1, targets[:, None])  # [B, 1]
    before, level = around_target(scores, targets)
    tied = (level > 1).nonzero()[:, 0]  # hardly ever any
    before[tied] += _tied_before(scores[tied], target_scores[tied], targets[tied])
    rows, items = seen
    seen_scores, compared = scores[rows, items], target_scores[rows, 0]
    lower_id = (items < targets[rows]) & (items > 0)
    seen_before = (seen_scores > compared) | ((seen_scores == compared) & lower_id)
    masked = before.index_add(0, rows, seen_before.long(), alpha=-1)
    return 1 + before, 1 + masked


class RanksAlongside:
    """The targets' ranks under both protocols, from the scores of an evaluation that goes on anyway.

    Args:
        train_data, valid_data: RecBole's loaders of the same experiment.
    """

    def __init__(self, train_data, valid_data):
        self._seen = SeenItems(train_data._dataset, valid_data=valid_data)
        self._ranks: list[tuple[Tensor, Tensor]] = []

    def add(self, interaction, scores: Tensor, targets: Tensor) -> None:
        """Rank the targets of a batch; arguments as of ``target_ranks``, ``interaction`` its rows."""
        seen = tuple(part.to(scores.device) for part in self._seen.pairs(interaction))
        self._ranks.append(target_ranks(scores, targets.to(scores.device), seen))

    def metrics(self) -> dict[str, dict[str, float]]:
        """As ``Ranks.metrics``."""
        ranked, masked = (torch.cat(part).cpu().numpy() for part in zip(*self._ranks, strict=True))
        return {"ranked": metrics(ranked), "masked": metrics(masked)}


def around_target(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How many items have a higher score than the target, and how many its own, the target included.

    Args:
        scores: ``[B, n_items]``.
        targets: int64 ``[B]``.

    Returns:
        int64 ``[B]``, float32 ``[B]``; the second is 0 where the target's score is no number.
    """
    return items_above(scores, targets), items_level(scores, targets)


def items_above(scores: Tensor, targets: Tensor) -> Tensor:
    """How many items have a higher score than the target, int64 ``[B]``."""
    return _count(torch.gt, scores, targets).long()


def items_level(scores: Tensor, targets: Tensor) -> Tensor:
    """How many items have the target's score, the target included, float32 ``[B]``."""
    return _count(torch.eq, scores, targets)


def _count(compare: Callable[..., Tensor], scores: Tensor, targets: Tensor) -> Tensor:
    # As numbers: torch adds them up five times faster than truth values. Exact up to 2^24 items.
    is_so = torch.empty(scores.shape, device=scores.device)
    return compare(scores, scores.gather(1, targets[:, None]), out=is_so).sum(dim=1)


def _tied_before(scores: Tensor, target_scores: Tensor, targets: Tensor) -> Tensor:
    """How many items have the target's score and a lower id. int64 ``[B]``"""
    ids = torch.arange(scores.shape[1], device=scores.device)
    lower_id = (ids < targets[:, None]) & (ids > 0)
    return ((scores == target_scores) & lower_id).sum(dim=1)


@torch.no_grad()
def rank_test_targets(model, train_data, valid_data, test_data) -> Ranks:
    """Rank every test target among all items, both protocols in one pass over the test rows.

    A user's history is all that comes before the target: the training interactions and those of
    validation, in full, the row's own item list, and where a split gives a user several test rows,
    those before.

    Args:
        model: a trained sequential RecBole model; with ``protocol_scores``, as rerankers have it, where
            the two protocols go by different scores.
        train_data, valid_data, test_data: RecBole's loaders of the same experiment.

    Returns:
        the ranks in the order of the test rows.

    Raises:
        ValueError: there is no row to test, the test does not rank all items (``eval_args: mode`` is
            not full), or a score is NaN or infinite.
    """
    _check_test(test_data)
    dataset = train_data._dataset
    histories = training_histories(dataset)
    seen = SeenItems(dataset, histories, valid_data)
    device = next(model.parameters()).device
    model.eval()
    blocks = BlockDataLoader.of(test_data, model)
    parts = []
    # A fused item table is made once for the whole pass.
    with parametrize.cached(), without_padding(model):
        for interaction, _, _, targets in with_bar(blocks, "Both protocols"):
            users = interaction[dataset.uid_field].numpy()
            pairs = tuple(part.to(device) for part in seen.pairs(interaction))
            interaction, aims = interaction.to(device), targets.to(device)
            of_rows = (*_both_ranks(model, interaction, aims, pairs), repeated_targets(aims, pairs))
            parts.append((users, targets.numpy(), *(each.cpu().numpy() for each in of_rows)))
    order = np.argsort(blocks.order)
    users, targets, rank, rank_masked, repeated = (
        np.concatenate(part)[order] for part in zip(*parts, strict=True)
    )
    lengths = np.zeros(dataset.user_num, dtype=np.int32)
    lengths[histories.user_ids] = histories.lengths
    counts = np.bincount(histories.items, minlength=dataset.item_num).astype(np.int32)
    return Ranks(
        user=dataset.id2token(dataset.uid_field, users).astype(str),
        item=dataset.id2token(dataset.iid_field, targets).astype(str),
        rank=rank.astype(np.int32),
        rank_masked=rank_masked.astype(np.int32),
        training_length=lengths[users],
        item_count=counts[targets],
        repeated=repeated,
    )


def _check_test(test_data) -> None:
    """Raise ValueError if there is no row to test, or only some items are ranked."""
    given = test_data.config["eval_args"]
    if not isinstance(test_data, FullSortEvalDataLoader):
        raise ValueError(
            f"eval_args: the mode [{given['mode']}] ranks sampled items; give mode: full."
        )
    if len(test_data._dataset) == 0:
        raise ValueError(
            f"eval_args: the split [{given['split']}] leaves nothing to test. Set split: "
            f"{{'LS': 'valid_and_test'}}, or give data with longer histories."
        )


def _both_ranks(model, interaction, targets: Tensor, seen) -> tuple[Tensor, Tensor]:
    """The targets' ranks under both protocols, int64 ``[B]`` each."""
    if hasattr(model, "protocol_scores"):
        both = model.protocol_scores(interaction, seen, targets)
        return target_ranks(both[0], targets, seen)[0], target_ranks(both[1], targets, seen)[1]
    scores = model.full_sort_predict(interaction).view(len(targets), -1)
    return target_ranks(scores, targets, seen)
