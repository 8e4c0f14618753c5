"""Interactions, each user's oldest first, and their k-core."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

_EXACT_FLOAT32 = 2**24  # the largest of the whole numbers from 0 on that float32 has all of


@dataclass(frozen=True)
class Interactions:
    """Who had what, in order: the rows of a user stand together, oldest first.

    Attributes:
        users, items: the distinct tokens, str objects; after ``k_core`` some may have no row.
        user, item: int64 [n], for each interaction the place of its tokens in the two above.
        time: int64 [n], in the order of the source's times, of all users, and rising within a user;
            None if the source has no times.
    """

    users: np.ndarray
    items: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def used_users(self) -> np.ndarray:
        """The tokens of the users who have an interaction."""
        return self.users[np.unique(self.user)]

    @property
    def used_items(self) -> np.ndarray:
        """The tokens of the items that have an interaction."""
        return self.items[np.unique(self.item)]

    @property
    def places(self) -> np.ndarray:
        """int64 [n], the interaction's place in its user's history: 0, 1, 2, …"""
        starts = np.flatnonzero(np.diff(self.user, prepend=-1))
        lengths = np.diff(starts, append=len(self))
        return np.arange(len(self)) - np.repeat(starts, lengths)

    @cached_property
    def no_order(self) -> str | None:
        """Why the times of different users cannot be told apart; None: they can."""
        if self.time is None:
            return "the source has no times"
        n_times = len(np.unique(self.time))
        if n_times <= _EXACT_FLOAT32:
            return None
        return f"of the {n_times:,} times RecBole tells {_EXACT_FLOAT32:,} apart"

    def k_core(self, min_user: int, min_item: int) -> Interactions:
        """The most interactions in which every user has ``min_user`` and every item ``min_item``.

        A pair that is there twice counts twice, as in RecBole's own filtering.
        """
        rows = np.arange(len(self))
        while True:
            user, item = self.user[rows], self.item[rows]
            enough = (np.bincount(user)[user] >= min_user) & (np.bincount(item)[item] >= min_item)
            if enough.all():
                time = None if self.time is None else self.time[rows]
                return Interactions(self.users, self.items, user, item, time)
            rows = rows[enough]

    def table(self) -> pd.DataFrame:
        """The rows of RecBole's ``.inter``, under its headers.

        The time is the place among all times that are left, in the history if ``no_order`` says so.
        RecBole holds times as float32, which tells such small numbers apart exactly, and seconds since
        1970 only to two minutes.
        """
        time = self.places if self.no_order else np.unique(self.time, return_inverse=True)[1]
        columns = {
            "user_id:token": self.users[self.user],
            "item_id:token": self.items[self.item],
            "timestamp:float": time,
        }
        return pd.DataFrame(columns)
