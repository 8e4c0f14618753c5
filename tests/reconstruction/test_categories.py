"""Both k-means backends: as good as a plain Lloyd, the same each time, and without empty groups."""

from __future__ import annotations

import logging
import runpy
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from recbole_tslrec.stages import kmeans as module
from recbole_tslrec.stages.kmeans import Categories, latent_categories

BACKENDS = ["sklearn", "faiss"]


def squared_distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """[n, K]"""
    return np.square(x[:, None].astype(np.float64) - centroids[None]).sum(axis=2)


def objective(x: np.ndarray, categories: Categories) -> float:
    return np.square(x.astype(np.float64) - categories.centroids[categories.labels]).sum()


def naive_objective(x: np.ndarray, n_categories: int, n_restarts: int) -> float:
    """The best of Lloyd's algorithm from random items, written as in a textbook."""
    generator, found = np.random.default_rng(0), []
    for _ in range(n_restarts):
        centroids = x[generator.choice(len(x), n_categories, replace=False)].astype(np.float64)
        for _ in range(100):
            labels = squared_distances(x, centroids).argmin(axis=1)
            for group in np.unique(labels):
                centroids[group] = x[labels == group].mean(axis=0)
        found.append(squared_distances(x, centroids).min(axis=1).sum())
    return min(found)


def noise(n_items: int = 400, width: int = 8) -> np.ndarray:
    """Embeddings without any groups: the hard case for the objective."""
    return np.random.default_rng(1).normal(0, 0.02, (n_items, width)).astype(np.float32)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [2000, 64] in 20 groups far apart, and the groups."""
    generator = np.random.default_rng(2)
    groups = generator.integers(0, 20, 2000)
    centres = generator.normal(0, 1, (20, 64))
    return (centres[groups] + generator.normal(0, 0.2, (2000, 64))).astype(np.float32), groups


@pytest.mark.parametrize("backend", BACKENDS)
def test_objective_is_that_of_a_naive_lloyd(backend):
    x = noise()

    found = objective(x, latent_categories(x, 7, backend=backend, seed=0))

    assert found <= naive_objective(x, 7, 10) * 1.005


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_best_of_the_restarts_is_kept(backend):
    x = noise()
    one, ten = (latent_categories(x, 20, backend=backend, seed=0, n_restarts=n) for n in (1, 10))

    assert objective(x, ten) < objective(x, one)


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_is_a_fixed_point(backend):
    """Every item is with its nearest centroid, and every centroid is its items' mean."""
    x = noise()

    categories = latent_categories(x, 7, backend=backend, seed=0)

    distances = squared_distances(x, categories.centroids)
    own = distances[np.arange(len(x)), categories.labels]
    np.testing.assert_allclose(own, distances.min(axis=1), rtol=0.05)
    assert (own == distances.min(axis=1)).mean() > 0.99
    for group, centroid in enumerate(categories.centroids):
        np.testing.assert_allclose(centroid, x[categories.labels == group].mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0, 10_000])
def test_groups_far_apart_are_found(backend, offset):
    """Also far from the origin, where float32's products have no digits left for differences."""
    x, groups = blobs()

    categories = latent_categories(x + offset, 20, backend=backend, seed=0)

    assert len(set(zip(groups.tolist(), categories.labels.tolist(), strict=True))) == 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_types_and_the_embeddings_are_left_alone(backend):
    x = noise()
    before = x.copy()

    categories = latent_categories(x, 5, backend=backend, seed=0)

    assert categories.labels.dtype == np.int64 and categories.labels.shape == (400,)
    assert categories.centroids.dtype == np.float32 and categories.centroids.shape == (5, 8)
    assert categories.sizes.sum() == 400
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_same_categories(backend):
    x = noise()
    one, two, other = (latent_categories(x, 20, backend=backend, seed=seed) for seed in (3, 3, 4))

    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    assert (one.labels != other.labels).any()


