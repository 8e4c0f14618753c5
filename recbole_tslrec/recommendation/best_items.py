"""The best items of many histories, in blocks of bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from recbole_tslrec.backbones.registry import backbone_of, without_padding
from recbole_tslrec.evaluation.blocks import BlockDataLoader
from recbole_tslrec.recbole_bridge.reranker import NO_CANDIDATES, Reranker
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel
from recbole_tslrec.recommendation.requests import Requests
from recbole_tslrec.recommendation.search import FullScores, Search, choose_search

# Histories on which the recall of an approximate index is measured.
_COMPARED = 256


class BestItems:
    """Finds the best items of histories.

    Args:
        trained: the model with its data.
        index: one of ``search.INDEXES``.
    """

    def __init__(self, trained: TrainedModel, index: str):
        self._trained, self._model = trained, trained.model
        self._index = index
        self._full = FullScores(self._model, trained.dataset.get_item_feature())
        self._search: Search | None = None

    @torch.no_grad()
    def of(
        self, requests: Requests, k: int, seen: bool, bar: tqdm | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best items of each history.

        Args:
            requests: at least one.
            k: how many.
            seen: whether items of the history count.
            bar: told of every history that is done.

        Returns:
            int64 and float32 [n, k]: internal ids, the best first, 0 where there are fewer; scores.

        Raises:
            ValueError: the model reads more than the requests hold, or a score is NaN or infinite.
        """
        if self._search is None:
            self._search = self._choose(requests)
        return self._found_by(self._search, requests, k, seen, bar)

    @torch.no_grad()
    def recall(self, requests: Requests, k: int, seen: bool) -> float | None:
        """The share of the best items by full scores that the index finds, for a sample of histories.

        None if nothing is approximate.
        """
        if self._index != "approximate":
            return None
        size = min(_COMPARED, len(requests))
        chosen = np.random.default_rng(0).choice(len(requests), size, replace=False)
        sample = requests.at(np.sort(chosen))
        found, _ = self.of(sample, k, seen)
        exact, _ = self._found_by(self._full, sample, k, seen)
        is_found = (exact[:, :, None] == found[:, None, :]).any(dim=2)
        return is_found[exact > 0].float().mean().item()

    def _choose(self, requests: Requests) -> Search:
        rows, *_ = next(iter(self._blocks(next(requests.parts(8)))))
        with parametrize.cached():
            return choose_search(self._model, self._index, self._moved(rows), self._full)

    def _found_by(
        self, search: Search, requests: Requests, k: int, seen: bool, bar: tqdm | None = None
    ) -> tuple[Tensor, Tensor]:
        blocks = self._blocks(requests)
        items = torch.zeros(len(requests), k, dtype=torch.int64)
        scores = torch.zeros(len(requests), k)
        done = 0
        # A fused item table is made once for all blocks.
        with parametrize.cached(), without_padding(self._model):
            for rows, *_ in blocks:
                places = blocks.order[done : done + len(rows)]
                whole = [torch.from_numpy(requests.histories[place]) for place in places]
                histories = pad_sequence(whole, batch_first=True)
                if self._ranks_unseen(seen):
                    rows.interaction[NO_CANDIDATES] = histories
                found, of_found = self._of_block(search, rows, k, None if seen else histories)
                items[places, : found.shape[1]] = found
                scores[places, : found.shape[1]] = of_found
                done += len(rows)
                if bar is not None:
                    bar.update(len(rows))
        return items, scores

    def _ranks_unseen(self, seen: bool) -> bool:
        """Whether no item of the whole history, of which lists hold the latest, is to be a candidate.

        One that is left out afterwards would use up a place.
        """
        model = self._model
        return isinstance(model, Reranker) and not (seen and model.candidates == "all")

    def _of_block(
        self, search: Search, rows: Interaction, k: int, left_out: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        try:
            return search.best(self._moved(rows), k, left_out)
        except KeyError as error:
            name, field = type(self._model).__name__, error.args[0]
            if field == self._model.USER_ID:
                raise ValueError(
                    f"histories: [{name}] has a vector for each user that it was trained on, and so "
                    f"none for new ones. Give users of the data set, or another model."
                ) from error
            raise ValueError(
                f"[{name}] reads [{field}] of every interaction, which histories of items do not hold: "
                f"it cannot recommend here. Give another model."
            ) from error

    def _moved(self, rows: Interaction) -> Interaction:
        return rows.to(self._trained.config["device"])

    def _blocks(self, requests: Requests) -> BlockDataLoader:
        """The histories as RecBole's rows, by length in blocks."""
        dataset, config = self._trained.train_data._dataset, self._trained.config
        most = config["MAX_ITEM_LIST_LENGTH"]
        recent = [torch.from_numpy(history[-most:]) for history in requests.histories]
        lists = torch.zeros(len(requests), most, dtype=torch.int64)
        for row, history in zip(lists, recent, strict=True):
            row[: len(history)] = history
        columns = {
            self._model.ITEM_SEQ: lists,
            self._model.ITEM_SEQ_LEN: torch.tensor([len(history) for history in recent]),
            self._model.ITEM_ID: torch.zeros(len(requests), dtype=torch.int64),  # no target
        }
        if requests.users is not None:
            columns[self._model.USER_ID] = torch.from_numpy(requests.users)
        rows = dataset.copy(Interaction(columns))
        return BlockDataLoader(config, rows, None, backbone_of(self._model))
