"""For whom to recommend: users of the data set by token, or histories given as tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_tslrec.config.recbole_keys import given_filters
from recbole_tslrec.data.histories import Histories, training_histories
from recbole_tslrec.data.import_.text_files import read_lines
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel
from recbole_tslrec.recommendation import HELD_OUT, UNKNOWN_ITEMS


@dataclass(frozen=True, eq=False)
class Requests:
    """Histories to recommend for.

    Attributes:
        names: what each is called in the result.
        histories: internal item ids of each, int64 [length], oldest first; none is empty.
        users: internal user ids, int64 [n]; None for histories of users that the model has not seen.
    """

    names: Sequence[str]
    histories: Sequence[np.ndarray]
    users: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)

    def at(self, places: Iterable[int]) -> Requests:
        """Some of them, by their places."""
        places = list(places)
        users = None if self.users is None else self.users[places]
        names, histories = (
            [all_of[at] for at in places] for all_of in (self.names, self.histories)
        )
        return Requests(names, histories, users)

    def parts(self, size: int) -> Iterator[Requests]:
        """All of them in their order, so many at a time."""
        for start in range(0, len(self), size):
            yield self.at(range(start, min(start + size, len(self))))


class UnknownTokens(ValueError):
    """Tokens that the data set does not have."""


class RequestsOf:
    """Makes requests from the tokens of a model's data set.

    Args:
        trained: the model with its data.
        items: tokens of further items, whose internal ids follow the data set's.
    """

    def __init__(self, trained: TrainedModel, items: Iterable[str] = ()):
        self._trained = trained
        dataset = trained.dataset
        self._name = dataset.dataset_name
        self._user_tokens = dataset.field2id_token[dataset.uid_field]
        self._users: Mapping[str, int] = dataset.field2token_id[dataset.uid_field]
        more = {token: dataset.item_num + at for at, token in enumerate(items)}
        self._items: Mapping[str, int] = dataset.field2token_id[dataset.iid_field] | more

    @property
    def _missing(self) -> str:
        """The end of the sentence on tokens that are not known; a filter may have taken them out."""
        filters = ", ".join(given_filters(self._trained.config))
        left = f" as its filters leave it ({filters})" if filters else ""
        return f"not in the data set [{self._name}]{left}."

    # ---- users of the data set ------------------------------------------------------------------

    @cached_property
    def _whole(self) -> Histories:
        return training_histories(self._trained.dataset)  # of all rows, not of the training rows

    def users(self, tokens: Iterable[Any] | None, before: str | None) -> Requests:
        """Users with what they had.

        Args:
            tokens: of the users; None: all who have a history.
            before: where a history ends: before the user's interactions held out for the ``test``, or
                for ``validation`` and test; None: it is whole.

        Raises:
            ValueError: a user is not in the data set, or has nothing before what was held out; or the
                data set has ready-made sequences, of which a user's history cannot be told.
        """
        if self._trained.config["benchmark_filename"]:
            raise ValueError(
                f"users: the data set [{self._name}] has ready-made sequences (benchmark_filename), of "
                f"which nobody's history can be told. Give histories."
            )
        if before not in (None, *HELD_OUT):
            raise ValueError(f"before: [{before}] is none of {', '.join(HELD_OUT)}, and not None.")
        held_out = self._held_out(before)
        if tokens is None:
            users = np.union1d(self._whole.user_ids, list(self._trained.lone_items)).astype(int)
            found = [(user, history) for user in users if len(history := self._of(user, held_out))]
            users, histories = zip(*found, strict=True) if found else ((), ())
            names = self._user_tokens[list(users)].tolist() if users else []
            return Requests(names, histories, np.array(users, dtype=np.int64))
        names = [str(token) for token in tokens]
        if unknown := [name for name in names if not self._users.get(name)]:  # 0 is padding
            raise UnknownTokens(
                f"users: {named(unknown)} {self._missing} Give tokens of its .inter file or, for new "
                f"users, their histories."
            )
        users = [self._users[name] for name in names]
        histories = [self._of(user, held_out) for user in users]
        pairs = zip(names, histories, strict=True)
        if empty := [name for name, history in pairs if not len(history)]:
            raise ValueError(
                f"users: {named(empty)} without an interaction. Leave them out."
                if before is None
                else f"users: {named(empty)} without an interaction before the {before} rows. Leave "
                f"them out, or set before=None for whole histories."
            )
        return Requests(names, histories, np.array(users, dtype=np.int64))

    def _held_out(self, before: str | None) -> np.ndarray:
        """How many of a user's interactions are cut off, int64 [n_users]."""
        dataset = self._trained.dataset
        loaders = {
            None: (),
            "test": (self._trained.test_data,),
            "validation": (self._trained.valid_data, self._trained.test_data),
        }[before]
        counts = np.zeros(dataset.user_num, dtype=np.int64)
        for loader in loaders:
            rows = loader._dataset.inter_feat[dataset.uid_field].numpy()
            counts += np.bincount(rows, minlength=dataset.user_num)
        return counts

    def _of(self, user: int, held_out: np.ndarray) -> np.ndarray:
        if user in self._trained.lone_items:
            return np.array([self._trained.lone_items[user]], dtype=np.int64)
        place = int(np.searchsorted(self._whole.user_ids, user))
        if user not in self._whole.user_ids[place : place + 1]:  # named in the .user file alone
            return np.empty(0, dtype=np.int64)
        history = self._whole[place]
        return history[: len(history) - held_out[user]]

    # ---- items ----------------------------------------------------------------------------------

    def items(self, tokens: Sequence[str]) -> np.ndarray:
        """Internal ids of items, int64 [n]; ValueError for none, or one that is not in the data set."""
        if not tokens:
            raise ValueError("items: none is given. Give one or more.")
        if unknown := [token for token in tokens if not self._items.get(token)]:
            raise UnknownTokens(f"items: {named(unknown)} {self._missing}")
        return np.array([self._items[token] for token in tokens], dtype=np.int64)

    # ---- histories as tokens --------------------------------------------------------------------

    def histories(
        self, histories: Mapping[str, Iterable[Any]], unknown_items: str = "refuse"
    ) -> Requests:
        """Histories of users that need not be in the data set.

        Args:
            histories: the items' tokens by a name, oldest first.
            unknown_items: ``refuse`` items that the model does not know, or ``skip`` them, saying which.

        Raises:
            ValueError: a history is empty or a string, has only unknown items, or has some and they are
                refused; or two names are written alike.
        """
        if unknown_items not in UNKNOWN_ITEMS:
            raise ValueError(f"unknown_items: [{unknown_items}] is none of {UNKNOWN_ITEMS}.")
        if not isinstance(histories, Mapping):
            raise ValueError(
                f"histories: [{type(histories).__name__}] has no names. Give a dictionary of lists of "
                f"items, as {{'new': ['50', '181']}}."
            )
        if single := [name for name, items in histories.items() if not _is_listed(items)]:
            raise ValueError(f"histories: {named(single)} not a list of items. Give each one.")
        given = {str(name): [str(item) for item in items] for name, items in histories.items()}
        if len(given) < len(histories):
            raise ValueError("histories: two names are written alike. Give each its own.")
        if empty := [name for name, items in given.items() if not items]:
            raise ValueError(f"histories: {named(empty)} empty. Give each one item or more.")
        unknown = [
            item
            for item in dict.fromkeys(item for items in given.values() for item in items)
            if not self._items.get(item)
        ]
        if unknown and unknown_items == "refuse":
            raise UnknownTokens(
                f"histories: {named(unknown, 'item')} {self._missing} Take them out, or set "
                f"unknown_items=skip."
            )
        if unknown:
            getLogger(__name__).warning(
                f"histories: {named(unknown, 'item')} not in the data set [{self._name}]: skipped."
            )
        known = {
            name: np.array([self._items[item] for item in items if self._items.get(item)], np.int64)
            for name, items in given.items()
        }
        if left := [name for name, items in known.items() if not len(items)]:
            raise ValueError(
                f"histories: {named(left)} without any item of the data set [{self._name}]. Give each "
                f"one item or more that the model knows."
            )
        return Requests(list(known), list(known.values()), None)


