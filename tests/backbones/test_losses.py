"""The losses and their gradients are those of the plain computation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.backbones import losses
from recbole_tslrec.backbones.losses import gbce_loss, loss_of, sampled_softmax_loss, softmax_loss

USUAL = {
    "sampled_loss": "none",
    "sampled_negatives": 4,
    "gbce_calibration": 0.75,
    "device": torch.device("cpu"),
}


@st.composite
def inputs(draw) -> tuple[Tensor, Tensor, Tensor]:
    """States, item table and targets, in double precision."""
    n_targets, n_items, width = (draw(st.integers(*ends)) for ends in ((1, 12), (3, 12), (1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.01, 1.0, 3.0]))
    states, table = (
        scale * torch.randn(n, width, dtype=torch.float64, generator=generator)
        for n in (n_targets, n_items)
    )
    targets = torch.randint(1, n_items, (n_targets,), generator=generator)
    return states.requires_grad_(), table.requires_grad_(), targets


@st.composite
def inputs_and_negatives(draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    states, table, targets = draw(inputs())
    items = st.integers(1, len(table) - 1)
    negatives = draw(
        st.lists(items, min_size=1, max_size=len(table) - 1)
    )  # some twice, some targets
    return states, table, targets, torch.tensor(negatives)


def assert_same(loss: Tensor, expected: Tensor, *weights: Tensor) -> None:
    """The values, and the gradients of three times the values."""
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(3 * one, weights) for one in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


# ---- all items --------------------------------------------------------------------------------------


@given(inputs(), st.integers(1, 50))
def test_the_softmax_is_exact_in_chunks_of_any_size(given_inputs, rows):
    states, table, targets = given_inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CHUNK_BYTES", rows * len(table) * 8)
        patch.setattr(losses, "_ROWS_AT_LEAST", 1)
        loss = softmax_loss(states, table, targets)
    assert_same(loss, F.cross_entropy(states @ table.T, targets), states, table)


def test_large_logits_neither_overflow_nor_lose_the_loss():
    states, targets = torch.tensor([[200.0], [-200.0]], requires_grad=True), torch.tensor([1, 1])
    loss = softmax_loss(states, torch.tensor([[0.0], [1.0]], requires_grad=True), targets)
    assert loss.item() == pytest.approx(100)  # 0 for the first row, 200 for the second
    assert torch.autograd.grad(loss, states)[0].tolist() == [[0.0], [-0.5]]


def test_in_half_precision_the_loss_is_computed_in_single():
    states = torch.randn(40, 8, dtype=torch.bfloat16, requires_grad=True)
    table = torch.randn(500, 8, requires_grad=True)
    targets = torch.randint(1, 500, (40,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_loss(states, table, targets)
    torch.testing.assert_close(loss, F.cross_entropy(states.float() @ table.T, targets))
    gradients = torch.autograd.grad(loss, (states, table))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]


def test_the_logits_are_not_kept_for_the_backward_pass():
    table = torch.randn(1000, 4, requires_grad=True)
    states, targets = torch.randn(512, 4, requires_grad=True), torch.randint(1, 1000, (512,))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
    ):
        softmax_loss(states, table, targets)
    assert sum(sizes) < 10 * table.nbytes < 512 * 1000 * 4


def test_products_in_bfloat16_are_as_exact_as_bfloat16():
    torch.manual_seed(0)
    states = torch.randn(300, 16, requires_grad=True)
    table = torch.randn(200, 16, requires_grad=True)
    targets = torch.randint(1, 200, (300,))
    loss = softmax_loss(states, table, targets, products=torch.bfloat16)
    expected = F.cross_entropy(states @ table.T, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    found, wanted = (torch.autograd.grad(one, (states, table)) for one in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


def test_the_softmax_alone_computes_in_bfloat16():
    assert loss_of(USUAL, 10) is softmax_loss
    assert loss_of(USUAL, 10, bf16=True).keywords == {"products": torch.bfloat16}


# ---- a sample ---------------------------------------------------------------------------------------


@given(inputs_and_negatives())
def test_sampled_softmax_is_its_formula(given_inputs):
    states, table, targets, negatives = given_inputs
    terms = []
    for state, target in zip(states, targets.tolist(), strict=True):
        drawn = [(table[item] @ state).exp() for item in negatives.tolist() if item != target]
        rest = sum(drawn) * (len(table) - 1) / len(negatives)
        positive = table[target] @ state
        terms.append((positive.exp() + rest).log() - positive)
    loss = sampled_softmax_loss(states, table, targets, negatives)
    assert_same(loss, torch.stack(terms).mean(), states, table)


@given(inputs())
def test_a_sample_of_every_item_once_gives_the_whole_softmax(given_inputs):
    states, table, targets = given_inputs
    items = torch.arange(1, len(table))
    whole = F.cross_entropy(states @ table[1:].T, targets - 1)  # the padding is no item
    assert_same(sampled_softmax_loss(states, table, targets, items), whole, states, table)


@given(inputs_and_negatives(), st.floats(0, 1))
def test_gbce_is_its_formula(given_inputs, t):
    states, table, targets, negatives = given_inputs
    n_negatives, alpha = len(negatives), len(negatives) / (len(table) - 2)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    terms = []
    for state, target in zip(states, targets.tolist(), strict=True):
        term = beta * F.logsigmoid(table[target] @ state)
        for item in negatives.tolist():
            if item != target:
                term = term + F.logsigmoid(-(table[item] @ state))  # log(1 - σ(s))
        terms.append(-term / (n_negatives + 1))
    assert_same(
        gbce_loss(states, table, targets, negatives, t), torch.stack(terms).mean(), states, table
    )


def test_gbce_without_calibration_is_binary_cross_entropy():
    torch.manual_seed(0)
    states, table = torch.randn(5, 3), torch.randn(20, 3)
    targets, negatives = torch.randint(1, 10, (5,)), torch.randint(10, 20, (7,))
    scores = torch.cat(
        [(states * table[targets]).sum(1, keepdim=True), states @ table[negatives].T], 1
    )
    labels = torch.zeros_like(scores).index_fill(1, torch.tensor([0]), 1.0)
    torch.testing.assert_close(
        gbce_loss(states, table, targets, negatives, 0.0),
        F.binary_cross_entropy_with_logits(scores, labels),
    )


@pytest.mark.parametrize("kind", ["softmax", "gbce"])
def test_negatives_are_drawn_anew_evenly_and_repeatably(kind, monkeypatch):
    drawn = []
    name = "sampled_softmax_loss" if kind == "softmax" else "gbce_loss"
    monkeypatch.setattr(losses, name, lambda *arguments, **more: drawn.append(arguments[3]))
    loss = loss_of(USUAL | {"sampled_loss": kind}, 6)
    torch.manual_seed(1)
    for _ in range(2000):
        loss(torch.zeros(2, 3), torch.zeros(6, 3), torch.tensor([1, 2]))
    counts = torch.stack(drawn).flatten().bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] - 1600).abs().max() < 5 * math.sqrt(1600)
    assert not torch.equal(drawn[0], drawn[1])
    torch.manual_seed(1)
    loss(torch.zeros(2, 3), torch.zeros(6, 3), torch.tensor([1, 2]))
    assert torch.equal(drawn[-1], drawn[0])


def test_more_negatives_than_items_are_refused():
    for kind, enough in (("softmax", 5), ("gbce", 6)):  # gBCE's α is 1 at most
        loss_of(USUAL | {"sampled_loss": kind}, enough)
        with pytest.raises(ValueError, match=r"sampled_negatives: \[4\] is more than the 3 items"):
            loss_of(USUAL | {"sampled_loss": kind}, enough - 1)
    with pytest.raises(ValueError, match=r"^sampled_loss: \[gbce\] draws other items"):
        loss_of(USUAL | {"sampled_loss": "gbce", "sampled_negatives": 1}, 2)
