"""BSARec against the paper's formulas in NumPy, on a small model of random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, softmax
from support.small_backbones import batch_of, model_of

from recbole_tslrec.backbones.bsarec import BSARec, low_pass

LENGTH = 7


def normalised(states: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    centred = states - states.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.eps)
    return centred / deviation * array(layer.weight) + array(layer.bias)


def array(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().numpy()


def linear(states: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    return states @ array(layer.weight).T + array(layer.bias)


def filtered(states: np.ndarray, layer, cutoff: int) -> np.ndarray:
    """Eq. 8 and 9, of one history [L, H]."""
    spectrum = np.fft.rfft(states, axis=0)
    spectrum[cutoff // 2 + 1 :] = 0
    low = np.fft.irfft(spectrum, n=len(states), axis=0)
    return normalised(states + low + array(layer.sqrt_beta) ** 2 * (states - low), layer.LayerNorm)


def attended(states: np.ndarray, layer, n_heads: int, n_padding: int) -> np.ndarray:
    """Self-attention to items that are not later, of one history [L, H] padded on the left."""
    query, key, value = (linear(states, getattr(layer, name)) for name in ("query", "key", "value"))
    length, width = states.shape[0], states.shape[1] // n_heads
    open_to = np.tril(np.ones((length, length), bool)) & (np.arange(length) >= n_padding)
    heads = []
    for head in range(n_heads):
        columns = slice(head * width, (head + 1) * width)
        scores = query[:, columns] @ key[:, columns].T / np.sqrt(width)
        heads.append(softmax(scores + np.where(open_to, 0, -10000), axis=1) @ value[:, columns])
    return normalised(states + linear(np.concatenate(heads, axis=1), layer.dense), layer.LayerNorm)


def representation(model: BSARec, items: list[int], cutoff: int, alpha: float) -> np.ndarray:
    """The user's representation, [H], of every position in every layer."""
    n_padding = LENGTH - len(items)
    padded = [0] * n_padding + items
    states = array(model.item_embedding.weight)[padded] + array(model.position_embedding.weight)
    states = normalised(states, model.LayerNorm)
    for layer in model.trm_encoder.layer:
        mixed = layer.multi_head_attention
        states = alpha * filtered(states, mixed.frequency_layer, cutoff) + (1 - alpha) * attended(
            states, mixed.attention, model.n_heads, n_padding
        )
        inner = linear(states, layer.feed_forward.dense_1)
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        states = normalised(
            states + linear(inner, layer.feed_forward.dense_2), layer.feed_forward.LayerNorm
        )
    return states[-1]


@given(length=st.integers(1, 12), n_frequencies=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_filter_is_what_the_transforms_give(length, n_frequencies, seed):
    signal = np.random.default_rng(seed).normal(size=length)
    spectrum = np.fft.rfft(signal)
    spectrum[n_frequencies:] = 0
    expected = np.fft.irfft(spectrum, n=length)
    np.testing.assert_allclose(
        low_pass(length, n_frequencies).numpy() @ signal, expected, atol=1e-6
    )


@pytest.mark.parametrize(("n_heads", "cutoff", "alpha"), [(1, 5, 0.7), (2, 0, 0.3), (2, 9, 1.0)])
def test_representations_are_the_papers(n_heads, cutoff, alpha):
    keys = {"n_heads": n_heads, "cutoff": cutoff, "alpha": alpha, "MAX_ITEM_LIST_LENGTH": LENGTH}
    model = model_of("BSARec", **keys).double().eval()
    for weight in model.parameters():  # norms and biases among them, which start as 1 and 0
        weight.data.normal_()
    batch = batch_of(LENGTH)
    with torch.no_grad():
        given_ = model(batch["item_id_list"], batch["item_length"]).numpy()
    rows = zip(batch["item_id_list"].tolist(), batch["item_length"].tolist(), strict=True)
    expected = [representation(model, items[:n], cutoff, alpha) for items, n in rows]
    # The filter's matrix is held in single precision.
    np.testing.assert_allclose(given_, expected, rtol=1e-5, atol=1e-5)


def test_every_weight_learns_in_half_precision_too():
    model = model_of("BSARec", MAX_ITEM_LIST_LENGTH=LENGTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(batch_of(LENGTH))
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all() and weight.grad.any(), name
