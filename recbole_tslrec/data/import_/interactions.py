"""Interactions, each user's oldest first, and their k-core."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Interactions:
    """Who had what, in order: the rows of a user stand together, oldest first.

    Attributes:
        users, items: the distinct tokens, str objects; after ``k_core`` some may have no row.
        user, item: int64 [n], for each interaction the place of its tokens in the two above.
    """

    users: np.ndarray
    items: np.ndarray
    user: np.ndarray
    item: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

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

    def k_core(self, min_user: int, min_item: int) -> Interactions:
        """The most interactions in which every user has ``min_user`` and every item ``min_item``.

        A pair that is there twice counts twice, as in RecBole's own filtering.
        """
        rows = np.arange(len(self))
        while True:
            user, item = self.user[rows], self.item[rows]
            enough = (np.bincount(user)[user] >= min_user) & (np.bincount(item)[item] >= min_item)
            if enough.all():
                return Interactions(self.users, self.items, user, item)
            rows = rows[enough]

    def table(self) -> pd.DataFrame:
        """The rows of RecBole's ``.inter``, under its headers.

        The time is the place in the history: RecBole holds times as float32, which tells such small
        numbers apart exactly, and seconds since 1970 only to two minutes.
        """
        columns = {
            "user_id:token": self.users[self.user],
            "item_id:token": self.items[self.item],
            "timestamp:float": self.places,
        }
        return pd.DataFrame(columns)
