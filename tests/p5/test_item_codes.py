"""Codes of items against naive ones: unique, prefix-free, and of training alone."""

import numpy as np
import pytest
import torch
from conftest import write_atomic
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from scipy.sparse import csr_matrix
from test_pipeline import histories, write_histories

from recbole_tslrec.language_model.trie import Trie
from recbole_tslrec.paradigms.p5.item_codes import (
    co_occurrence,
    collaborative_codes,
    embedding_codes,
    number_codes,
    spectral_clusters,
    tree_codes,
)
from recbole_tslrec.paradigms.p5.stages import ItemCodesStage, codes_stage
from recbole_tslrec.recbole_bridge.paradigm import backbone_for, staged_models
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline

CODES = ["collaborative", "sequential", "random", "independent", "embedding", "file_order"]


def pipeline_of(settings: dict, dataset: str, code: str) -> Pipeline:
    changes = {"item_code": code, "code_leaf_items": 4, "code_clusters": 2, "llm": "scratch"}
    config = Config("P5", dataset, config_dict=settings | changes)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    backbone = backbone_for(staged_models()["P5"], config)
    return Pipeline(config, train_data, valid_data, backbone, show_progress=False)


def codes_of(pipeline: Pipeline) -> dict[str, list[int]]:
    codes = pipeline.stage(codes_stage(pipeline.config)).item_codes()
    return dict(zip(pipeline.tokens, codes.tolist(), strict=True))


def written_by_user(users: dict[str, list[str]]) -> list[tuple]:
    """As S3Rec's files are: what is held out stands before the next user's training."""
    return [(user, item, time) for user, items in users.items() for time, item in enumerate(items)]


@given(st.permutations(range(230)))
def test_numbers_say_the_order(order):
    codes = number_codes(np.array(order))
    assert codes.shape == (230, 2)
    assert ((codes[:, 0] * 100 + codes[:, 1])[order] == np.arange(230)).all()
    Trie(codes)


@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 2**20))
def test_trees_tell_all_items_apart(n_items, leaf_items, seed):
    """However a cluster is divided, and if it is not at all; the trie refuses any other codes."""
    generator = np.random.default_rng(seed)

    def split(items):
        return generator.integers(0, 1 + generator.integers(0, 4), size=len(items))

    codes = tree_codes([np.arange(n_items)], n_items, split, leaf_items, seed)
    assert len(Trie(codes).lengths) == n_items
    ends = {tuple(code[code >= 0][:-1]) for code in codes}
    sizes = [sum(tuple(code[code >= 0][:-1]) == end for code in codes) for end in ends]
    assert max(sizes) <= leaf_items
    places = {int(code[code >= 0][-1]) for code in codes}
    assert places == set(range(max(sizes)))  # shared by all leaves, and no cluster's
    assert not places & {int(token) for code in codes for token in code[code >= 0][:-1]}


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=5),
)
def test_pairs_of_positions_are_counted(histories):
    users = np.repeat(np.arange(len(histories)), [len(one) for one in histories])
    pairs = co_occurrence(users, np.concatenate(histories), 7)
    expected = np.zeros((7, 7))
    for one in histories:
        for first in range(len(one)):
            for second in range(len(one)):
                if one[first] != one[second]:
                    expected[one[first], one[second]] += 1
    np.testing.assert_array_equal(pairs.toarray(), expected)
    assert (pairs.data != 0).all()


