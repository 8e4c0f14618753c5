"""Caser without padding gives Caser's outputs, gradients and dropout."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.model.sequential_recommender.caser import Caser
from tiny import N_ITEMS, prepare

from recbole_tslrec.backbones import caser
from recbole_tslrec.backbones.caser import without_padding


@st.composite
def models_and_batches(draw) -> tuple[Caser, dict[str, torch.Tensor]]:
    longest, n_rows = draw(st.integers(1, 19)), draw(st.integers(1, 12))
    n_filters = {"nh": draw(st.integers(1, 3)), "nv": draw(st.integers(1, 2))}
    config, train_data, _ = prepare("Caser", MAX_ITEM_LIST_LENGTH=longest, **n_filters)
    torch.manual_seed(draw(st.integers(0, 2**32)))
    model = Caser(config, train_data._dataset).double()
    torch.nn.init.normal_(
        model.item_embedding.weight
    )  # the padding's, too, as after a step with CE
    items = torch.randint(1, N_ITEMS, (n_rows, longest))
    lengths = torch.randint(0, longest + 1, (n_rows,))
    items[torch.arange(longest) >= lengths[:, None]] = 0
    users, targets = torch.randint(1, 10, (n_rows,)), torch.randint(1, N_ITEMS, (n_rows,))
    return model, {"user_id": users, "item_id_list": items, "item_id": targets}


def loss_and_gradients(model: Caser, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(0)  # dropout
    loss = model.calculate_loss(batch)
    loss.backward()
    weights = model.named_parameters()
    return {"": loss.detach()} | {name: weight.grad.clone() for name, weight in weights}


def test_loss_and_gradients_are_casers(monkeypatch):
    monkeypatch.setattr(caser, "_ROWS", 3)

    @given(models_and_batches())
    def check(given_both):
        model, batch = given_both
        expected = loss_and_gradients(model, batch)
        with without_padding(model):
            found = loss_and_gradients(model, batch)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, msg=lambda text, name=name: name + text)
        assert "forward" not in vars(model) and len(model.conv_h) == model.max_seq_length

    check()
