"""Histories that RecBole would put in another order than that of their times.

RecBole reads times as float64, makes float32 of them and only then sorts, stably, by user and time.
Today's seconds since 1970 are 128 apart in float32, and those that RecBole normalised before (ml-100k)
about one: of a user's interactions within such a step, the order is the file's. Nothing fails.
"""

from __future__ import annotations

from logging import getLogger

import numpy as np

# What was said in this process: a comparison makes many data sets of one file.
_SAID: set[str] = set()


def check_order(dataset) -> None:
    """Warn, once a process, of users whose history is not in time order for RecBole.

    What RecBole makes of the file stays as it is, so that results compare with everybody's.

    Args:
        dataset: RecBole's ``SequentialDataset`` after its filters, its interactions still a table, as
            just before they become tensors.

    Raises:
        ValueError: no user has two interactions, so that there is nothing to train on.
    """
    rows = dataset.inter_feat
    if dataset.uid_field not in rows or dataset.time_field not in rows:
        return  # RecBole's to report
    users = rows[dataset.uid_field].to_numpy()
    n_users = rows[dataset.uid_field].nunique()
    if n_users == len(users):
        raise ValueError(
            f"dataset: no user of [{dataset.dataset_name}] has two interactions, so there is nothing to "
            f"train on. Check the filters (user_inter_num_interval, item_inter_num_interval, …)."
        )
    if rows[dataset.time_field].dtype != np.float64:
        return  # no times any more, but bins (discretization)
    concerned = users_out_of_order(users, rows[dataset.time_field].to_numpy())
    warning = (
        f"dataset: the histories of {concerned} of {n_users} users of [{dataset.dataset_name}] are not "
        f"in the order of [{dataset.time_field}], for RecBole sorts by float32, in which some times are "
        f"equal, and the file is not in time order. Leave it so to compare with others' results on this "
        f"file; else sort it by time, or make another of it: python -m recbole_tslrec import"
    )
    if concerned and warning not in _SAID:
        _SAID.add(warning)
        getLogger(__name__).warning(warning)


def users_out_of_order(users: np.ndarray, times: np.ndarray) -> int:
    """How many users have two interactions that come in the wrong order, sorted as RecBole does.

    Args:
        users: int64 [n], in the file's order.
        times: float64 [n], without NaN.
    """
    with np.errstate(over="ignore"):  # as RecBole does: infinite
        rounded = times.astype(np.float32)
    if np.array_equal(rounded, times) or (times[1:] >= times[:-1]).all():
        return 0  # without sorting, as for what import writes, or a file in time order
    order = np.lexsort((rounded, users))  # stable
    users, times = users[order], times[order]
    wrong = (users[1:] == users[:-1]) & (times[1:] < times[:-1])
    return len(np.unique(users[1:][wrong]))