def communities(sizes: list[int], seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    """Pairs of histories that stay in one community each, and two items more; the communities."""
    generator = np.random.default_rng(seed)
    community = np.repeat(np.arange(len(sizes)), sizes)
    rows = [
        generator.choice(np.flatnonzero(community == one), 8)
        for one in range(len(sizes))
        for _ in range(40)
    ]
    users = np.repeat(np.arange(len(rows)), 8)
    return co_occurrence(users, np.concatenate(rows), sum(sizes) + 2), community


def test_items_that_occur_together_share_their_first_token():
    pairs, community = communities([20, 30, 25])
    codes = collaborative_codes(pairs, n_clusters=3, leaf_items=40, seed=0)
    Trie(codes)
    first = codes[:, 0]
    assert [len(set(first[:75][community == one])) for one in range(3)] == [1, 1, 1]
    assert len(set(first[:75])) == 3
    # Two items that are in no history are in no cluster of the others.
    assert set(first[75:]).isdisjoint(first[:75])


def test_clusters_are_those_of_the_normalised_laplacian():
    """The eigenvectors against a dense decomposition, with the same assignment."""
    from sklearn.cluster._spectral import cluster_qr

    pairs, _ = communities([15, 15, 15], seed=3)
    pairs = (pairs + 0.01 * co_occurrence(np.zeros(45, int), np.arange(45), 47)).tocsr()[:45, :45]
    root = np.sqrt(pairs.toarray().sum(axis=1))
    _, vectors = np.linalg.eigh(pairs.toarray() / root[:, None] / root[None, :])
    expected = cluster_qr(vectors[:, -3:] / root[:, None])
    found = spectral_clusters(pairs, 3, 0)
    together = found[:, None] == found[None, :]
    np.testing.assert_array_equal(together, expected[:, None] == expected[None, :])


def test_a_graph_on_which_lobpcg_breaks_down_is_divided_all_the_same():
    generator = np.random.default_rng(1167)
    users = np.repeat(np.arange(41), 3)
    items = (generator.integers(0, 44, 123) + users % 4 * 44) % 178
    pairs = co_occurrence(users, items, 178)
    first, again = (collaborative_codes(pairs, 15, 14, 0) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    Trie(first)


def test_a_small_catalogue_is_one_leaf():
    pairs, _ = communities([5])
    codes = collaborative_codes(pairs[:5, :5], 20, 500, 0)
    assert sorted(codes.ravel()) == list(range(5)) and codes.shape == (5, 1)


def test_places_in_a_leaf_do_not_tell_in_which_order_the_tokens_are():
    """Tokens may be numbers by first appearance in the whole file: the next one is often held out."""
    groups, nothing = np.split(np.arange(4000), 8), np.zeros_like
    leaves = [code[:, 1] for code in np.split(tree_codes(groups, 4000, nothing, 500, 0), 8)]
    assert all(sorted(leaf) == list(range(500)) for leaf in leaves)
    following = np.mean([np.mean(leaf[1:] == leaf[:-1] + 1) for leaf in leaves])
    assert following < 0.01, "1 in 500 by chance; all of them in the order of the tokens"
    assert not np.array_equal(leaves[0], leaves[1]), "of each leaf anew"


def test_the_categories_are_the_first_level_of_embedding_codes(small_data, settings):
    pipeline = pipeline_of(settings, small_data, "embedding")
    codes = np.array(list(codes_of(pipeline).values()))
    categories = pipeline.stage(CategoriesStage).item_categories().numpy()
    pairs = {(first, category) for first, category in zip(codes[:, 0], categories, strict=True)}
    assert len(pairs) == len(set(codes[:, 0])) == len(set(categories)) == 4
    Trie(codes)


def test_equal_embeddings_are_told_apart():
    Trie(embedding_codes(np.ones((9, 2), np.float32), np.zeros(9, int), 3, 4, 0))


@pytest.mark.parametrize("n_last", [1, 2])
@pytest.mark.parametrize("code", CODES)
def test_held_out_items_change_no_code_but_the_controls(code, n_last, tmp_path, settings):
    if code == "embedding" and n_last == 2:
        pytest.skip("validation chooses the backbone's epoch")
    users, generator = histories(), np.random.default_rng(1)
    found = []
    for name, tested in (("one", "i11"), ("other", "i9")):
        users["u0"][-1] = tested  # new to the file where it stands
        if code == "embedding":  # the backbone's first weights go by RecBole's numbers
            write_histories(tmp_path, name, users)
        else:
            write_atomic(tmp_path / "data", name, written_by_user(users))
        found.append(codes_of(pipeline_of(settings, name, code)))
        for items in users.values():
            items[-n_last:] = [f"i{item}" for item in generator.integers(0, 12, size=n_last)]
    assert (found[0] == found[1]) == (code != "file_order")
    Trie(np.array(list(found[0].values())))


def test_sequential_numbers_go_by_training_and_leave_the_rest_behind(tmp_path, settings):
    users = {"u0": list("cafxy"), "u1": list("adezz"), "u2": list("ebaxg")}
    write_atomic(tmp_path / "data", "letters", written_by_user(users))
    codes = codes_of(pipeline_of(settings, "letters", "sequential"))
    assert sorted(codes, key=codes.get) == [*"cafdeb", *"gxyz"]


def test_a_seed_and_a_key_count_where_they_are_read(small_data, settings):
    def made_from(code, **changes):
        return pipeline_of(settings | changes, small_data, code).stage(ItemCodesStage).fingerprint

    assert made_from("sequential", seed=1) == made_from("sequential", seed=2)
    assert made_from("random", seed=1) != made_from("random", seed=2)
    one, other = (pipeline_of(settings | {"seed": seed}, small_data, "random") for seed in (1, 2))
    assert codes_of(one) != codes_of(other)


def test_codes_are_kept_and_read_again(small_data, settings):
    first = pipeline_of(settings, small_data, "collaborative")
    again = pipeline_of(settings, small_data, "collaborative")
    assert codes_of(first) == codes_of(again)
    assert [stage.reused for stage in again.used] == [True]
    assert first.stage(ItemCodesStage).item_codes().dtype == torch.int64
