"""SASRecPreNorm against its formulas in NumPy, on a small model of random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from scipy.special import softmax
from support.small_backbones import batch_of, model_of
from test_bsarec import array, linear, normalised

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.backbones.sasrecprenorm import Block, SASRecPreNorm
from recbole_tslrec.backbones.whole_sequences.loss import states_at_all_positions

LENGTH = 7


def attended(queries: np.ndarray, states: np.ndarray, block: Block, n_heads: int) -> np.ndarray:
    """What each position, one after the other, takes from itself and from those before it."""
    of_query, of_key, of_value = np.split(array(block.attention.in_proj_weight), 3)
    biases = np.split(array(block.attention.in_proj_bias), 3)
    query, key, value = (
        given @ weight.T + bias
        for given, weight, bias in zip(
            (queries, states, states), (of_query, of_key, of_value), biases, strict=True
        )
    )
    width = states.shape[1] // n_heads
    rows = []
    for place in range(len(states)):
        heads = []
        for head in range(n_heads):
            columns = slice(head * width, (head + 1) * width)
            scores = key[: place + 1, columns] @ query[place, columns] / np.sqrt(width)
            heads.append(softmax(scores) @ value[: place + 1, columns])
        rows.append(np.concatenate(heads))
    return linear(np.array(rows), block.attention.out_proj)


def representation(model: SASRecPreNorm, items: list[int], first: int = 0) -> np.ndarray:
    """The user's representation, [H], without any padding; the first item has position ``first``."""
    states = array(model.item_embedding.weight)[items] * np.sqrt(model.hidden_size)
    states = states + array(model.position_embedding.weight)[first : first + len(items)]
    for block in model.blocks:
        queries = normalised(states, block.attention_norm)
        states = states + attended(queries, states, block, model.n_heads)
        states = normalised(states, block.feed_forward_norm)
        inner = np.maximum(linear(states, block.dense_1), 0)
        states = states + linear(inner, block.dense_2)
    return normalised(states, model.LayerNorm)[-1]


def random_model(name: str, **keys) -> SASRecPreNorm:
    model = model_of(name, inner_size=16, MAX_ITEM_LIST_LENGTH=LENGTH, **keys).double().eval()
    for weight in model.parameters():  # norms and biases among them, which start as 1 and 0
        weight.data.normal_()
    return model


def histories_of(batch: Interaction) -> list[list[int]]:
    rows = zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), strict=True)
    return [items[:length] for items, length in rows]


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("name", ["SASRecPreNorm", "SASRecPreNormLatest"])
def test_representations_are_those_of_its_formulas(name, n_heads):
    model, batch = random_model(name, n_heads=n_heads), batch_of(LENGTH)
    with torch.no_grad():
        given = model(batch["item_id_list"], batch["item_length"]).numpy()
    expected = []
    for items in histories_of(batch):
        first = LENGTH - len(items) if name == "SASRecPreNormLatest" else 0
        expected.append(representation(model, items, first))
    np.testing.assert_allclose(given, expected, rtol=1e-8, atol=1e-8)


def test_in_one_pass_items_keep_the_positions_of_the_whole_history():
    model, batch = random_model("SASRecPreNormLatest"), batch_of(LENGTH)
    with torch.no_grad():
        given = states_at_all_positions(model, batch["item_id_list"], batch["item_length"])
    for items, states in zip(histories_of(batch), given.numpy(), strict=True):
        first = LENGTH - len(items)
        for n in range(1, len(items) + 1):
            expected = representation(model, items[:n], first)
            np.testing.assert_allclose(states[n - 1], expected, rtol=1e-8, atol=1e-8)


def test_whole_sequences_are_its_first_choice():
    assert BACKBONES["SASRecPreNormLatest"].batchings == ("sequence", "prefix")


@pytest.mark.parametrize("name", ["SASRecPreNorm", "SASRecPreNormLatest"])
def test_its_yaml_has_the_published_settings(name):
    config = Config(model=name, dataset="ml-100k", config_dict={"gpu_id": ""})
    assert (config["hidden_size"], config["inner_size"], config["n_heads"]) == (64, 64, 1)
    assert config["hidden_dropout_prob"] == config["attn_dropout_prob"] == 0.6


def test_weights_start_by_xaviers_rule():
    model = model_of("SASRecPreNorm", MAX_ITEM_LIST_LENGTH=LENGTH, inner_size=8)
    start = model.blocks[0].dense_1.weight.detach()
    assert start.std() == pytest.approx(np.sqrt(2 / 16), rel=0.3)  # Xavier's
    assert not hasattr(model, "trm_encoder")
