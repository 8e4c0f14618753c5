"""The users' training histories, put together again from RecBole's augmented rows (paper §4.1).

RecBole's sequence augmentation turns a history ``v1 v2 v3`` into one row per prefix,
``[v1] -> v2`` and ``[v1, v2] -> v3``, cuts every list at ``MAX_ITEM_LIST_LENGTH`` and only then
splits the rows into training, validation and test. The training rows are therefore the one place
where what may be seen and what is held out are already told apart, and this module reads nothing
else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from recbole.data.dataset import SequentialDataset
    from recbole.data.interaction import Interaction


@dataclass(frozen=True, eq=False)
class Histories:
    """Histories of different lengths, one after the other in a single array.

    Attributes:
        user_ids: int64 ``[n_users]``, RecBole's internal user ids, ascending and distinct. Only
            users with a history are there.
        offsets: int64 ``[n_users + 1]``; the history of the ``i``-th user is
            ``items[offsets[i]:offsets[i + 1]]``.
        items: int64 ``[total]``, RecBole's internal item ids, oldest first within a user.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        """The number of users."""
        return len(self.user_ids)

    def __getitem__(self, index: int) -> np.ndarray:
        """The items of the ``index``-th user (a position, not a user id), int64 ``[length]``."""
        index = range(len(self))[index]
        return self.items[self.offsets[index] : self.offsets[index + 1]]

    def of(self, positions: np.ndarray) -> Histories:
        """Those of some users.

        Args:
            positions: ascending and distinct, int64 ``[n]``.
        """
        lengths = self.lengths[positions]
        taken = np.isin(np.repeat(np.arange(len(self)), self.lengths), positions)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Histories(self.user_ids[positions], offsets, self.items[taken])

    @property
    def lengths(self) -> np.ndarray:
        """The number of items of every user, int64 ``[n_users]``."""
        return np.diff(self.offsets)


def training_histories(dataset: SequentialDataset) -> Histories:
    """Reads every user's full history from the rows of a dataset, and from nothing else.

    A history is the item list of the user's earliest row, then the targets of all of the user's
    rows: the lists of later rows may have lost their oldest items to ``MAX_ITEM_LIST_LENGTH``.
    Rows of different users may be interleaved; the rows of one user must be in time order, as
    RecBole leaves them.

    Args:
        dataset: the training dataset after augmentation and split (``train_data._dataset``). The
            dataset it was split from looks the same but holds the held-out rows too.

    Returns:
        The histories, without the users who have no row.

    Raises:
        ValueError: if the dataset is not an augmented one, was made from ``benchmark_filename``,
            has no row, or holds rows of a user that do not continue one another.
    """
    _check_dataset(dataset)
    rows = dataset.inter_feat
    users = rows[dataset.uid_field].numpy()
    targets = rows[dataset.iid_field].numpy()

    order = np.argsort(users, kind="stable")
    first = np.flatnonzero(np.diff(users[order], prepend=-1))  # each user's earliest row in `order`
    _check_rows_continue(dataset, order, first)

    prefix_lengths, prefix_items = _first_lists(dataset, order[first])
    rows_per_user = np.diff(first, append=len(order))
    offsets = np.concatenate([[0], np.cumsum(prefix_lengths + rows_per_user)])

    # Every target moves back by its user's place among the rows and forward to its place among the
    # items; what the targets leave free belongs to the first lists.
    shift = offsets[:-1] + prefix_lengths - first
    target_places = np.arange(len(order)) + np.repeat(shift, rows_per_user)
    is_prefix = np.ones(offsets[-1], dtype=bool)
    is_prefix[target_places] = False
    items = np.empty(offsets[-1], dtype=np.int64)
    items[target_places] = targets[order]
    items[is_prefix] = prefix_items
    return Histories(users[order[first]].astype(np.int64), offsets, items)


def check_not_ready_made(config: Mapping[str, Any]) -> None:
    """Raise ValueError for ready-made sequences (``benchmark_filename``)."""
    if config["benchmark_filename"] is not None:
        raise ValueError(
            f"benchmark_filename={config['benchmark_filename']} is not supported: its rows come "
            "ready-made, so their item lists may be cut or be arbitrary prefixes, and a user's full "
            "training history cannot be told from them. Give the plain .inter file and let RecBole "
            "augment and split it."
        )


def latest_rows(users: np.ndarray, most: int) -> np.ndarray:
    """The positions of every user's last ``most`` rows, ascending.

    Args:
        users: int64 [n_rows], the user of each row; a user's rows are in time order.
        most: 1 or more.
    """
    order = np.argsort(users, kind="stable")
    ends = np.searchsorted(users[order], users[order], side="right")  # of each row's user
    return np.sort(order[np.arange(len(users)) >= ends - most])