def _is_listed(items: Any) -> bool:
    return isinstance(items, Iterable) and not isinstance(items, str | bytes)


def named(tokens: Collection[str], what: str = "") -> str:
    """How many there are and the first of them, as the beginning of a sentence: ``'a', 'b' are``."""
    shown = ", ".join(repr(token) for token in list(tokens)[:5])
    kind = f"{what}{'s' if what and len(tokens) > 1 else ''} " if what else ""
    more = f" and {len(tokens) - 5:,} more" if len(tokens) > 5 else ""
    return f"{kind}{shown}{more} {'is' if len(tokens) == 1 else 'are'}"


# ---- files ------------------------------------------------------------------------------------------


def read_users(path: Path) -> list[str]:
    """A user's token a line.

    Raises:
        ValueError: a line is empty; names file and line.
    """
    users = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            raise ValueError(f"{path}, line {number}: there is no user. Give a token a line.")
        users.append(line.rstrip("\r\n"))
    if not users:
        raise ValueError(f"{path}: has no users. Give a token a line.")
    return users


def read_histories(path: Path) -> dict[str, list[str]]:
    """Histories by name, from one of two forms of files, told apart by their names.

    ``.jsonl``: lines ``{"user": name, "history": [item, ...]}``. Any other: lines ``name item item ...``
    with spaces or tabs between them. Oldest items first.

    Raises:
        ValueError: a line is something else, or a name comes twice; names file and line.
    """
    parse = _from_json if path.suffix == ".jsonl" else _from_words
    histories: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            name, items = parse(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if name in lines:
            raise ValueError(f"{path}, line {number}: [{name}] has line {lines[name]} already.")
        histories[name], lines[name] = items, number
    if not histories:
        raise ValueError(f"{path}: has no histories. Give a line each.")
    return histories


def _from_words(line: str) -> tuple[str, list[str]]:
    name, *items = re.findall(r"[^ \t\r\n]+", line) or [""]
    if not items:
        raise ValueError(f"[{line.strip()}] is not a name and items, with spaces between them.")
    return name, items


def _from_json(line: str) -> tuple[str, list[str]]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):  # the latter of lists in lists in lists
        content = None
    user, items = (content.get(key) if isinstance(content, dict) else None for key in _JSON_KEYS)
    are_items = (
        isinstance(items, list) and items and all(type(item) in (str, int) for item in items)
    )
    if not isinstance(user, str) or not are_items:
        raise ValueError(
            f'[{line.strip()[:60]}] is not {{"user": "a name", "history": ["an item", "another"]}}, '
            f"items texts or whole numbers."
        )
    return user, [str(item) for item in items]


_JSON_KEYS = ("user", "history")
