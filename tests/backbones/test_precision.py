"""Recurrent layers under autocast."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from recbole_tslrec.backbones.precision import keep_recurrent_layers_exact


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrent_layer_stays_in_float32(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), kind(4, 3, batch_first=True))
    given = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        product = model[0](given)
    assert product.dtype == torch.bfloat16
    expected, _ = model[1](product.float())
    keep_recurrent_layers_exact(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = model(given)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    named, _ = model[1](input=product, hx=None)
    assert torch.equal(named, expected)
    copied = deepcopy(model)
    for weight in copied.parameters():
        nn.init.zeros_(weight)
    assert not copied(given)[0].any()  # it computes with its own weights
    found.sum().backward()
    assert model[1].weight_hh_l0.grad.abs().sum() > 0
    assert set(model.state_dict()) == {
        *(f"0.{name}" for name in ("weight", "bias")),
        *(f"1.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    }
