import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn.utils import parametrize

from recbole_tslrec.paradigms.tslrec.augmentation import columns
from recbole_tslrec.paradigms.tslrec.augmentation.columns import (
    centre,
    reduce_columns,
    standardise,
    whitened_components,
)
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS, GateFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import fusion as module
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import initial_scale
from recbole_tslrec.paradigms.tslrec.models.ci import CategoryFusion
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import EqualNorms


def id_table(n_items=20, dimension=8, std=0.02) -> torch.Tensor:
    return torch.randn(n_items, dimension, generator=torch.Generator().manual_seed(0)) * std


def fusion_of(kind: str, width: int = 5, scale: float = 1.0):
    torch.manual_seed(1)
    fusion = FUSIONS[kind](id_table(), width, scale)
    fusion.set_enhanced(torch.randn(19, width) * 7 + 3)
    return fusion


def test_gate_is_the_formula_element_by_element():
    fusion, table = fusion_of("gate"), id_table()
    h = fusion.enhanced.tolist()
    w_h, b_h = fusion.projection.weight.tolist(), fusion.projection.bias.tolist()
    w_a, b_a = fusion.gate.weight.tolist(), fusion.gate.bias.tolist()
    fused = fusion(table)
    for item in (0, 1, 7, 19):
        e = table[item].tolist()
        projected = [
            sum(w * x for w, x in zip(w_h[i], h[item], strict=True)) + b_h[i] for i in range(8)
        ]
        both = e + projected
        gates = []
        for i in range(8):
            logit = sum(w * x for w, x in zip(w_a[i], both, strict=True)) + b_a[i]
            gates.append(1 / (1 + math.exp(-logit)))
            expected = gates[i] * e[i] + (1 - gates[i]) * projected[i]
            assert fused[item, i].item() == pytest.approx(expected, abs=1e-6)
        assert fusion.mean_gate(table)[item].item() == pytest.approx(sum(gates) / 8, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 10, 20, 30])
def test_the_projection_by_rows_is_the_linear_layer(rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows)
    fusion = fusion_of("gate")
    weights = torch.randn(20, 8)
    ours = fusion.project()
    (ours * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in fusion.projection.parameters()]
    fusion.projection.zero_grad()
    plain = fusion.projection(fusion.enhanced.float())
    (plain * weights).sum().backward()
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients, [p.grad for p in fusion.projection.parameters()])


@pytest.mark.parametrize("kind", FUSIONS)
def test_mixed_precision_leaves_the_table_as_it_is(kind):
    fusion, table = fusion_of(kind), id_table()
    with torch.autocast("cpu"):
        fused = fusion(table)
    assert torch.equal(fused, fusion(table))


def test_equal_norms_have_the_learned_length_and_keep_directions():
    norms = EqualNorms(id_table())
    assert norms.length.item() == pytest.approx(id_table()[1:].norm(dim=1).mean().item())
    table = torch.randn(20, 4)
    table[0] = 0
    lengths = norms(table).norm(dim=1)
    torch.testing.assert_close(lengths[1:], norms.length.detach().expand(19))
    assert lengths[0] == 0
    cosines = torch.cosine_similarity(norms(table)[1:], table[1:])
    torch.testing.assert_close(cosines, torch.ones(19))


def test_sum_is_the_sum():
    fusion, table = fusion_of("sum"), id_table()
    torch.testing.assert_close(fusion(table), table + fusion.project())


@pytest.mark.parametrize("kind", ["gate", "sum", "alone"])
@pytest.mark.parametrize("width", [3, 384])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_enhanced_embeddings_enter_at_the_id_embeddings_scale(kind, width, scale):
    table = id_table(2000, 64)
    torch.manual_seed(0)
    fusion = FUSIONS[kind](table, width, scale)
    fusion.set_enhanced(torch.randn(1999, width) * 50 - 10)
    projected = fusion.project()[1:]
    assert projected.pow(2).mean().sqrt().item() == pytest.approx(0.02 * scale, rel=0.15)


@pytest.mark.parametrize("kind", ["gate", "sum", "alone"])
@pytest.mark.parametrize(("width", "filled", "cut"), [(96, 24, 96), (96, 96, 96), (96, 24, 48)])
def test_empty_columns_make_what_enters_no_smaller(kind, width, filled, cut):
    """With and without PCA, which scales what it keeps as a whole."""
    table = id_table(1000, 64)
    vectors = torch.cat([torch.randn(999, filled), torch.full((999, width - filled), 0.3)], dim=1)
    torch.manual_seed(0)
    fusion = FUSIONS[kind](table, cut, 1.0)
    before = fusion.projection.weight.detach().clone()
    fusion.set_enhanced(vectors)
    fusion.start(vectors, table)
    assert fusion.project()[1:].pow(2).mean().sqrt().item() == pytest.approx(0.02, rel=0.15)
    changed = not torch.equal(fusion.projection.weight, before)
    assert changed == (filled < width == cut)


