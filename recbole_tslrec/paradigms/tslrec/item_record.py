"""What the report needs to know of the items of a finished run (paper §5, Figure 4; and our own)."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.paradigms.tslrec.models.ci import CategoryItemTable
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline

# t-SNE takes seconds for so many items and minutes for all; a picture shows no more.
MAP_ITEMS = 2000
_MAP_SEED = 0
_PERPLEXITY = 30.0
_MAP_COLUMNS = 50


def item_record(pipeline: Pipeline, model: FusedItemTable) -> dict[str, np.ndarray]:
    """The arrays of ``items/<cell>.npz``, in the order of internal ids, the padding row left out.

    For CI: ``item`` (str), ``training_count`` int32 and ``category`` int64, the preliminary latent
    category. For TSLRec besides: ``inferred`` int64, the category that the tuned language model gives
    most probability (argmax of ĝ^v); ``place`` int32, the place of ``category`` in ĝ^v, from 1;
    ``map_before`` and ``map_after`` float32 [n, 2], t-SNE of e_v and of h^v for a fixed sample of
    items, NaN for the others; and ``mean_gate`` float32, the share of the id embedding, if the fusion
    has a gate.

    Args:
        pipeline: of the run. Stages that were removed since are made again.
        model: the trained model.

    Raises:
        ValueError: the model takes something else than h^v of its own tuned language model, or a stage
            that was made again came out otherwise than the one before.
    """
    counts = np.bincount(pipeline.histories.items, minlength=len(pipeline.tokens) + 1)[1:]
    record = {
        "item": np.array(pipeline.tokens),
        "training_count": counts.astype(np.int32),
    }
    categories = pipeline.stage(CategoriesStage)
    if isinstance(model, CategoryItemTable):
        return record | {"category": categories.item_categories().numpy()}
    _check_own_embeddings(pipeline.config)
    stages = model.stages(pipeline.config)
    augmentation = pipeline.stage(next(one for one in stages if issubclass(one, AugmentationStage)))
    augmentation.check_agrees()
    category = categories.item_categories().numpy()
    inferred, place = places(augmentation.category_distributions().numpy(), category)
    shown = map_sample(pipeline.tokens)
    record |= {
        "category": category,
        "inferred": inferred,
        "place": place,
        "map_before": map_of(pipeline.stage(BackboneStage).item_embeddings().numpy(), shown),
        "map_after": map_of(augmentation.enhanced_embeddings().numpy(), shown),
    }
    if hasattr(model.fusion, "mean_gate"):
        record["mean_gate"] = model.mean_gate()[1:].float().cpu().numpy()
    return record


def places(distributions: np.ndarray, category: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable category and the place of the item's own one, which agree on ties.

    Args:
        distributions: ĝ^v, [n, K].
        category: int64 [n].

    Returns:
        int64 [n] and int32 [n], from 1.
    """
    order = np.argsort(-distributions, axis=1, kind="stable")
    place = np.argmax(order == category[:, None], axis=1) + 1
    return order[:, 0].astype(np.int64), place.astype(np.int32)


def _check_own_embeddings(config) -> None:
    for key, own in (("enhancement", "tslrec"), ("enhanced_items", None)):
        if config[key] != own:
            raise ValueError(
                f"{key}: [{config[key]}]: an item record is of items that the run's own tuned "
                f"language model has read, which is {key}: [{own}]."
            )


def map_sample(tokens: list[str]) -> np.ndarray:
    """Rows of at most ``MAP_ITEMS`` items: the same items whatever their internal ids."""
    by_token = np.argsort(np.array(tokens), kind="stable")
    size = min(MAP_ITEMS, len(tokens))
    return np.random.default_rng(_MAP_SEED).choice(by_token, size, replace=False)


def map_of(vectors: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """t-SNE of some rows after PCA to at most 50 columns; [n, 2] float32, NaN for the other rows.

    Rows that are all alike lie in one place, 0.
    """
    points = np.full((len(vectors), 2), np.nan, dtype=np.float32)
    chosen = vectors[shown].astype(np.float64)
    if not np.ptp(chosen, axis=0).any():  # t-SNE divides by their spread, and ends the process
        points[shown] = 0
        return points
    with threadpool_limits(1):  # the same sums on any number of cores
        columns = min(_MAP_COLUMNS, *chosen.shape)
        chosen = PCA(columns, random_state=_MAP_SEED).fit_transform(chosen)
        perplexity = min(_PERPLEXITY, (len(chosen) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=_MAP_SEED)
        points[shown] = tsne.fit_transform(chosen)
    return points
