"""LRURec: the recurrence against a loop in NumPy, and what complex numbers might break."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_backbones import batch_of, model_of

from recbole_tslrec.backbones.lrurec import LinearRecurrentUnit, linear_recurrence

BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}


def array(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().numpy()


def by_loop(inputs: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """h_t = λ h_{t−1} + u_t, one position after the other. complex [L, C]"""
    state, states = np.zeros_like(decay), []
    for one in inputs:
        state = decay * state + one
        states.append(state)
    return np.array(states)


@given(length=st.integers(1, 70), seed=st.integers(0, 99))
def test_the_recurrence_is_the_loops(length, seed):
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(2, length, 3)) + 1j * generator.normal(size=(2, length, 3))
    decay = generator.uniform(0, 1, 3) * np.exp(1j * generator.uniform(0, 7, 3))
    states = linear_recurrence(torch.from_numpy(inputs), torch.from_numpy(decay))
    expected = [by_loop(each, decay) for each in inputs]
    np.testing.assert_allclose(states.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_unit_is_the_papers_formula():
    torch.manual_seed(0)
    unit = LinearRecurrentUnit(hidden_size=5, dropout=0.5, layer_norm_eps=1e-5).double().eval()
    states = torch.randn(2, 9, 5, dtype=torch.float64)
    into, out_of = unit.into_channels, unit.out_of_channels
    # Even rows of B make real parts, odd ones imaginary; C's columns take them likewise, with the
    # sign of the imaginary part in its weights: Re(C h) = Re C · Re h − Im C · Im h.
    made = states.numpy() @ array(into.weight).T + array(into.bias)
    inputs = np.exp(array(unit.log_gain)) * (made[..., ::2] + 1j * made[..., 1::2])
    decay = np.exp(-np.exp(array(unit.log_rate)) + 1j * np.exp(array(unit.log_phase)))
    hidden = np.array([by_loop(each, decay) for each in inputs])
    matrix = array(out_of.weight)[:, ::2] - 1j * array(out_of.weight)[:, 1::2]
    mixed = states.numpy() + (hidden @ matrix.T).real + array(out_of.bias)
    centred = mixed - mixed.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(unit(states).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_states_start_to_decay_slowly_and_at_one_size():
    torch.manual_seed(0)
    unit = LinearRecurrentUnit(hidden_size=500, dropout=0.0, layer_norm_eps=1e-5)
    size = unit.decay().abs().detach()
    assert 0.8 <= size.min() < 0.81 and 0.985 < size.max() <= 0.99
    torch.testing.assert_close(unit.log_gain.exp() ** 2, 1 - size**2, rtol=1e-4, atol=1e-4)
    phase = unit.log_phase.exp()
    assert 0 < phase.min() < 0.1 and 6.2 < phase.max() <= 2 * np.pi + 1e-6


@pytest.mark.parametrize("keys", [{}, BPR])
@pytest.mark.parametrize("half", [False, True])
def test_every_weight_learns_and_gradients_can_be_clipped(keys, half):
    model = model_of("LRURec", MAX_ITEM_LIST_LENGTH=7, **keys)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = model.calculate_loss(batch_of(7))
    loss.backward()
    for name, weight in model.named_parameters():
        assert not weight.is_complex() and weight.grad.isfinite().all() and weight.grad.any(), name
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    clipped = torch.stack([weight.grad.norm() for weight in model.parameters()]).norm()
    assert norm > 1e-3 and clipped == pytest.approx(1e-3, rel=1e-3)


def test_half_precision_stays_close():
    model = model_of("LRURec", MAX_ITEM_LIST_LENGTH=50).eval()
    batch = batch_of(50)
    with torch.no_grad():
        exact = model(batch["item_id_list"], batch["item_length"])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(batch["item_id_list"], batch["item_length"])
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.1)


def test_scores_of_one_item_and_of_all_agree_and_have_the_bias():
    model = model_of("LRURec", MAX_ITEM_LIST_LENGTH=7).eval()
    batch = batch_of(7)
    with torch.no_grad():
        every, single = model.full_sort_predict(batch), model.predict(batch)
        torch.testing.assert_close(single, every[torch.arange(3), batch["item_id"]])
        model.item_bias[7] += 5
        torch.testing.assert_close(model.full_sort_predict(batch)[:, 7], every[:, 7] + 5)
