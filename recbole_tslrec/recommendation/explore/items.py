"""How the items lie: categories, gate, neighbours before and after the language model, maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.paradigms.tslrec.augmentation.controls import vectors_of
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import EnhancedEmbedding
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.paradigms.tslrec.item_record import map_of, map_sample
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable
from recbole_tslrec.recbole_bridge.paradigm import chain
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel
from recbole_tslrec.recommendation import E_V, H_V, ITEM_TABLE
from recbole_tslrec.recommendation.search import item_table
from recbole_tslrec.recommendation.similar import (
    best_of,
    cosines_of,
    item_vectors,
    kept_stages,
)
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage

# Of the categories that the language model infers, the most probable ones.
_INFERRED = 3
# A stage that is not kept, or a language model that is not there to say which stage it is.
_NOT_TO_BE_HAD = (ValueError, OSError, ModuleNotFoundError)


@dataclass
class Items:
    """What is known of the items.

    Attributes:
        columns: by name, a value for each item.
        views: neighbours under some vectors, a list for each item, and their cosines in thousandths.
        maps: rows of items and their places in the unit square.
        notes: what could not be shown, and why.
    """

    columns: dict[str, list] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def describe_items(trained: Sequence[TrainedModel], k: int) -> Items:
    """All that is known of the items under one or two models; what cannot be had is noted.

    Args:
        trained: the models with their data.
        k: how many neighbours.
    """
    items = Items()
    dataset = trained[0].dataset
    on_map = np.sort(map_sample(dataset.field2id_token[dataset.iid_field][1:].tolist()))
    fused = [one for one in trained if isinstance(one.model, FusedItemTable)]
    for one in fused:
        of = f" ({one.config['model']})" if len(fused) > 1 else ""
        _add_columns(items, one)
        for under, name, note in _vectors(one):
            try:
                _add_view(items, item_vectors(one, under), name + of, note, k, on_map)
            except _NOT_TO_BE_HAD as error:
                items.notes.append(f"Not shown: {name}{of}. {error}")
    on_map = None if items.maps else on_map
    for one in trained:
        name = one.config["model"]
        if item_table(one.model) is None:
            items.notes.append(f"Not shown: neighbours in {name}, which has no one item table.")
            continue
        note = f"nearest under the item table with which {name} recommends"
        vectors = item_vectors(one, ITEM_TABLE)
        _add_view(items, vectors, f"In {name}", note, k, on_map)
    return items


def _stages(trained: TrainedModel) -> tuple:
    return trained.model.stages(trained.config)


def _vectors(trained: TrainedModel) -> list[tuple[str, str, str]]:
    """Of a model with a fused item table: vectors, their name on the page, what they are."""
    views = []
    if BackboneStage in chain(_stages(trained)):
        note = "nearest under e_v, the trained backbone's embeddings"
        views.append((E_V, "Before the language model", note))
    if not isinstance(trained.model, EnhancedItemTable):
        return views
    vectors = vectors_of(trained.config)
    if issubclass(vectors, EnhancedEmbedding):  # in a given file, too
        return [*views, (H_V, "After the language model", "nearest under h^v, its hidden states")]
    return [
        *views,
        (H_V, f"Control {vectors.name}", "nearest under what stands in the place of h^v"),
    ]


def _add_columns(items: Items, trained: TrainedModel) -> None:
    """Category, gate and inferred categories; of two models that have them, the first one's."""
    model, name = trained.model, trained.config["model"]
    if hasattr(getattr(model, "fusion", None), "mean_gate") and "gate" not in items.columns:
        gate = model.mean_gate()[1:].double().cpu().numpy()
        items.columns["gate"] = gate.round(3).tolist()
    kept = ((CategoriesStage, _add_categories), (AugmentationStage, _add_inferred))
    for kind, add in kept:
        if kind not in chain(_stages(trained)):
            continue
        try:
            add(items, kept_stages(trained, (kind,)).stage(kind))
        except _NOT_TO_BE_HAD as error:
            items.notes.append(f"Not shown: {kind.name} of {name}. {error}")


def _add_categories(items: Items, stage: CategoriesStage) -> None:
    items.columns.setdefault("category", stage.item_categories().tolist())


def _add_inferred(items: Items, stage: AugmentationStage) -> None:
    distributions = stage.category_distributions()
    shares, categories = distributions.topk(min(_INFERRED, distributions.shape[1]), dim=1)
    pairs = torch.stack([categories.double(), shares.double()], dim=2).numpy().round(3).tolist()
    items.columns.setdefault("inferred", [[[int(c), share] for c, share in row] for row in pairs])


def _add_view(
    items: Items, vectors: Tensor, name: str, note: str, k: int, on_map: np.ndarray | None
) -> None:
    k = min(k, len(vectors) - 1)
    every = np.arange(1, len(vectors) + 1)
    found, cosines = best_of(cosines_of(vectors), every, k)
    thousandths = (1000 * cosines).round().int()
    view = {"name": name, "note": note}
    lists = {"neighbours": (found - 1).tolist(), "cosines": thousandths.tolist()}
    items.views.append(view | lists)
    if on_map is not None:
        items.maps.append({"name": name} | _map(vectors, on_map))


def _map(vectors: Tensor, shown: np.ndarray) -> dict[str, list]:
    """Some items by row, and their places in the unit square."""
    points = map_of(vectors.numpy(), shown)[shown].astype(np.float64)
    points -= points.min(axis=0)
    points += (np.ptp(points) - np.ptp(points, axis=0)) / 2
    points /= max(np.ptp(points), np.finfo(np.float32).tiny)
    return {"rows": shown.tolist(), "points": points.round(4).tolist()}
