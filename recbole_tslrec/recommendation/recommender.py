"""Recommendations of a trained model, for users of its data set and for anyone with a history."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from logging import getLogger
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from recbole_tslrec.recbole_bridge.trained_model import load_trained_model
from recbole_tslrec.recommendation import INDEXES, ITEM_TABLE
from recbole_tslrec.recommendation.best_items import BestItems
from recbole_tslrec.recommendation.requests import Requests, RequestsOf, named
from recbole_tslrec.recommendation.similar import nearest
from recbole_tslrec.recommendation.titles import read_titles

# Users whose rows and results are in memory at a time.
_USERS_AT_ONCE = 2**15
# Which columns of an .item hold words and tokens, and what stands between words.
_FORM_OF_ITEMS = ("item_text", "ITEM_ID_FIELD", "seq_separator")


class Recommender:
    """The best items of a trained model for users, and items that are alike.

    It takes any sequential model of RecBole or ours. Scores are those of ``full_sort_predict``.

    Args:
        checkpoint: the trained model; its data set must be there.
        device: where the model works, as torch calls it.
        titles: the columns of the ``.item`` file that hold the items' titles; None: found by name, and
            if the file cannot be read there are none, with a warning.
        index: how the best items are looked for: ``none``, from the scores of all items; ``exact`` or
            ``approximate``, by an index of faiss, for models whose score is a product of vectors;
            ``auto``, an exact index for large catalogues.
        data_path: the folder in which the data set's own folder lies; None: as in training.
        llm_trust_remote_code: whether Python code that comes with its language model may run.

    Attributes:
        users, items: tokens, of the data set with padding, and of the ``n_items - 1`` of the catalogue.
        titles: by token; None if there are none.
        file_columns: what ``read_new_items`` asks of the form of an ``.item``.
        recall: the share of the best items by full scores that an approximate index found, for a
            sample of the latest users; None for an exact search.

    Raises:
        FileNotFoundError: the checkpoint, its data set, or the file of the titles is not there.
        ValueError: the checkpoint is damaged, or of another data set than is there now.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        *,
        device: str = "cpu",
        titles: str | Sequence[str] | None = None,
        index: str = "auto",
        data_path: str | os.PathLike | None = None,
        llm_trust_remote_code: bool = False,
    ):
        if index not in INDEXES:
            raise ValueError(f"index: [{index}] is none of {', '.join(INDEXES)}.")
        self._trained = load_trained_model(
            checkpoint, device, data_path=data_path, llm_trust_remote_code=llm_trust_remote_code
        )
        self._index = index
        dataset, config = self._trained.dataset, self._trained.config
        self.users: Collection[str] = dataset.field2token_id[dataset.uid_field].keys()
        self.items: list[str] = dataset.field2id_token[dataset.iid_field][1:].tolist()
        self._take_items()
        self.titles = read_titles(config.final_config_dict, self.items, titles)
        self.file_columns = tuple(config[key] for key in _FORM_OF_ITEMS)
        self.recall: float | None = None

    def _take_items(self) -> None:
        """Make anew what depends on the catalogue."""
        n_known = self._trained.dataset.item_num - 1
        self._tokens = np.array(["", *self.items], dtype=object)  # by internal id
        self._requests_of = RequestsOf(self._trained, self.items[n_known:])
        self._best_items = BestItems(self._trained, self._index)

    def add_items(self, texts: Mapping[str, str], show_progress: bool = False) -> None:
        """Take in items that came after training; they are recommended from now on.

        It needs a TSLRec model that knows items by their words alone: ``enhancement: text``, or
        ``item_prompt: text``; its language model reads them.

        Args:
            texts: by the new items' tokens.
            show_progress: whether to draw a progress bar.

        Raises:
            ValueError: the model knows items by more, one is known or has no text, a stage is not kept.
        """
        from recbole_tslrec.recommendation.new_items import add_new_items  # slow to import

        texts = _texts_by_token(texts)
        if there := sorted(texts.keys() & set(self.items)):
            raise ValueError(f"new_items: {named(there)} known already.")
        add_new_items(self._trained, texts, show_progress)
        self.items += texts
        self._take_items()
        self.titles = dict.fromkeys(self.items, "") | (self.titles or {}) | texts

    # ---- recommending ---------------------------------------------------------------------------

    def recommend(
        self,
        users: Any = None,
        *,
        histories: Mapping[str, Iterable[Any]] | None = None,
        k: int = 10,
        seen: bool = False,
        before: str | None = None,
        unknown_items: str = "refuse",
        show_progress: bool = False,
    ) -> pd.DataFrame:
        """The k best items of each user.

        Args:
            users: the token of one user of the data set, or of several; None, and no histories: all.
            histories: in place of users, items' tokens by a name for each, oldest first.
            k: how many; a user who has not seen fewer items gets fewer.
            seen: whether items of the history may be recommended again.
            before: the users' histories end before what was held out for the ``test``, or for
                ``validation`` and test; None: they are whole.
            unknown_items: ``refuse`` histories with items that are not in the data set, or ``skip``
                these items with a warning.
            show_progress: whether to draw a progress bar.

        Returns:
            a row for each user and item, users in the order given and the best item first: ``user``,
            ``rank`` from 1, ``item``, ``score`` and, where there are titles, ``title``.

        Raises:
            ValueError: a user or item is unknown, a history is empty, k is not from 1 to the number of
                items, or the model cannot recommend for histories of new users.
        """
        requests = self.requests(users, histories, before, unknown_items)
        return pd.concat(self.tables(requests, k, seen, show_progress), ignore_index=True)

    def requests(
        self,
        users: Any = None,
        histories: Mapping[str, Iterable[Any]] | None = None,
        before: str | None = None,
        unknown_items: str = "refuse",
    ) -> Requests:
        """For whom to recommend, checked; see ``recommend``."""
        if histories is None:
            tokens = None if users is None else _listed(users)
            requests = self._requests_of.users(tokens, before)
        elif users is None and before is None:
            requests = self._requests_of.histories(histories, unknown_items)
        else:
            raise ValueError("histories: users or before are given, too. Give one of the two.")
        if not len(requests):
            raise ValueError("users: none is given. Give one or more.")
        return requests

    def tables(
        self, requests: Requests, k: int = 10, seen: bool = False, show_progress: bool = False
    ) -> Iterator[pd.DataFrame]:
        """What ``recommend`` returns, in parts: memory does not grow with the number of users."""
        k = _checked(k, len(self.items), "items")
        self.recall = self._best_items.recall(requests, k, seen)
        if self.recall is not None:
            getLogger(__name__).info(f"The approximate index finds {self.recall:.1%} of the best.")
        return self._tables(requests, k, seen, show_progress)

    def _tables(
        self, requests: Requests, k: int, seen: bool, show_progress: bool
    ) -> Iterator[pd.DataFrame]:
        bar = tqdm(total=len(requests), desc="Recommend", unit=" users", disable=not show_progress)
        with bar:
            for part in requests.parts(_USERS_AT_ONCE):
                items, scores = self._best_items.of(part, k, seen, bar)
                yield self._table("user", part.names, "item", items, scores)

    # ---- items alike ----------------------------------------------------------------------------

    def similar(self, items: Any, k: int = 10, under: str = ITEM_TABLE) -> pd.DataFrame:
        """The k nearest items of each item, by the cosine of their vectors.

        Args:
            items: the token of one, or several.
            k: how many.
            under: which vectors: ``item_table``, what the model recommends with; ``e_v``, the trained
                backbone's before the language model; ``h_v``, the language model's, or what stands in
                its place; ``text``, the words of the titles, the rarer the more they count.

        Returns:
            a row for each item and neighbour: ``item``, ``rank`` from 1, ``neighbour``, ``score`` and,
            where there are titles, ``title``, the neighbour's.

        Raises:
            ValueError: an item is unknown, k is not from 1 to the number of other items, the model has
                no such vectors, or the stage that made them is not kept.
        """
        names = [str(item) for item in _listed(items)]
        rows = self._requests_of.items(names)
        k = _checked(k, len(self.items) - 1, "other items")
        found, scores = nearest(self._trained, under, self.titles, rows, k)
        return self._table("item", names, "neighbour", found, scores)

    # ---- both -----------------------------------------------------------------------------------

    def _table(
        self, asked: str, names: Sequence[str], given: str, items: Tensor, scores: Tensor
    ) -> pd.DataFrame:
        """A row for each id that is not 0, with the columns called as ``asked`` and ``given``."""
        rows, places = (items > 0).numpy().nonzero()
        tokens = self._tokens[items.numpy()[rows, places]]
        table = {
            asked: np.array(names, dtype=object)[rows],
            "rank": places + 1,
            given: tokens,
            "score": scores.numpy()[rows, places],
        }
        if self.titles is not None:
            table["title"] = [self.titles[token] for token in tokens]
        return pd.DataFrame(table)


def _checked(k: Any, most: int, what: str) -> int:
    """A number of items as it is given, NumPy's among them; ValueError for what is none."""
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= most:
        raise ValueError(f"k: [{k}] is not a whole number from 1 to {most}, the number of {what}.")
    return int(k)


def _texts_by_token(texts: Any) -> dict[str, str]:
    """New items as they are given, tokens written as everywhere; ValueError for what is none."""
    if not isinstance(texts, Mapping):
        raise ValueError(
            f"new_items: [{type(texts).__name__}] is no dictionary. Give texts by token, as "
            f"{{'1683': 'The Matrix'}}."
        )
    if wrong := [token for token, text in texts.items() if not isinstance(text, str)]:
        raise ValueError(f"new_items: {named(wrong)} without a text. Give each one as a string.")
    found = {str(token): text for token, text in texts.items()}
    if len(found) < len(texts):
        raise ValueError("new_items: two tokens are written alike. Give each its own.")
    return found


def _listed(tokens: Any) -> Iterable[Any]:
    """Tokens as they are given, one in a list: a text or a number has no parts."""
    several = isinstance(tokens, Iterable) and not isinstance(tokens, str)
    return tokens if several else [tokens]
