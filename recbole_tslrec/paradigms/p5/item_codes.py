"""Codes of items: sequences of tokens, no two equal, none beginning another (arXiv 2305.06569).

Items are known here by their place among the sorted tokens, so that no code depends on RecBole's
numbers, which tell of held-out interactions. Tokens of codes are numbered from 0; a code is filled up
with -1 at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix, diags_array

Split = Callable[[np.ndarray], np.ndarray]
BASE = 100  # a number is written in pairs of digits, about as T5's tokenizer cuts it


def number_codes(order: np.ndarray) -> np.ndarray:
    """The items' places in an order as numbers, in pairs of digits, all of one length.

    Args:
        order: the items, [n_items] int64, each once.

    Returns:
        [n_items, L] int64; the first pair of digits first.
    """
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(len(order))
    return pairs_of_digits(numbers, len(order) - 1)


def pairs_of_digits(numbers: np.ndarray, largest: int) -> np.ndarray:
    """Numbers up to ``largest`` in pairs of digits, filled up with zeros in front. [n] -> [n, L]"""
    length = 1
    while BASE**length <= largest:
        length += 1
    return numbers[:, None] // BASE ** np.arange(length - 1, -1, -1) % BASE


def tree_codes(
    groups: Sequence[np.ndarray], n_items: int, split: Split, leaf_items: int, seed: int
) -> np.ndarray:
    """Codes that are paths in a tree of clusters, and the place in the last one.

    A cluster's token is its own, whatever stands before it; the tokens of places are shared by all
    leaves, and are no cluster's: so no code begins another. Places are drawn: in the order of the
    tokens they could be counted, and where a file numbers items by their first appearance the next
    number is often the item that is held out.

    Args:
        groups: the clusters of the first level, items each; together all items. One group that is a
            leaf takes no token of a cluster.
        n_items: of all.
        split: divides a cluster: items [n] -> the label of each, [n] int64.
        leaf_items: the most items of a cluster that is not divided.
        seed: of the places.

    Returns:
        [n_items, L] int64.
    """
    n_clusters = 0
    generator = np.random.default_rng(seed)
    leaves: list[tuple[list[int], np.ndarray]] = []
    waiting: list[tuple[list[int], np.ndarray]] = []

    def enter(path: list[int], parts: Sequence[np.ndarray]) -> None:
        nonlocal n_clusters
        for part in parts:
            (leaves if len(part) <= leaf_items else waiting).append(([*path, n_clusters], part))
            n_clusters += 1

    if len(groups) == 1 and n_items <= leaf_items:
        leaves.append(([], groups[0]))
    else:
        enter([], groups)
    while waiting:
        path, items = waiting.pop(0)
        enter(path, _divided(items, split(items), leaf_items))
    n_places = max(len(items) for _, items in leaves)
    codes = np.full((n_items, 1 + max(len(path) for path, _ in leaves)), -1, dtype=np.int64)
    for path, items in leaves:
        codes[items, : len(path)] = [n_places + cluster for cluster in path]
        codes[np.sort(items), len(path)] = generator.permutation(len(items))
    return codes


def _divided(items: np.ndarray, labels: np.ndarray, leaf_items: int) -> list[np.ndarray]:
    """Parts of a cluster by label; in order if the labels do not tell the items apart."""
    parts = [items[labels == label] for label in np.unique(labels)]
    if len(parts) == 1:
        parts = np.array_split(items, -(-len(items) // leaf_items))
    return parts


# ---- clusters of items that occur together ------------------------------------------------------


def co_occurrence(users: np.ndarray, items: np.ndarray, n_items: int) -> csr_matrix:
    """How many pairs of positions of one training history hold two items.

    ``A[i, j] = sum over users of n_ui n_uj`` for i ≠ j, and 0 for i = j; held sparse. Its memory grows
    with the square of the longest history: one user's 50,000 different items make 2.5 billion numbers.

    Args:
        users, items: of all training interactions, [n] int64 each.

    Returns:
        [n_items, n_items] float64, symmetric.
    """
    counts = csr_matrix((np.ones(len(items)), (users, items)), shape=(users.max() + 1, n_items))
    counts.sum_duplicates()
    pairs = counts.T @ counts
    pairs = csr_matrix(pairs - diags_array(pairs.diagonal()))
    pairs.eliminate_zeros()
    return pairs


def collaborative_codes(
    pairs: csr_matrix, n_clusters: int, leaf_items: int, seed: int
) -> np.ndarray:
    """Codes by spectral clustering of co-occurrence, again and again (arXiv 2305.06569, CID).

    Items that occur with no other, among them all that are not in training, are in no cluster of the
    others: they are put together in their order.

    Args:
        pairs: as ``co_occurrence`` has it.
        n_clusters: into how many a cluster is divided.
        leaf_items: the most items of a cluster that is not.
        seed: of the eigenvectors' start and the places in a leaf.

    Returns:
        [n_items, L] int64.
    """
    n_items = pairs.shape[0]

    def split(items: np.ndarray) -> np.ndarray:
        return spectral_clusters(pairs[items][:, items], n_clusters, seed)

    alone = pairs.getnnz(axis=1) == 0
    together = np.flatnonzero(~alone)
    groups = [together] if len(together) else []
    if len(together) > leaf_items:
        groups = _divided(together, split(together), leaf_items)
    if alone.any():
        groups += np.array_split(np.flatnonzero(alone), -(-alone.sum() // leaf_items))
    return tree_codes(groups, n_items, split, leaf_items, seed)


def spectral_clusters(pairs: csr_matrix, n_clusters: int, seed: int) -> np.ndarray:
    """Labels [n] by scikit-learn's spectral clustering of the normalised Laplacian, in one thread."""
    import warnings

    from sklearn.cluster import spectral_clustering
    from threadpoolctl import threadpool_limits

    n_clusters = min(n_clusters, pairs.shape[0] - 1)
    if n_clusters < 2:
        return np.zeros(pairs.shape[0], dtype=np.int64)
    with threadpool_limits(1), warnings.catch_warnings():
        # It warns of graphs in several parts, and of eigenvectors that are near enough.
        warnings.simplefilter("ignore")
        cluster = partial(
            spectral_clustering,
            pairs,
            n_clusters=n_clusters,
            assign_labels="cluster_qr",
            random_state=seed,
        )
        # ARPACK, the default, takes an inverse of the whole: minutes, and dense memory. It does so
        # where LOBPCG breaks down, which it does on some small graphs.
        try:
            labels = cluster(eigen_solver="lobpcg")
        except ValueError:
            labels = cluster(eigen_solver="arpack")
    return labels.astype(np.int64)


# ---- clusters of embeddings ---------------------------------------------------------------------


def embedding_codes(
    embeddings: np.ndarray, categories: np.ndarray, n_clusters: int, leaf_items: int, seed: int
) -> np.ndarray:
    """Codes by k-means on item embeddings, again and again; the categories are the first level.

    Args:
        embeddings: e_v, [n_items, d] float32.
        categories: TSLRec's preliminary latent categories, [n_items] int64.
        n_clusters: into how many a cluster below them is divided.
        leaf_items: the most items of a cluster that is not.
        seed: of k-means and the places in a leaf.

    Returns:
        [n_items, L] int64.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    def split(items: np.ndarray) -> np.ndarray:
        k = min(n_clusters, len(np.unique(embeddings[items], axis=0)))
        with threadpool_limits(1):
            return KMeans(k, n_init=10, random_state=seed).fit(embeddings[items]).labels_

    groups = [np.flatnonzero(categories == category) for category in np.unique(categories)]
    return tree_codes(groups, len(embeddings), split, leaf_items, seed)
