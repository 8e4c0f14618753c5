"""Latent categories: k-means on the trained item embeddings (TSLRec §4.1)."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from types import ModuleType

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from tqdm import tqdm

# `auto` takes faiss above both of these. On one core the two take the same time for 100 categories
# whatever the number of items; faiss takes 1.3 times as long for 50, and 0.85 times for 400. With
# fewer items it is a matter of seconds.
FAISS_ABOVE_ITEMS = 100_000
FAISS_ABOVE_CATEGORIES = 100

# Lloyd's iterations of one restart. What a run gains after them, below .1 % of the objective, is
# less than restarts differ by.
_MAX_ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class Categories:
    """The items' preliminary latent categories. No category is empty.

    Attributes:
        labels: int64 ``[n_items]``, the category of each item, from 0 to K - 1.
        centroids: float32 ``[K, d]``, the mean embedding of each category's items.
    """

    labels: np.ndarray
    centroids: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """The number of items in each category, int64 ``[K]``, each at least 1."""
        return np.bincount(self.labels, minlength=len(self.centroids))


def latent_categories(
    item_embeddings: np.ndarray,
    n_categories: int,
    *,
    backend: str,
    seed: int,
    n_restarts: int = 10,
    show_progress: bool = False,
) -> Categories:
    """Groups the items by k-means: k-means++, Lloyd's iterations, the best of some restarts.

    The same arguments give the same result. For that it runs in a single thread: sums over
    several depend on how many there are, and where cores are shared they take many times as long.

    Args:
        item_embeddings: float ``[n_items, d]``, without the padding row.
        n_categories: K, at least 2.
        backend: ``"sklearn"``, ``"faiss"``, or ``"auto"``: faiss above ``FAISS_ABOVE_ITEMS`` items
            and ``FAISS_ABOVE_CATEGORIES`` categories, else scikit-learn.
        seed: from 0 to 2**32 - 1.
        n_restarts: how many times to start afresh, at least 1.
        show_progress: whether faiss, to which large catalogues go, is to have a bar of its restarts.

    Raises:
        ValueError: if an argument is out of range, an embedding is not finite, or there are fewer
            distinct embeddings than categories.
        ImportError: if faiss is to be used and not installed.
    """
    # Both backends compute in float32; what is infinite there must not pass the check.
    with np.errstate(over="ignore"):
        embeddings = np.ascontiguousarray(item_embeddings, dtype=np.float32)
    _check_arguments(embeddings, n_categories, n_restarts)
    backend = _chosen_backend(backend, len(embeddings), n_categories)
    faiss = partial(_run_faiss, show_progress=show_progress)
    run = {"sklearn": _run_sklearn, "faiss": faiss}[backend]

    # Distances to a far-off origin would use up float32's digits.
    centred = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    labels = run(centred, n_categories, seed, n_restarts).astype(np.int64)
    labels = _fill_empty_groups(embeddings, labels, n_categories)
    categories = Categories(
        labels, _group_means(embeddings, labels, n_categories).astype(np.float32)
    )
    assert categories.sizes.min() > 0, "a latent category has no item"
    _log_sizes(categories, backend)
    return categories


def _check_arguments(embeddings: np.ndarray, n_categories: int, n_restarts: int) -> None:
    """Refuses what k-means would answer with nonsense or with an error about something else."""
    n_items = len(embeddings)
    if not 2 <= n_categories <= n_items:
        raise ValueError(
            f"n_categories: [{n_categories}] must be at least 2 and at most the number of items, "
            f"{n_items}."
        )
    if n_restarts < 1:
        raise ValueError(f"n_restarts: [{n_restarts}] must be at least 1.")
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {n_items} item embeddings hold NaN or infinite values (rows "
            f"{', '.join(map(str, broken[:5]))}{', ...' if len(broken) > 5 else ''}; row 0 is "
            "internal id 1): the backbone diverged. Train it again, with a lower learning_rate."
        )
    n_distinct = _count_distinct(embeddings, enough=n_categories)
    if n_distinct < n_categories:
        raise ValueError(
            f"n_categories: [{n_categories}] groups cannot be made of {n_distinct} distinct "
            f"embeddings ({n_items} items). Lower n_categories, or check that the backbone is "
            "trained."
        )


def _count_distinct(rows: np.ndarray, enough: int) -> int:
    """The number of distinct rows, counted no further than ``enough``."""
    seen = set()
    for row in rows + np.float32(0):  # -0.0 + 0.0 is 0.0: equal numbers, equal bytes
        seen.add(row.tobytes())
        if len(seen) == enough:
            break
    return len(seen)


def _chosen_backend(backend: str, n_items: int, n_categories: int) -> str:
    """Resolves ``auto`` and refuses what does not exist."""
    if backend not in ("auto", "sklearn", "faiss"):
        raise ValueError(f"category_backend: [{backend}] must be auto, sklearn or faiss.")
    if backend == "auto":
        large = n_items > FAISS_ABOVE_ITEMS and n_categories > FAISS_ABOVE_CATEGORIES
        return "faiss" if large else "sklearn"
    return backend


def _run_sklearn(x: np.ndarray, n_categories: int, seed: int, n_restarts: int) -> np.ndarray:
    """Labels ``[n_items]`` of the rows of ``x`` by scikit-learn; a group may be empty."""
    kmeans = KMeans(n_categories, n_init=n_restarts, max_iter=_MAX_ITERATIONS, random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        # It warns of empty groups, which are filled afterwards.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(x).labels_


def _run_faiss(
    x: np.ndarray, n_categories: int, seed: int, n_restarts: int, show_progress: bool
) -> np.ndarray:
    """Labels ``[n_items]`` of the rows of ``x`` by faiss; a group may be empty.

    It starts from scikit-learn's k-means++. Faiss has one since 1.14, but without several candidates
    a step: on item factors of Beauty and Yelp the best of ten restarts was up to 14 % worse.
    """
    faiss = _import_faiss()
    random_state = np.random.RandomState(seed)
    runs = []
    with threadpool_limits(1):
        for _ in tqdm(
            range(n_restarts), "k-means", unit="restart", disable=not show_progress, leave=False
        ):
            start, _ = kmeans_plusplus(x, n_categories, random_state=random_state)
            kmeans = faiss.Kmeans(
                x.shape[1],
                n_categories,
                niter=_MAX_ITERATIONS,
                min_points_per_centroid=1,  # below the default it prints a warning
                max_points_per_centroid=len(x),  # above the default it leaves items out
            )
            kmeans.train(x, init_centroids=start)
            distances, labels = kmeans.assign(x)
            runs.append((distances.sum(dtype=np.float64), labels))
    return min(runs, key=itemgetter(0))[1]


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "k-means with faiss needs the package: pip install faiss-cpu, or set "
            "category_backend: sklearn."
        ) from error
    return faiss


def _fill_empty_groups(x: np.ndarray, labels: np.ndarray, n_categories: int) -> np.ndarray:
    """Moves into each empty group the item that lies farthest from the mean of its own.

    Items that are alone in their group stay. As there are at least as many items as groups, some
    group has one to give.
    """
    sizes = np.bincount(labels, minlength=n_categories)
    empty = np.flatnonzero(sizes == 0)
    if len(empty) == 0:
        return labels
    labels = labels.copy()
    distances = np.square(x - _group_means(x, labels, n_categories)[labels]).sum(axis=1)
    for group in empty:
        item = np.argmax(np.where(sizes[labels] > 1, distances, -1))
        sizes[labels[item]] -= 1
        labels[item], sizes[group] = group, 1
    logging.getLogger(__name__).warning(
        f"k-means left {len(empty)} of {n_categories} latent categories empty; each was given the "
        "item farthest from the mean of its own. A smaller n_categories may suit these items."
    )
    return labels


def _group_means(x: np.ndarray, labels: np.ndarray, n_categories: int) -> np.ndarray:
    """The mean of each group's rows of ``x``, float64 ``[K, d]``; 0 for an empty group."""
    sizes = np.bincount(labels, minlength=n_categories)
    member = csr_matrix(
        (np.ones(len(x)), (labels, np.arange(len(x)))), shape=(n_categories, len(x))
    )
    return (member @ x) / np.maximum(sizes, 1)[:, None]


def _log_sizes(categories: Categories, backend: str) -> None:
    sizes = categories.sizes
    logger = logging.getLogger(__name__)
    logger.info(
        f"Latent categories: {len(categories.labels)} items in {len(sizes)} categories ({backend}) "
        f"of {sizes.min()} to {sizes.max()} items, median {np.median(sizes):g}."
    )
    logger.debug(f"Sizes of the latent categories: {sizes.tolist()}")
