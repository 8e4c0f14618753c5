"""Items that are alike: the nearest ones under one of the vectors that there are of an item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.evaluation.candidates import top_items
from recbole_tslrec.paradigms.tslrec.augmentation.controls import vectors_of
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable
from recbole_tslrec.recbole_bridge.paradigm import chain
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel
from recbole_tslrec.recommendation import E_V, H_V, ITEM_TABLE, TEXT, UNDER
from recbole_tslrec.recommendation.search import item_table
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.stage import Stage

# Cosines of a block of items with all others.
_ITEMS_AT_ONCE = 128

# Of rows without padding: their cosines with all items, [B, n_items - 1].
Cosines = Callable[[np.ndarray], Tensor]


def nearest(
    trained: TrainedModel,
    under: str,
    titles: Mapping[str, str] | None,
    items: np.ndarray,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The k nearest other items by the cosine of their vectors.

    Args:
        trained: the model with its data.
        under: one of ``UNDER``.
        titles: by token; None if there are none.
        items: internal ids, int64 [n].
        k: from 1 to the number of other items.

    Returns:
        int64 and float32 [n, k]: internal ids, the nearest first, and cosines. Of items with fewer that
        share a word with them under ``text``, ids are 0 behind these.

    Raises:
        ValueError: ``under`` is none of them, or there are no such vectors.
    """
    if under == TEXT:
        found, scores = best_of(_of_words(trained, titles), items, k)
        return found.masked_fill(scores <= 0, 0), scores
    vectors = item_vectors(trained, under)
    if items.max(initial=0) > len(vectors):
        raise ValueError(
            f"items: one is new, and has no vector under [{under}]. Set under=item_table."
        )
    return best_of(cosines_of(vectors), items, k)


def best_of(cosines: Cosines, items: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other items by their cosines; see :func:`nearest`."""
    found, scores = [], []
    for block in np.array_split(items, max(1, -(-len(items) // _ITEMS_AT_ONCE))):
        of_block = F.pad(cosines(block - 1), (1, 0))  # a column for padding
        best = top_items(of_block, k, torch.from_numpy(block)[:, None])
        found.append(best)
        scores.append(of_block.gather(1, best))
    return torch.cat(found), torch.cat(scores)


def cosines_of(vectors: Tensor) -> Cosines:
    """The cosines of vectors of all items in the order of internal ids, without padding."""
    directions = F.normalize(vectors.float(), dim=1)
    return lambda rows: directions[torch.from_numpy(rows)] @ directions.T


def _of_words(trained: TrainedModel, titles: Mapping[str, str] | None) -> Cosines:
    if not titles:
        raise ValueError(
            f"under: [{TEXT}] needs the items' texts, and the data set [{trained.config['dataset']}] "
            f"has no .item file with any. Set under to one of {', '.join(UNDER[:-1])}."
        )
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import

    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    try:
        matrix: csr_matrix = words.fit_transform(titles.values())  # in the order of internal ids
    except ValueError as error:
        raise ValueError(
            f"under: [{TEXT}] finds no word of two letters or more in the items' titles. Set titles to "
            f"other columns, or under to one of {', '.join(UNDER[:-1])}."
        ) from error
    return lambda rows: torch.from_numpy((matrix[rows] @ matrix.T).toarray())


def item_vectors(trained: TrainedModel, under: str) -> Tensor:
    """Vectors of all items in the order of internal ids, [n_items - 1, any], without padding.

    Args:
        trained: the model with its data.
        under: one of ``UNDER`` but ``text``.

    Raises:
        ValueError: ``under`` is none of them, the model has no such vectors, or the stage that made
            them is not kept.
    """
    if under == ITEM_TABLE:
        table = item_table(trained.model)
        if table is None:
            raise ValueError(
                f"under: [{type(trained.model).__name__}] has no one item table. Set under=text."
            )
        return table[1:].detach().cpu()
    if under not in (E_V, H_V):
        raise ValueError(f"under: [{under}] is none of {', '.join(UNDER)}.")
    if under == H_V and not isinstance(trained.model, EnhancedItemTable):
        raise ValueError(_without(trained, under))
    try:
        if under == E_V:
            return kept_stages(trained, (BackboneStage,)).stage(BackboneStage).item_embeddings()
        vectors = vectors_of(trained.config)
        pipeline = kept_stages(trained, vectors.stages)
    except LookupError:
        raise ValueError(_without(trained, under)) from None
    of_training = trained.config["enhanced_texts"]
    if of_training is not None and of_training != pipeline.catalogue.fingerprint:
        raise ValueError(
            f"under: the .item file has other texts than those that [{under}] of "
            f"[{trained.checkpoint}] was made of. Give the file of its training, or set "
            f"under={ITEM_TABLE}."
        )
    return vectors.make(pipeline)


def _without(trained: TrainedModel, under: str) -> str:
    return (
        f"under: [{trained.config['model']}] has no [{under}], which a stage before it would make. Set "
        f"under={ITEM_TABLE}, or give the checkpoint of a TSLRec model."
    )


def kept_stages(trained: TrainedModel, kinds: Sequence[type[Stage]]) -> Pipeline:
    """The pipeline of a trained model, in which these stages are there; none is made.

    Raises:
        LookupError: the model has no such stages.
        ValueError: they are not kept.
    """
    model, config = trained.model, trained.config
    own = model.stages(config) if isinstance(model, FusedItemTable) else ()
    if not set(kinds) <= set(chain(own)):
        raise LookupError(f"[{config['model']}] has no stages {[kind.name for kind in kinds]}.")
    loaders = trained.train_data, trained.valid_data
    pipeline = Pipeline(config, *loaders, model.backbone, show_progress=False)
    if missing := pipeline.missing(kinds):
        raise ValueError(
            f"The stage {missing[-1].name} of [{trained.checkpoint}] is not kept in "
            f"[{pipeline.store.root}]. Run the same experiment again, or start where it was run."
        )
    return pipeline