@pytest.mark.parametrize(
    ("backend", "owner", "method"), [("sklearn", KMeans, "fit"), ("faiss", faiss.Kmeans, "train")]
)
def test_one_thread_computes(backend, owner, method, monkeypatch):
    """Sums over several depend on their number, which shows in the labels of large catalogues."""
    n_threads, compute = set(), getattr(owner, method)

    def spy(*args, **keys):
        n_threads.update(pool["num_threads"] for pool in threadpool_info())
        return compute(*args, **keys)

    monkeypatch.setattr(owner, method, spy)
    with threadpool_limits(2):
        latent_categories(noise(), 3, backend=backend, seed=0)

    assert n_threads == {1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_groups_far_away_are_found(backend):
    """k-means++ starts in each; random items as a start would nearly all be of the large group."""
    groups = np.repeat(np.arange(10), [500] + [3] * 9)
    x = noise(len(groups)) + 10 * np.eye(10, 8)[groups] - 5 * (groups == 9)[:, None]

    categories = latent_categories(x, 10, backend=backend, seed=0)

    assert sorted(categories.sizes.tolist()) == [3] * 9 + [500]


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_items_count_however_many_there_are(backend, caplog):
    """By default faiss would look at 256 items a category."""
    x = np.zeros((3000, 2), dtype=np.float32)
    x[-1] = 1  # one item in 3,000, the sample would hardly have it

    categories = latent_categories(x, 2, backend=backend, seed=0)

    assert sorted(categories.sizes.tolist()) == [1, 2999]
    assert "empty" not in caplog.text  # it was found, not moved afterwards


shapes = st.tuples(st.integers(2, 25), st.integers(1, 3))
grids = arrays(np.float32, shapes, elements=st.integers(-2, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(grids, st.data())
def test_no_category_is_empty_even_where_embeddings_coincide(backend, x, data):
    n_distinct = len(np.unique(x, axis=0))
    if n_distinct < 2:
        with pytest.raises(ValueError, match="1 distinct"):
            latent_categories(x, 2, backend=backend, seed=0)
        return
    n_categories = data.draw(st.integers(2, n_distinct))

    categories = latent_categories(x, n_categories, backend=backend, seed=0, n_restarts=2)

    assert len(categories.sizes) == n_categories
    assert categories.sizes.min() >= 1
    assert categories.sizes.sum() == len(x)
    for group, centroid in enumerate(categories.centroids):
        np.testing.assert_allclose(centroid, x[categories.labels == group].mean(axis=0), atol=1e-6)


def test_empty_groups_are_filled_with_the_farthest_items(monkeypatch, caplog):
    x = np.array([[0], [0], [0], [1], [9], [-5]], dtype=np.float32)
    monkeypatch.setattr(module, "_run_sklearn", lambda x, *_: np.ones(len(x), dtype=np.int32))

    categories = latent_categories(x, 3, backend="sklearn", seed=0)

    assert categories.labels.tolist() == [1, 1, 1, 1, 0, 2]
    assert categories.centroids.tolist() == [[9], [0.25], [-5]]
    assert "left 2 of 3 latent categories empty" in caplog.text


def test_auto_takes_faiss_for_many_items_and_categories(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(module, "FAISS_ABOVE_ITEMS", 50)
    monkeypatch.setattr(module, "FAISS_ABOVE_CATEGORIES", 3)

    for n_items, n_categories in ((50, 4), (51, 3), (51, 4)):
        latent_categories(noise(n_items), n_categories, backend="auto", seed=0)

    said = [record.message for record in caplog.records if record.name.startswith("recbole_tslrec")]
    assert said[0].startswith("Latent categories: 50 items in 4 categories (sklearn) of ")
    assert said[1].startswith("Sizes of the latent categories: [")
    assert said[2].startswith("Latent categories: 51 items in 3 categories (sklearn) of ")
    assert said[4].startswith("Latent categories: 51 items in 4 categories (faiss) of ")


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_categories", "message"),
    [(1, r"\[1\].*at least 2"), (401, r"\[401\].*number of items, 400")],
)
def test_number_of_categories_out_of_range(n_categories, message):
    with pytest.raises(ValueError, match=f"n_categories: {message}"):
        latent_categories(noise(), n_categories, backend="auto", seed=0)


def test_number_of_restarts_out_of_range():
    with pytest.raises(ValueError, match=r"n_restarts: \[0\].*at least 1"):
        latent_categories(noise(), 2, backend="auto", seed=0, n_restarts=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])  # the last is infinite in float32
def test_embeddings_that_are_not_finite_are_counted_and_named(bad):
    x = noise().astype(np.float64)
    x[[3, 17, 18, 19, 20, 21], 2] = bad

    with pytest.raises(ValueError, match=r"6 of 400 .*rows 3, 17, 18, 19, 20, \.\.\.;.*diverged"):
        latent_categories(x, 2, backend="auto", seed=0)


def test_fewer_distinct_embeddings_than_categories():
    x = np.repeat(noise(3), 10, axis=0)
    x[0, 0], x[1, 0], x[2, 0] = 0.0, -0.0, 0.0  # the same number

    with pytest.raises(ValueError, match=r"\[5\].* 4 distinct.*30 items.*Lower n_categories"):
        latent_categories(x, 5, backend="auto", seed=0)


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"\[cuml\] must be auto, sklearn or faiss"):
        latent_categories(noise(), 2, backend="cuml", seed=0)


def test_faiss_is_needed_only_where_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # import fails

    fresh = runpy.run_path(module.__file__)
    assert fresh["latent_categories"](noise(), 2, backend="auto", seed=0).sizes.sum() == 400
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        latent_categories(noise(), 2, backend="faiss", seed=0)
