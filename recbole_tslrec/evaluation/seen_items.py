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


def novel_rows(loader: FullSortEvalDataLoader, seen: SeenItems) -> FullSortEvalDataLoader:
    """RecBole's loader with those rows alone whose target the user had not had before.

    Raises:
        ValueError: there is none.
    """
    dataset, rows = loader._dataset, loader._dataset.inter_feat
    repeated = repeated_targets(rows[dataset.iid_field], seen.pairs(rows))
    if repeated.all():
        raise ValueError(
            "valid_protocol: [novel] has nothing to go by: in validation every user has an item that "
            "they had before. Set valid_protocol: masked."
        )
    novel = dataset.copy(rows[~repeated])
    return type(loader)(loader.config, novel, loader._sampler, shuffle=False)


class SeenItems:
    """The items of every user's interactions, and of a row's own list.

    ``MAX_ITEM_LIST_LENGTH`` may have cut the list, but it holds what comes between the training rows
    and this one where a split gives a user several.

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
        rows, items = (self._of_users[users] + self._listed(interaction)).nonzero()
        return torch.from_numpy(rows).long(), torch.from_numpy(items).long()

    def _listed(self, interaction: Interaction) -> csr_matrix:
        """The items of the rows' own lists, sparse [B, n_items]."""
        field = getattr(self._dataset, f"{self._dataset.iid_field}_list_field")
        items = interaction[field].cpu().numpy()
        rows = np.repeat(np.arange(len(items)), items.shape[1])
        shape = (len(items), self._dataset.item_num)
        return csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, items.ravel())), shape=shape)
