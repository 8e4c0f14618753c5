"""Users in small blocks of like lengths: the same scores as RecBole's batches, in less time and memory.

RecBole runs every user over all ``MAX_ITEM_LIST_LENGTH`` positions, thousands of users at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader
from tqdm import tqdm

from recbole_tslrec.backbones.registry import Backbone, backbone_of
from recbole_tslrec.evaluation.seen_items import EARLIER_ITEMS, EarlierRows, SeenItems

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.dataset import SequentialDataset
    from recbole.data.interaction import Interaction
    from recbole.model.abstract_recommender import SequentialRecommender
    from recbole.sampler import AbstractSampler
    from torch import Tensor

# Users in a block of a backbone: on a CPU its states and scores then stay in the cache, and the next
# block uses their memory again. A GPU wants more work a call.
_ROWS_ON_CPU = 128
# The scores of a block at most, whatever the number of items.
SCORE_BYTES = 2**27


def cut_lists(rows: Interaction, longest: int, suffix: str) -> None:
    """Cut the histories of RecBole's rows to so many items, in place.

    A backbone of the user's may read another list beside the items': each column of an interaction has
    one. What ends with the suffix and is of no such column is a feature.

    Args:
        suffix: RecBole's ``LIST_SUFFIX``.
    """
    for name in rows.columns:
        if name.endswith(suffix) and name.removesuffix(suffix) in rows.columns:
            rows.interaction[name] = rows[name][:, :longest]


def with_bar(blocks: BlockDataLoader, what: str) -> Iterable:
    """The blocks, with a bar if they take more than two seconds and RecBole is to show bars."""
    shown = blocks.config["show_progress"]
    return tqdm(blocks, desc=what, delay=2, leave=False, disable=not shown)


class BlockDataLoader(FullSortEvalDataLoader):
    """RecBole's loader for a ranking of all items, in blocks of users.

    A block has at most ``eval_batch_size`` users and :data:`SCORE_BYTES` of scores. Of a causal
    backbone, which looks neither at padding on the right nor from the right, the users go by the
    length of their histories, longest first, and the item lists are cut to the longest of their
    block. Other models get whole lists, in the data set's order.

    A block is one element to torch. So several processes get whole blocks, all of nearly the same
    size, as RecBole gives each process's mean the same weight.

    Args:
        config: reads ``eval_batch_size`` and what RecBole's loader reads.
        dataset: a sequential data set, a row for each prediction.
        sampler: as RecBole's loader takes it; it is not used.
        backbone: what is evaluated; None for a model that is no backbone.
        masked: what to take out of the ranking, but for a row's target; None: nothing, as RecBole.
        chosen: positions of the rows to go through, int64 ``[any]``; None: all.
        earlier: gives the rows a column of what their users had in rows before; None: they have none.

    Attributes:
        order: int64 ``[n_rows]``, the rows' positions in the data set as the blocks go through them.
    """

    def __init__(
        self,
        config: Config,
        dataset: SequentialDataset,
        sampler: AbstractSampler | None,
        backbone: Backbone | None,
        masked: SeenItems | None = None,
        chosen: np.ndarray | None = None,
        earlier: EarlierRows | None = None,
    ):
        self._masked, self._earlier = masked, earlier
        rows = max(SCORE_BYTES // (4 * dataset.item_num), 1)
        rows = min(rows, config["eval_batch_size"])
        if backbone is not None and config["device"].type == "cpu":
            rows = min(rows, _ROWS_ON_CPU)
        self.order = np.arange(len(dataset)) if chosen is None else chosen
        # A transform may move the items of a list to its right end.
        self._cut = backbone is not None and backbone.cuts_padding and config["transform"] is None
        if self._cut:
            lengths = dataset.inter_feat[dataset.item_list_length_field].numpy()[self.order]
            self.order = self.order[np.argsort(-lengths, kind="stable")]
        processes = 1 if config["single_spec"] else config["world_size"]
        n_blocks = -(-len(self.order) // (rows * processes)) * processes
        self._blocks = np.array_split(self.order, min(n_blocks, len(self.order)))
        if config["transform"] is not None and processes == 1:
            # It draws once a batch, and training goes on from there: RecBole's own batches, then.
            size = config["eval_batch_size"]
            self._blocks = np.split(self.order, list(range(size, len(self.order), size)))
        super().__init__(config, dataset, sampler)

    @classmethod
    def of(
        cls,
        loader: FullSortEvalDataLoader,
        model: SequentialRecommender,
        masked: SeenItems | None = None,
        chosen: np.ndarray | None = None,
    ) -> BlockDataLoader:
        """The rows of RecBole's loader in blocks that suit a model."""
        dataset = loader._dataset
        given = (loader.config, dataset, loader._sampler, backbone_of(model))
        return cls(*given, masked, chosen, EarlierRows.of(dataset))

    def _init_batch_size_and_step(self) -> None:
        self.sample_size = len(self._blocks)
        self.step = 1
        self.set_batch_size(1)

    def collate_fn(
        self, index: list[int]
    ) -> tuple[Interaction, tuple[Tensor, Tensor] | None, Tensor, Tensor]:
        """The block of a number.

        Args:
            index: one block's number.

        Returns:
            as RecBole's: the rows; what it is to mask, int64 ``[P]`` rows and ``[P]`` items, or None;
            int64 ``[B]`` the targets' rows and ``[B]`` the targets.
        """
        (number,) = index
        rows, history, positive_u, positive_i = super().collate_fn(self._blocks[number])
        if self._cut:
            longest = int(rows[self._dataset.item_list_length_field].max())
            cut_lists(rows, longest, self.config["LIST_SUFFIX"])
        if self._earlier is not None:
            rows.interaction[EARLIER_ITEMS] = self._earlier.items(self._blocks[number])
        if self._masked is not None:
            seen_by, items = self._masked.pairs(rows)
            others = items != positive_i[seen_by]
            history = seen_by[others], items[others]
        return rows, history, positive_u, positive_i
