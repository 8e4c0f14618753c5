"""What a user has had before a row's target, in full: the items that "seen items masked" takes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_tslrec.data.histories import Histories, training_histories

if TYPE_CHECKING:
    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.data.dataset import SequentialDataset
    from recbole.data.interaction import Interaction


# A column of evaluated rows: what their users had in earlier rows of the same part, padded with 0.
EARLIER_ITEMS = "earlier_items"
_ROWS_AT_ONCE = 4096


def repeated_targets(targets: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:
    """Whether each target was seen before, bool ``[B]``.

    Args:
        targets: of B rows, int64 ``[B]``.
        seen: of the same rows, as ``SeenItems.pairs`` gives it.
    """
    rows, items = seen
    repeated = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
    repeated[rows[items == targets[rows]]] = True
    return repeated


def novel_rows(loader: FullSortEvalDataLoader, seen: SeenItems) -> np.ndarray:
    """Those rows of RecBole's loader alone whose target the user had not had before, int64 ``[any]``.

    Raises:
        ValueError: there is none.
    """
    dataset = loader._dataset
    earlier, rows = EarlierRows.of(dataset), np.arange(len(dataset))
    novel = []
    for block in np.array_split(rows, -(-len(rows) // _ROWS_AT_ONCE)):
        interaction = dataset.inter_feat[block]
        if earlier is not None:
            interaction.interaction[EARLIER_ITEMS] = earlier.items(block)
        repeated = repeated_targets(interaction[dataset.iid_field], seen.pairs(interaction))
        novel.append(block[~repeated.numpy()])
    novel = np.concatenate(novel)
    if not len(novel):
        raise ValueError(
            "valid_protocol: [novel] has nothing to go by: in validation every user has an item that "
            "they had before. Set valid_protocol: masked."
        )
    return novel


class EarlierRows:
    """What a user had in the rows of validation or test before one, where a split gives a user several.

    A row's own list holds it as well, but for what ``MAX_ITEM_LIST_LENGTH`` has cut off.

    Args:
        dataset: RecBole's augmented data set of the part, a user's rows in the order of time.
    """

    def __init__(self, dataset: SequentialDataset):
        rows = dataset.inter_feat
        users = rows[dataset.uid_field].numpy()
        self._targets = rows[dataset.iid_field]
        self._lists = rows[_list_field(dataset)]
        self._order = np.argsort(users, kind="stable")
        first = np.flatnonzero(np.diff(users[self._order], prepend=-1))
        sizes = np.diff(first, append=len(users))
        # By row: where its user's rows begin in the order, and its number among them, from 0.
        self._first = np.empty(len(users), dtype=np.int64)
        self._first[self._order] = np.repeat(first, sizes)
        self.number = np.empty(len(users), dtype=np.int64)
        self.number[self._order] = np.arange(len(users)) - np.repeat(first, sizes)

    @classmethod
    def of(cls, dataset: SequentialDataset) -> EarlierRows | None:
        """None where every user has one row, as when the last items are left out.

        Ready-made rows (``benchmark_filename``) are nobody's, whatever users they name.
        """
        if dataset.config["benchmark_filename"] is not None:
            return None
        found = cls(dataset)
        return found if found.number.any() else None

    def items(self, rows: np.ndarray) -> Tensor:
        """The items of some rows' users before these rows' own lists, int64 ``[B, any]``, padded with 0.

        Args:
            rows: positions in the data set, int64 ``[B]``.
        """
        numbers = torch.from_numpy(self.number[rows])
        places = self._first[rows][:, None] + np.arange(int(numbers.max()))
        places = np.minimum(places, len(self._order) - 1)
        targets = self._targets[self._order[places]]
        targets[torch.arange(targets.shape[1]) >= numbers[:, None]] = 0
        return torch.cat([self._lists[self._order[self._first[rows]]], targets], dim=1)


class SeenItems:
    """The items of every user's interactions, and of a row's own list.

    ``MAX_ITEM_LIST_LENGTH`` may have cut the list. Where a split gives a user several rows, what came
    between the training rows and this one is in the column :data:`EARLIER_ITEMS`, which
    :class:`.BlockDataLoader` adds.

    Args:
        dataset: RecBole's data set of the training rows.
        histories: those of the same data set; None: read here.
        valid_data: RecBole's loader of the validation rows, where these come before what is ranked.
    """

    def __init__(
        self, dataset: SequentialDataset, histories: Histories | None = None, valid_data=None
    ):
        histories = training_histories(dataset) if histories is None else histories
        self._dataset = dataset
        users = [np.repeat(histories.user_ids, histories.lengths)]
        items = [histories.items]
        if valid_data:
            rows = valid_data._dataset.inter_feat
            users.append(rows[dataset.uid_field].numpy())
            items.append(rows[dataset.iid_field].numpy())
            # A user without training rows has the first items in lists alone.
            rows = rows[~np.isin(users[-1], histories.user_ids)]
            lists = rows[_list_field(dataset)].numpy()
            users.append(np.repeat(rows[dataset.uid_field].numpy(), lists.shape[1]))
            items.append(lists.ravel())
        places = (np.concatenate(users), np.concatenate(items))
        shape = (dataset.user_num, dataset.item_num)
        self._of_users = csr_matrix((np.ones(len(places[0]), dtype=np.int32), places), shape=shape)

    def pairs(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """What the users of some rows have seen.

        Args:
            interaction: B rows.

        Returns:
            int64 ``[P]`` each, on the CPU: the rows, from 0, and the items, a pair once. Padding's 0 is
            among the items.
        """
        users = interaction[self._dataset.uid_field].cpu().numpy()
        seen = self._of_users[users] + self._listed(interaction[_list_field(self._dataset)])
        if EARLIER_ITEMS in interaction:
            seen += self._listed(interaction[EARLIER_ITEMS])
        rows, items = seen.nonzero()
        return torch.from_numpy(rows).long(), torch.from_numpy(items).long()

    def _listed(self, lists: Tensor) -> csr_matrix:
        """The items of the rows' lists, sparse [B, n_items]."""
        items = lists.cpu().numpy()
        rows = np.repeat(np.arange(len(items)), items.shape[1])
        shape = (len(items), self._dataset.item_num)
        return csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, items.ravel())), shape=shape)


def _list_field(dataset: SequentialDataset) -> str:
    return getattr(dataset, f"{dataset.iid_field}_list_field")
