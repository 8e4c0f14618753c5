"""What the imitated recommender says of every user: the best items behind the whole training history.

A training row's own target would not do: the recommender was trained on it. What follows the whole
training history is the validation's item, which it was not trained on, and which nothing here reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_tslrec.data.histories import latest_rows
from recbole_tslrec.evaluation.candidates import items_before, row_candidates

if TYPE_CHECKING:
    from recbole.data.dataset import SequentialDataset
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_tslrec.data.histories import Histories


def one_later(rows: Interaction, targets: str, length: str, suffix: str) -> Interaction:
    """Rows as they stand one interaction later: what was their own is the last of their lists.

    Args:
        rows: RecBole's, with lists padded on the right; of full ones the oldest goes.
        targets: the name of the items' column.
        length: the name of the column of the lists' lengths.
        suffix: behind the names of lists.

    Returns:
        the same columns; those that have no list stay.
    """
    columns = {name: rows[name].clone() for name in rows.columns}
    lengths = columns[length]
    width = columns[targets + suffix].shape[1]
    place, full = lengths.clamp(max=width - 1), lengths >= width
    for name, lists in columns.items():
        own = name.removesuffix(suffix)
        if name.endswith(suffix) and own in columns:
            lists[full] = lists[full].roll(-1, dims=1)
            lists[torch.arange(len(lists)), place] = columns[own]
    columns[length] = place + 1
    return Interaction(columns)


def best_behind_histories(
    model: SequentialRecommender,
    dataset: SequentialDataset,
    histories: Histories,
    k: int,
    unseen: bool,
    show_progress: bool = False,
) -> np.ndarray:
    """The items that a trained recommender puts first behind every user's training history.

    Args:
        model: in evaluation mode.
        dataset: RecBole's augmented training data set.
        histories: those of the same data set.
        k: how many.
        unseen: whether items of the history are left out.

    Returns:
        int64 [n_users, k] in the order of the histories, the best first; 0 where there are fewer.
    """
    latest = latest_rows(dataset.inter_feat[dataset.uid_field].numpy(), 1)
    rows = dataset.inter_feat[latest]
    order = np.argsort(rows[dataset.uid_field].numpy(), kind="stable")
    latest, rows = latest[order], rows[torch.from_numpy(order)]
    targets = rows[dataset.iid_field]
    before = items_before(dataset, histories)

    def had(places: np.ndarray) -> torch.Tensor:
        return torch.cat([before(latest[places]), targets[places, None]], dim=1)

    later = one_later(
        rows, dataset.iid_field, dataset.item_list_length_field, dataset.config["LIST_SUFFIX"]
    )
    found = row_candidates(model, later, k, had if unseen else None, show_progress)
    return found.numpy().astype(np.int64)
