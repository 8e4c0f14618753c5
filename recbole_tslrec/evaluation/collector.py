"""What RecBole's metrics are made of, collected from blocks of scores."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from recbole.evaluator.collector import Collector, DataStruct
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.evaluation.ranks import items_above, items_level

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction


class TopkCollector(Collector):
    """RecBole's collector, which looks for the best items at most once and makes no matrix of targets.

    What it hands to RecBole's metrics is the same, bit for bit. RecBole writes a matrix as large as
    the scores to look the targets up in, and copies all rows so far with every batch, which with small
    blocks of many users would take longer than the scores.
    """

    def __init__(self, config):
        super().__init__(config)
        self._parts: dict[str, list[Tensor]] = defaultdict(list)

    def eval_batch_collect(
        self,
        scores_tensor: Tensor,
        interaction: Interaction,
        positive_u: Tensor,
        positive_i: Tensor,
    ) -> None:
        """As RecBole's; rows with several targets, and GAUC, AUC and the like, are left to it.

        Args:
            scores_tensor: ``[B, n_items]``, or ``[B]`` for metrics of single scores.
            interaction: the batch.
            positive_u: int64 ``[P]``, the row of each target.
            positive_i: int64 ``[P]``, the targets.
        """
        if not self._best_items_suffice() or not _one_target_a_row(positive_u, len(scores_tensor)):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        targets = positive_i.to(scores_tensor.device)
        if self.register.need("rec.items"):
            best = torch.topk(scores_tensor, max(self.topk), dim=-1).indices
            self._parts["rec.items"].append(best)
            hits = best == targets[:, None]
        else:
            hits = _hits(scores_tensor, targets, max(self.topk))
        if self.register.need("rec.topk"):
            self._parts["rec.topk"].append(F.pad(hits.long(), (0, 1), value=1))  # one target

    def _best_items_suffice(self) -> bool:
        needs = ("rec.meanrank", "rec.score", "data.label")
        return not any(self.register.need(name) for name in needs)

    def targets_suffice(self) -> bool:
        """Whether the targets' places decide the metrics; which the best items are matters to some."""
        return self._best_items_suffice() and not self.register.need("rec.items")

    def forget(self) -> None:
        """Drop what was collected since the metrics were last made; RecBole would mix it in."""
        self._parts.clear()
        super().get_data_struct()

    def get_data_struct(self) -> DataStruct:
        """As RecBole's."""
        for name, parts in self._parts.items():
            self.data_struct.update_tensor(name, torch.cat(parts))
        self._parts.clear()
        return super().get_data_struct()


def _hits(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """Whether the target is the best item, the second best, and so on: bool ``[B, k]``.

    Counting what is above the target takes a third of the time that looking for the best items does.
    Where it leaves the place open, for ties or for scores that are no numbers, the best are looked for.
    """
    before = items_above(scores, targets)
    hits = torch.arange(k, device=scores.device) == before[:, None]
    within = (before < k).nonzero()[:, 0]  # a tie further down leaves no place open; few rows hit
    unsure = within[items_level(scores[within], targets[within]) != 1]
    if scores.max().isnan():
        unsure = torch.arange(len(scores), device=scores.device)
    if len(unsure):
        hits[unsure] = torch.topk(scores[unsure], k, dim=-1).indices == targets[unsure, None]
    return hits


def _one_target_a_row(rows: Tensor, n_rows: int) -> bool:
    return torch.equal(rows, torch.arange(n_rows, device=rows.device))