def drawn_users(tokens: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of the users, the same in whatever order the file has them.

    Args:
        tokens: str [n], the users' tokens, distinct.
        share: in (0, 1]; one user is drawn at least.

    Returns:
        Positions in ``tokens``, ascending, int64.
    """
    by_token = np.argsort(tokens.astype(str), kind="stable")
    shuffled = np.random.default_rng(seed).permutation(by_token)
    return np.sort(shuffled[: max(round(share * len(tokens)), 1)])


def fingerprint(histories: Histories, user_tokens: np.ndarray, item_tokens: np.ndarray) -> str:
    """Tells whether two sets of histories are the same data, whatever internal ids they carry.

    Users and items count by their tokens, so neither the order of the users nor RecBole's
    numbering, which depends on filtering and on the order of first appearance, changes the result.
    The order of the items within a history does.

    Args:
        histories: the histories.
        user_tokens: str ``[n_users_internal]``, the token of each internal id
            (``dataset.field2id_token[dataset.uid_field]``); tokens are distinct.
        item_tokens: str ``[n_items_internal]``, likewise for items.

    Returns:
        A SHA-256 digest in hexadecimal.
    """
    vocabulary, item_index = np.unique(histories.items, return_inverse=True)
    user_order, user_bytes = _sorted_tokens(user_tokens[histories.user_ids])
    item_order, item_bytes = _sorted_tokens(item_tokens[vocabulary])
    item_rank = np.empty_like(item_order)
    item_rank[item_order] = np.arange(len(item_order))

    lengths = histories.lengths[user_order]
    starts = histories.offsets[:-1][user_order]
    shift = starts - (np.cumsum(lengths) - lengths)
    places = np.arange(len(histories.items)) + np.repeat(shift, lengths)

    digest = hashlib.sha256(b"recbole_tslrec histories 1\n")
    for tokens in (user_bytes, item_bytes):
        # Numbers before bytes: no choice of tokens can imitate another by where it is cut.
        digest.update(_little_endian([len(tokens), *map(len, tokens)]))
        digest.update(b"".join(tokens))
    digest.update(_little_endian(lengths))
    digest.update(_little_endian(item_rank[item_index[places]]))
    return digest.hexdigest()


def _check_dataset(dataset: SequentialDataset) -> None:
    """Refuses datasets whose rows are not RecBole's own augmentation, or are none at all."""
    check_not_ready_made(dataset.config)
    if not hasattr(dataset, f"{dataset.iid_field}_list_field"):
        raise ValueError(
            f"{type(dataset).__name__} [{dataset.dataset_name}] has no item lists: pass the "
            "training dataset of a sequential model after augmentation and split "
            "(train_data._dataset)."
        )
    if len(dataset.inter_feat) == 0:
        raise ValueError(
            f"dataset [{dataset.dataset_name}] has no training row, so there is no history: check "
            "the filters (user_inter_num_interval, ...) and eval_args."
        )


def _check_rows_continue(dataset: SequentialDataset, order: np.ndarray, first: np.ndarray) -> None:
    """Refuses rows that were shuffled, or between which a row is missing.

    Their targets would make a history in a wrong order, or one with a gap where something was held
    out. In rows as RecBole makes them, a row's list ends with the target of the row before.
    """
    rows = dataset.inter_feat
    lengths = rows[dataset.item_list_length_field].numpy()
    last_items = _item_lists(rows, dataset)[np.arange(len(lengths)), lengths - 1][order]
    previous_targets = np.roll(rows[dataset.iid_field].numpy()[order], 1)
    broken = last_items != previous_targets
    broken[first] = False
    if broken.any():
        user = rows[dataset.uid_field].numpy()[order[np.argmax(broken)]]
        token = dataset.id2token(dataset.uid_field, user)
        raise ValueError(
            f"{broken.sum()} rows of dataset [{dataset.dataset_name}] do not continue the row "
            f"before them (the first is one of user [{token}]): rows must be in time order within "
            "a user and without gaps, as RecBole's augmentation and time-ordered split leave them."
        )


def _first_lists(dataset: SequentialDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths ``[n_users]`` and items, joined, of the item lists of the given rows."""
    lengths = dataset.inter_feat[dataset.item_list_length_field].numpy()[rows]
    # Almost always one column of the possibly many: a user's earliest list has one item.
    lists = _item_lists(dataset.inter_feat, dataset)[:, : lengths.max()][rows]
    return lengths, lists[np.arange(lists.shape[1]) < lengths[:, None]]


def _item_lists(rows: Interaction, dataset: SequentialDataset) -> np.ndarray:
    """The rows' item lists, int64 ``[n_rows, MAX_ITEM_LIST_LENGTH]``, padded on the right."""
    return rows[getattr(dataset, f"{dataset.iid_field}_list_field")].numpy()


def _sorted_tokens(tokens: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
    """The order that sorts the tokens by their UTF-8 bytes, and those bytes in that order."""
    encoded = [str(token).encode("utf-8", "surrogatepass") for token in tokens.tolist()]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    return np.array(order, dtype=np.int64), [encoded[i] for i in order]


def _little_endian(numbers: np.ndarray | list[int]) -> bytes:
    """Integers as bytes that do not depend on the machine."""
    return np.asarray(numbers, dtype="<i8").tobytes()
