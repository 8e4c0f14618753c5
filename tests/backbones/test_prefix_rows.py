"""RecBole's rows under another loss: everything but the loss over items is the model's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from support.small_backbones import keys_of
from tiny import SHORT, make_model, prepare

from recbole_tslrec.backbones.losses import gbce_loss, sampled_softmax_loss, softmax_loss
from recbole_tslrec.backbones.prefix_rows import prefix_loss
from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader
from recbole_tslrec.backbones.whole_sequences.loss import whole_sequence_loss

TABLE = "item_embedding"
NEGATIVES = torch.tensor([3, 7, 7, 20])
SAMPLED = [
    partial(sampled_softmax_loss, negatives=NEGATIVES),
    partial(gbce_loss, negatives=NEGATIVES, calibration=0.5),
]


def with_gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {"": loss.detach()} | {
        name: weight.grad.clone() for name, weight in model.named_parameters()
    }


@pytest.mark.parametrize("backbone", [name for name, one in BACKBONES.items() if one.by_product])
def test_with_the_whole_softmax_it_is_the_models_own_loss(backbone):
    weights = {"reg_weight": [0.1, 0.1] if backbone == "SHAN" else 0.1}
    config, train_data, _ = prepare(backbone, **weights | keys_of(backbone, "tiny"))
    model = make_model(config, train_data).float()  # SRGNN makes graphs of single precision
    batch = next(iter(train_data))
    bias = BACKBONES[backbone].item_bias
    expected = with_gradients(model, model.calculate_loss(batch))
    found = with_gradients(model, prefix_loss(model, batch, TABLE, softmax_loss, bias))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: name + text)
    assert not {"forward", "loss_fct"} & vars(model).keys()
    assert isinstance(model.loss_fct, torch.nn.CrossEntropyLoss)


@pytest.mark.parametrize("loss", SAMPLED)
@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec"])
def test_a_sampled_loss_is_the_same_in_whole_sequences(backbone, loss):
    config, train_data, _ = prepare(backbone, lengths=SHORT)
    model = make_model(config, train_data)
    sequences = WholeSequenceDataLoader(config, train_data._dataset, None)
    prefixes = sum(prefix_loss(model, batch, TABLE, loss) * len(batch) for batch in train_data)
    whole = sum(
        whole_sequence_loss(model, batch, TABLE, loss) * (batch["item_id"] != 0).sum()
        for batch in sequences
    )
    expected, found = (with_gradients(model, one) for one in (prefixes, whole))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_after_an_error_the_model_is_as_it_was():
    config, train_data, _ = prepare()
    model = make_model(config, train_data)
    with pytest.raises(KeyError):
        prefix_loss(model, {}, TABLE, softmax_loss)
    assert "forward" not in vars(model)
    assert isinstance(model.loss_fct, torch.nn.CrossEntropyLoss)