def test_padding_counts_nowhere():
    table = id_table()
    table[0] = 1e6
    assert initial_scale(table) == pytest.approx(0.02, rel=0.2)
    fusion = fusion_of("gate")
    assert fusion.enhanced[0].abs().sum() == 0
    kept = fusion.enhanced[1:].float()
    torch.testing.assert_close(kept.mean(0), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(kept.var(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)


@given(st.integers(2, 30), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_standardise_undoes_shift_and_scale(n, shift, scale):
    vectors = torch.randn(n, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    expected = (vectors - vectors.mean(0)) / vectors.std(0, correction=0)
    torch.testing.assert_close(standardise(vectors * scale + shift), expected, rtol=1e-4, atol=1e-4)


@given(st.integers(3, 40), st.integers(1, 8))
def test_pca_keeps_the_most_variance_and_the_scale(n, n_columns):
    vectors = standardise(torch.randn(n, 8, generator=torch.Generator().manual_seed(n)))
    reduced = reduce_columns(vectors, n_columns)
    assert reduced.shape == (n, n_columns)
    singular = torch.linalg.svdvals(vectors.double())[:n_columns]
    expected = singular / (singular.pow(2).sum() / (n * n_columns)).sqrt()
    if n_columns < 8:
        found = torch.linalg.svdvals(reduced.double())[: len(expected)]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert reduced.pow(2).mean().item() == pytest.approx(1, rel=1e-4)
    else:
        assert torch.equal(reduced, vectors)


def test_wide_enhanced_embeddings_are_reduced_and_the_log_says_so(caplog):
    fusion = GateFusion(id_table(), 4, 1.0)
    with caplog.at_level("INFO"):
        fusion.set_enhanced(torch.randn(19, 30))
    assert "4 of 30 columns by PCA keep" in caplog.text
    assert fusion.enhanced.shape == (20, 4) and fusion.enhanced.dtype == torch.float16


def test_constant_columns_become_zero_not_nan():
    vectors = torch.full((10, 2), 0.1)
    vectors[:, 1] = torch.arange(10.0)
    assert standardise(vectors)[:, 0].abs().max() == 0
    assert standardise(vectors).isfinite().all()


@pytest.mark.parametrize("kind", ["gate", "sum", "alone"])
@pytest.mark.parametrize("width", [3, 5])  # with PCA and without
def test_enhanced_embeddings_that_are_all_equal_give_no_nan(kind, width, caplog):
    fusion = FUSIONS[kind](id_table(), width, 1.0)
    fusion.set_enhanced(torch.full((19, 5), 0.3))
    fused = fusion(id_table())
    fused.sum().backward()
    assert fusion.enhanced.abs().max() == 0 and fused.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())
    assert "all 19 items are the same" in caplog.text


shapes = st.tuples(st.integers(1, 12), st.integers(1, 40))
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(arrays(np.float32, shapes, elements=numbers), st.integers(1, 6))
def test_no_finite_embeddings_give_nan(vectors, n_columns):
    """Constant columns, one item, denormal and huge numbers."""
    standardised = standardise(torch.from_numpy(vectors))
    assert standardised.isfinite().all() and standardised.abs().max() <= len(vectors) ** 0.5 + 1e-3
    assert reduce_columns(standardised, n_columns).half().isfinite().all()


def test_blocks_of_rows_and_columns_have_no_seams(monkeypatch):
    vectors = torch.randn(50, 70, generator=torch.Generator().manual_seed(0)) * 3 + 1
    whole, reduced = standardise(vectors), reduce_columns(standardise(vectors), 9)
    monkeypatch.setattr(columns, "_COLUMNS_AT_ONCE", 7)
    monkeypatch.setattr(columns, "_ROWS_AT_ONCE", 11)
    torch.testing.assert_close(standardise(vectors), whole)
    torch.testing.assert_close(reduce_columns(whole, 9).abs(), reduced.abs(), rtol=1e-4, atol=1e-5)


def test_categories_enter_at_the_id_scale_and_padding_stays():
    table = id_table(2000, 64)
    fusion = CategoryFusion(table, 7)
    fusion.set_categories(torch.arange(1999) % 7)
    fused = fusion(table)
    torch.testing.assert_close(fused[0], table[0])
    added = fused[1:] - table[1:]
    assert added.pow(2).mean().sqrt().item() == pytest.approx(0.02, rel=0.2)
    assert torch.equal(added[0], added[7]) or torch.allclose(added[0], added[7], atol=1e-7)
    assert not torch.allclose(added[0], added[1], atol=1e-4)


def test_gradient_reaches_every_parameter_through_lookup_and_scores():
    table = nn.Embedding(20, 8, padding_idx=0)
    fusion = GateFusion(table.weight, 5, 1.0)
    fusion.set_enhanced(torch.randn(19, 5))
    parametrize.register_parametrization(table, "weight", fusion)
    (table(torch.tensor([1, 2])) @ table.weight.T).pow(2).sum().backward()
    for name, parameter in table.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("width", "dimension"), [(12, 8), (3, 8)])
def test_the_ids_start_from_the_principal_components_at_their_own_size(width, dimension):
    table = id_table(200, dimension)
    before = table.clone()
    fusion = FUSIONS["start"](table, 1, 2.0)
    vectors = torch.randn(199, width) * torch.arange(1, width + 1) + 5
    vectors[7] = 0  # nothing is known of it
    fusion.start(vectors, torch.nn.Parameter(table))
    kept = min(width, dimension)
    assert torch.equal(table[0], before[0]) and torch.equal(table[:, kept:], before[:, kept:])
    started = table[1:, :kept]
    assert started[torch.arange(199) != 7].pow(2).mean().sqrt().item() == pytest.approx(
        2 * initial_scale(before), rel=0.01
    )
    assert torch.equal(table[8], before[8])  # a row of zeros would take no finite step under a norm
    known = torch.arange(199) != 7
    centred = (vectors[known] - vectors[known].mean(dim=0)).double()
    values, directions = torch.linalg.eigh(centred.T @ centred)
    if width <= dimension:  # kept as they are
        expected = centred
    else:
        expected = centred @ directions[:, -kept:].flip(1)
    # Up to a factor for all, inner products are those of the components.
    ours = started[known].double()
    products, wanted = ours @ ours.T, expected @ expected.T
    torch.testing.assert_close(
        products / products.norm(), wanted / wanted.norm(), atol=1e-6, rtol=1e-4
    )
    assert torch.equal(fusion(table), table)  # and are trained on as they are


@pytest.mark.parametrize("n_known", [199, 100, 20])
def test_items_of_which_nothing_is_known_make_the_others_no_larger(n_known):
    table = id_table(200, 8)
    vectors = torch.randn(199, 12) + 5
    vectors[n_known:] = 0
    started = table.clone()
    FUSIONS["start"](table, 1, 2.0).start(vectors, nn.Parameter(started))
    size = started[1 : 1 + n_known].pow(2).mean().sqrt().item()
    assert size == pytest.approx(2 * initial_scale(table), rel=1e-5)
    fusion = FUSIONS["null_space"](table, 1, 1.0)
    fusion.start(vectors, table)
    known = fusion.components[1 : 1 + n_known].float()
    torch.testing.assert_close(known.var(0, correction=0), torch.ones(8), atol=2e-3, rtol=0)


def test_vectors_that_are_all_the_same_start_nothing():
    table = id_table()
    before = table.clone()
    FUSIONS["start"](table, 1, 1.0).start(torch.ones(19, 8), torch.nn.Parameter(table))
    assert torch.equal(table, before)


@pytest.mark.parametrize(("width", "dimension"), [(12, 8), (8, 8), (5, 8), (3, 8), (12, 7)])
def test_null_space_adds_the_ids_to_the_weakest_of_the_whitened_components(width, dimension):
    table = id_table(200, dimension)
    fusion = FUSIONS["null_space"](table, width, 2.0)
    vectors = (torch.randn(199, width) @ torch.randn(width, width)) * torch.arange(1, width + 1) + 5
    fusion.start(vectors, table)
    centred = vectors.double() - vectors.double().mean(dim=0)
    _, _, directions = np.linalg.svd(centred.numpy(), full_matrices=False)
    z = centred.numpy() @ directions.T[:, :dimension]
    z = z / z.std(axis=0)
    size = 2 * initial_scale(table)
    fused = fusion(table)[1:].detach().numpy()
    n_free = dimension - min(dimension - dimension // 2, width)
    ids = np.pad(table[1:, dimension - n_free :].numpy(), ((0, 0), (dimension - n_free, 0)))
    ours = (fused - ids)[:, : z.shape[1]]
    signs = np.sign((ours * z).sum(axis=0))
    np.testing.assert_allclose(ours, size * z * signs, atol=2e-3 * size, rtol=2e-3)
    np.testing.assert_allclose((fused - ids)[:, z.shape[1] :], 0, atol=1e-7)
    assert torch.equal(fusion(table)[0, : dimension - n_free], torch.zeros(dimension - n_free))


def test_null_space_gives_the_ids_what_the_vectors_leave(caplog):
    table, signs = id_table(200, 16), torch.randint(0, 2, (199, 1)) * 2.0 - 1
    fusion = FUSIONS["null_space"](table, 4, 1.0)
    fusion.start(torch.cat([signs, 3 * signs], dim=1), table)  # one direction
    of_words = fusion(torch.zeros_like(table))
    assert of_words[1:, 0].abs().min() > 0 and not of_words[:, 1:].any()
    torch.testing.assert_close(fusion(table)[:, 1:], table[:, 1:])
    assert not caplog.records
    fusion.start(torch.ones(199, 5), table)
    assert torch.equal(fusion(table), table) and "items are the same" in caplog.text


def test_a_weak_direction_is_a_component():
    vectors = centre(torch.randn(4000, 256) * torch.logspace(0, -3, 256))
    assert whitened_components(vectors, 256).any(dim=0).all()


def test_a_direction_without_variance_is_no_component():
    rows = torch.randn(50, 2, dtype=torch.float64).float()
    vectors = centre(torch.cat([rows, rows], dim=1))  # rank 2 of 4 columns
    components = whitened_components(vectors, 4)
    torch.testing.assert_close(components.std(dim=0, correction=0), torch.tensor([1.0, 1, 0, 0]))
