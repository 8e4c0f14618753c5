"""The best items of a block of users: from the scores of all items, or by an index of the item table."""

from __future__ import annotations

import inspect
from typing import Protocol

import faiss
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_tslrec.backbones.registry import backbone_of
from recbole_tslrec.evaluation.candidates import top_items

# From so many items on an exact index takes less time than the scores of all items (docs/scale.md).
LARGE = 100_000
# faiss's advice for an inverted file: 4 to 16 times the root of the items, 39 points a list or more.
_LISTS_A_ROOT = 4
_POINTS_A_LIST = 64
_PROBED_SHARE = 1 / 32
# How far two ways of adding up a score may differ, beside the largest score.
_TOLERANCE = 1e-4


class Search(Protocol):
    """Looks for the best items."""

    def best(self, rows: Interaction, k: int, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The best items of each row.

        Args:
            rows: RecBole's, on the model's device.
            k: how many.
            seen: int64 [B, any], items to leave out, padded with 0; None: none.

        Returns:
            int64 and float32 [B, k] on the CPU: internal ids and scores, the best first; where a row
            has fewer, ids are 0.

        Raises:
            ValueError: a score is NaN or infinite.
        """


class FullScores:
    """Scores all items of every row, as an evaluation does.

    Args:
        model: in evaluation mode.
        items: RecBole's features of all items, for models that score one item at a time.
    """

    def __init__(self, model: SequentialRecommender, items: Interaction):
        self._model, self._items = model, items

    def best(self, rows: Interaction, k: int, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        scores = self.scores(rows)
        items = top_items(scores, k, None if seen is None else seen.to(scores.device))
        return items.cpu(), scores.gather(1, items).float().cpu()

    def scores(self, rows: Interaction) -> Tensor:
        """[B, n_items], with a column for padding."""
        try:
            scores = self._model.full_sort_predict(rows)
        except (
            NotImplementedError
        ):  # DIN, DIEN: item by item, and one user at a time for the memory
            scores = torch.stack([self._of_one(rows[[row]]) for row in range(len(rows))])
        return scores.view(len(rows), -1)

    def _of_one(self, row: Interaction) -> Tensor:
        rows = row.repeat(self._model.n_items)
        rows.update(self._items.to(row[self._model.ITEM_SEQ].device))
        return self._model.predict(rows)


class ProductIndex:
    """An index of faiss, for a model whose score is the product of a user's vector and an item's.

    Args:
        model: in evaluation mode.
        table: its items' vectors, [n_items, d], with a row for padding.
        approximate: whether to look into the nearest lists of an inverted file alone.
    """

    def __init__(self, model: SequentialRecommender, table: Tensor, approximate: bool):
        self._model = model
        vectors = table[1:].detach().float().cpu().numpy()
        n_items, dimension = vectors.shape
        self._index: faiss.Index = faiss.IndexFlatIP(dimension)
        if approximate:
            n_lists = max(1, min(int(_LISTS_A_ROOT * n_items**0.5), n_items // _POINTS_A_LIST))
            inner_product = faiss.METRIC_INNER_PRODUCT
            self._index = faiss.IndexIVFFlat(self._index, dimension, n_lists, inner_product)
            self._index.nprobe = max(1, round(n_lists * _PROBED_SHARE))
            # faiss's own 256 take four times as long.
            self._index.cp.max_points_per_centroid = _POINTS_A_LIST
            self._index.train(vectors)
        self._index.add(vectors)

    def best(self, rows: Interaction, k: int, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        users = user_vectors(self._model, rows).float().cpu()
        if not users.isfinite().all():
            raise ValueError("A user's vector holds NaN or infinity: the training has diverged.")
        n_more = 0 if seen is None else seen.shape[1]
        n_found = min(k + n_more, self._index.ntotal)
        scores, found = map(torch.from_numpy, self._index.search(users.numpy(), n_found))
        items = found + 1  # padding is not in it; -1, nothing more was found, becomes 0
        if n_more:
            ordered = seen.cpu().sort(dim=1).values
            places = torch.searchsorted(ordered, items).clamp_(max=n_more - 1)
            out = ordered.gather(1, places) == items
            items, scores = items.masked_fill(out, 0), scores.masked_fill(out, -torch.inf)
            order = (items == 0).to(torch.uint8).argsort(dim=1, stable=True)
            items, scores = items.gather(1, order), scores.gather(1, order)
        return items[:, :k], scores[:, :k]


def user_vectors(model: SequentialRecommender, rows: Interaction) -> Tensor:
    """What a model that scores by a product makes of histories, [B, d]."""
    return model.forward(rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN])


def item_table(model: SequentialRecommender) -> Tensor | None:
    """The items' vectors with which a model scores, [n_items, d]; None if none has a known name."""
    backbone = backbone_of(model)
    if backbone is not None:
        weight = getattr(model, backbone.item_table).weight
        return weight[: len(weight) - backbone.rows_beyond]
    # HGN reads by one table and scores by another.
    for name in ("item_embedding_for_prediction", "item_embedding", "item_scores"):
        module = getattr(model, name, None)
        weight = module.weight if isinstance(module, (nn.Embedding, nn.Linear)) else None
        if weight is not None and len(weight) >= model.n_items:
            return weight[: model.n_items]
    return None


def product_table(
    model: SequentialRecommender, rows: Interaction, full: FullScores
) -> Tensor | None:
    """The items' vectors if the model's score is their product with a user's; None if it is not.

    It is tried out: no model has to say it of itself.

    Args:
        model: in evaluation mode.
        rows: some of RecBole's rows, on the model's device.
        full: the model's scores.
    """
    term = getattr(model, "scoring_term", None)
    if term is not None and term.in_use:  # it may be nothing for the rows of the trial alone
        return None
    table = item_table(model)
    takes = list(inspect.signature(model.forward).parameters)
    if table is None or takes != ["item_seq", "item_seq_len"]:
        return None
    users = user_vectors(model, rows)
    if users.shape != (len(rows), table.shape[1]):
        return None
    scores = full.scores(rows)
    allowed = _TOLERANCE * scores[:, 1:].abs().max()
    is_product = ((users @ table.T - scores)[:, 1:].abs() <= allowed).all()
    return table if is_product else None


def choose_search(
    model: SequentialRecommender, index: str, rows: Interaction, full: FullScores
) -> Search:
    """What finds the best items of a model.

    Args:
        model: in evaluation mode.
        index: one of ``INDEXES``. auto: on a CPU an exact one, for a large catalogue and a score that is
            a product; else none.
        rows: some of RecBole's rows, on the model's device.
        full: the model's scores.

    Raises:
        ValueError: an index is asked for, and the model's score is no product.
    """
    auto = model.n_items > LARGE and next(model.parameters()).device.type == "cpu"
    if index == "none" or (index == "auto" and not auto):
        return full
    table = product_table(model, rows, full)
    if table is not None:
        return ProductIndex(model, table, approximate=index == "approximate")
    if index == "auto":
        return full
    raise ValueError(
        f"index: [{index}] finds items by a product of vectors, and the score of "
        f"[{type(model).__name__}] is none. Set index=none."
    )
