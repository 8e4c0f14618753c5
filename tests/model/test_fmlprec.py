"""FMLPRec: the filter against explicit Fourier sums, the padding, and both of RecBole's losses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.fmlprec import FilterLayer, FMLPRec, roll_padding_to_left

N_ITEMS = 30
PROPERTIES = Path(__file__).parents[2] / "properties" / "model" / "FMLPRec.yaml"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_model(**keys) -> FMLPRec:
    settings = {"hidden_size": 8, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 7}
    settings |= {"train_neg_sample_args": None, "gpu_id": ""}
    config = Config(
        model=FMLPRec,
        dataset="ml-100k",
        config_file_list=[str(PROPERTIES)],
        config_dict=settings | keys,
    )
    return FMLPRec(config, SimpleNamespace(num=lambda field: N_ITEMS))


def make_batch() -> Interaction:
    """Histories of one item, of some, and of as many as there are positions."""
    item_seq = torch.tensor([[3, 0, 0, 0, 0, 0, 0], [5, 9, 4, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 29]])
    return Interaction(
        {
            "item_id_list": item_seq,
            "item_length": torch.tensor([1, 3, 7]),
            "item_id": torch.tensor([7, 8, 9]),
            "neg_item_id": torch.tensor([10, 11, 12]),
        }
    )


def filter_by_sums(signal: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The filter of one feature from the definition of the transforms, without an FFT.

    Args:
        signal: float64 [L].
        weight: complex128 [L//2+1].
    """
    length = len(signal)
    filtered = np.zeros(length)
    for k in range(length // 2 + 1):
        wave = np.exp(2j * np.pi * k * np.arange(length) / length)
        coefficient = weight[k] * np.sum(signal * wave.conj()) / np.sqrt(length)
        # A real signal's frequencies k and L-k are conjugates; 0 and L/2 are their own partner.
        share = 1 if 2 * k % length == 0 else 2
        filtered += share * (coefficient * wave).real / np.sqrt(length)
    return filtered


@pytest.mark.parametrize("length", [1, 6, 7])
def test_filter_layer_is_the_filter_of_the_definition(length):
    layer = FilterLayer(length, hidden_size=5, hidden_dropout_prob=0.5, layer_norm_eps=1e-12)
    layer = layer.double().eval()
    layer.complex_weight.data.normal_()
    signal = torch.randn(3, length, 5, dtype=torch.float64)

    weight = torch.view_as_complex(layer.complex_weight.detach()).numpy()
    mixed = signal.numpy().copy()
    for row in range(3):
        for feature in range(5):
            mixed[row, :, feature] += filter_by_sums(
                signal.numpy()[row, :, feature], weight[:, feature]
            )
    centred = mixed - mixed.mean(axis=2, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + 1e-12)

    np.testing.assert_allclose(layer(signal).detach().numpy(), expected, rtol=0, atol=1e-10)


def test_the_yaml_describes_the_reference_architecture():
    model = make_model(hidden_size=64, inner_size=256, MAX_ITEM_LIST_LENGTH=50)
    weights = [block.complex_weight for block in model.blocks if isinstance(block, FilterLayer)]
    assert [tuple(weight.shape) for weight in weights] == [(26, 64, 2)] * 2
    assert all(abs(weight.std().item() - 0.02) < 0.002 for weight in weights)
    assert abs(model.item_embedding.weight.std().item() - 0.02) < 0.002


def test_padding_rolls_to_the_left_and_items_keep_their_order():
    batch = make_batch()
    rolled = roll_padding_to_left(batch["item_id_list"], batch["item_length"])
    assert rolled.tolist() == [
        [0, 0, 0, 0, 0, 0, 3],
        [0, 0, 0, 0, 5, 9, 4],
        [1, 2, 3, 4, 5, 6, 29],
    ]


def test_forward_reads_the_last_item_of_the_left_padded_row():
    """Position by position from the model's parts, on a row padded on the left by hand."""
    model = make_model().eval()
    with torch.no_grad():
        row = torch.tensor([[0, 0, 0, 0, 5, 9, 4]])
        hidden = model.item_embedding(row) + model.position_embedding.weight
        for block in [model.LayerNorm, *model.blocks]:
            hidden = block(hidden)
        output = model(make_batch()["item_id_list"], make_batch()["item_length"])
    torch.testing.assert_close(output[1], hidden[0, -1])


def test_padding_takes_part_in_the_transform_of_short_histories_alone():
    model = make_model().eval()
    batch = make_batch()
    with torch.no_grad():
        before = model(batch["item_id_list"], batch["item_length"])
        model.item_embedding.weight[0] += torch.randn(8)
        after = model(batch["item_id_list"], batch["item_length"])
    assert not torch.isclose(before[:2], after[:2]).all(dim=1).any()
    torch.testing.assert_close(before[2], after[2], rtol=0, atol=0)


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_loss_is_finite_and_every_weight_learns(loss_type):
    negatives = {"distribution": "uniform", "sample_num": 1} if loss_type == "BPR" else None
    model = make_model(loss_type=loss_type, train_neg_sample_args=negatives)
    loss = model.calculate_loss(make_batch())
    loss.backward()
    assert loss.shape == () and torch.isfinite(loss)
    for name, weight in model.named_parameters():
        assert torch.isfinite(weight.grad).all() and weight.grad.any(), name
    # Looking up padding trains nothing: row 0 learns through CE's scores alone, as in SASRec.
    assert model.item_embedding.weight.grad[0].any() == (loss_type == "CE")


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match=r"loss_type: .'BCE'. is not one of CE, BPR"):
        make_model(loss_type="BCE")


def test_scores_of_one_item_and_of_all_agree():
    model = make_model().eval()
    batch = make_batch()
    with torch.no_grad():
        every = model.full_sort_predict(batch)
        single = model.predict(batch)
    assert every.shape == (3, N_ITEMS)
    torch.testing.assert_close(single, every[torch.arange(3), batch["item_id"]])


def test_a_parametrized_item_table_covers_input_and_scores():
    model, doubled = make_model().eval(), make_model().eval()
    doubled.load_state_dict(model.state_dict())
    doubled.item_embedding.weight.data *= 2

    class Twice(torch.nn.Module):
        def forward(self, table):
            return 2 * table

    parametrize.register_parametrization(model.item_embedding, "weight", Twice())
    with torch.no_grad():
        torch.testing.assert_close(
            model.full_sort_predict(make_batch()), doubled.full_sort_predict(make_batch())
        )


def test_mixed_precision_leaves_the_transform_its_precision():
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(make_batch())
    loss.backward()
    assert torch.isfinite(loss)
