"""Rows of items without a training interaction, where their words are known."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.quick_start import load_data_and_model
from support.stages import pipeline_of
from support.texts import write_texts

from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import most_alike
from recbole_tslrec.paradigms.tslrec.folding import fold
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.trained_backbone import trained_backbone


def fusion_of(name, ids):
    fusion = FUSIONS[name](ids, 3, 1.0)
    fusion.set_enhanced(torch.arange(15.0).view(5, 3).sin())
    return fusion


@pytest.mark.parametrize("name", FUSIONS)
def test_a_cold_row_has_the_ids_of_items_like_it_and_learns_nothing(name):
    ids = torch.nn.Parameter(torch.randn(6, 4))
    fusion, plain = fusion_of(name, ids), fusion_of(name, ids)
    plain.load_state_dict(fusion.state_dict())
    fusion.tell_cold_items(6)
    vectors = torch.tensor([[1.0, 0], [1, 0.1], [-1, 0.2], [0, -1], [1, -0.1]])
    fusion.set_cold(torch.tensor([False, True, False, False, True]), vectors)
    cold, warm = torch.tensor([2, 5]), torch.tensor([0, 1, 3, 4])
    assert fusion.cold.nonzero()[:, 0].tolist() == cold.tolist()
    assert set(fusion.alike[2].tolist()) == set(fusion.alike[5].tolist()) == {1, 3, 4}
    fusion.eval()
    given = ids.detach().clone()
    given[cold] = (ids[1] + ids[3] + ids[4]).detach() / 3
    assert torch.equal(fusion(ids)[warm], plain(ids)[warm])
    torch.testing.assert_close(fusion(ids), plain(given))
    if hasattr(fusion, "mean_gate"):
        torch.testing.assert_close(fusion.mean_gate(ids), plain.mean_gate(given))
    fusion.train()
    table = fusion(ids)
    assert not table[cold].any() and torch.equal(table[warm], plain(ids)[warm])
    if not fusion.reads_ids:
        return
    table.pow(2).sum().backward()
    of_all, ids.grad = ids.grad, None
    fusion(ids)[warm].pow(2).sum().backward()
    assert torch.equal(of_all, ids.grad) and not of_all[cold].any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_the_most_alike(seed, n_items):
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_items, 3, generator=random)
    rows, among = torch.rand(2, n_items, generator=random) < 0.5
    found = most_alike(vectors, rows, among)
    ids = (1 + among.nonzero()[:, 0]).tolist()
    for row, own in zip(rows.nonzero()[:, 0].tolist(), found.tolist(), strict=True):
        cosines = {
            i: torch.nn.functional.cosine_similarity(vectors[row], vectors[i - 1], dim=0).item()
            for i in ids
        }
        best = sorted(ids, key=cosines.get, reverse=True)[:3]
        assert own == (best + best[:1] * (3 - len(best)) if best else [0, 0, 0])


def test_a_cold_item_without_words_keeps_its_own_ids():
    ids = torch.randn(6, 4)
    fusion = fusion_of("sum", ids)
    fusion.tell_cold_items(6)
    vectors = torch.randn(5, 2)
    vectors[1] = 0
    fusion.set_cold(torch.tensor([False, True, True, False, False]), vectors)
    assert fusion.cold.nonzero()[:, 0].tolist() == [3]
    assert 2 not in fusion.alike[3]  # nor is it like any other


@pytest.fixture
def with_a_cold_item(small_data, settings, tmp_path):
    """Settings of an experiment in which one item is the last of a user and no one's otherwise."""
    path = tmp_path / "data" / "small" / "small.inter"
    path.write_text(path.read_text() + "u0\ti30\t999\n")
    write_texts(n_items=31)
    return settings | {"item_text": "title", "enhancement": "text", "epochs": 2}


KINDS = [
    {},
    {"item_norm": "l2"},
    {"fusion": "none", "score_term": "after"},
    {"fusion": "start"},
    {"fusion": "null_space"},
    {"fusion": "none", "score_term": "during"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cold_item_in_a_trained_model(kind, with_a_cold_item, small_data):
    run = run_experiment("TSLRec_SASRec", small_data, config_dict=with_a_cold_item | kind)
    trained = run.train_data._dataset.inter_feat
    had = {*trained["item_id"].tolist(), *trained["item_id_list"].flatten().tolist()}
    model = run.trainer.model.eval()
    cold = {*range(1, model.n_items)} - had
    assert run.train_data._dataset.token2id("item_id", "i30") in cold
    assert set(model.fusion.cold.nonzero().flatten().tolist()) == cold
    _, loaded, _, _, _, test_data = load_data_and_model(str(run.checkpoint))
    fusion = loaded.eval().fusion
    assert torch.equal(fusion.alike, model.fusion.alike)
    table, ids = loaded.item_table.weight, loaded.id_embeddings.detach().clone()
    for item in cold:
        ids[item] = loaded.id_embeddings[fusion.alike[item]].mean(dim=0)
    expected = fusion.fuse(ids)[list(cold)]
    if "item_norm" in kind:
        expected = torch.nn.functional.normalize(expected, dim=1) * table[1].norm()
    torch.testing.assert_close(table[list(cold)], expected)
    if "score_term" in kind:  # which a folded table cannot hold
        return
    batch = next(iter(test_data))[0]
    scores = loaded.full_sort_predict(batch)
    torch.testing.assert_close(fold(loaded.train()).eval().full_sort_predict(batch), scores)


@pytest.mark.parametrize("enhancement", ["tslrec", "random"])
def test_without_words_all_rows_are_fused(enhancement, small_data, settings):
    run = run_experiment(
        "TSLRec_SASRec", small_data, config_dict=settings | {"enhancement": enhancement}
    )
    assert run.trainer.model.fusion.cold is None
    assert not any("cold" in name for name in run.trainer.model.state_dict())


def test_with_words_in_the_slots_cold_items_are_told(with_a_cold_item, small_data):
    changes = {"enhancement": "tslrec", "item_slots": "both", "sft_epochs": 1}
    run = run_experiment("TSLRec_SASRec", small_data, config_dict=with_a_cold_item | changes)
    model, pipeline = run.trainer.model, run.trainer.pipeline
    item = pipeline.tokens.index("i30")
    assert model.fusion.cold[1 + item]
    # Without a text, all that its vector tells is an embedding that nothing has trained.
    Path("data/small/small.item").write_text(
        Path("data/small/small.item").read_text().partition("i30\t")[0]
    )
    given = with_a_cold_item | changes | {"item_text_missing": "w1"}
    model.prepare(pipeline_of(given, small_data))
    cold = model.fusion.cold
    assert not cold[1 + item] and (model.fusion.alike != 1 + item).all()
    assert cold.sum() == (model.fusion.alike != 0).any(dim=1).sum()


@pytest.mark.parametrize("backbone", ["LRURec", "BERT4Rec"])
def test_the_bias_of_a_cold_item_is_not_pushed_down(backbone, with_a_cold_item, small_data):
    run = run_experiment(f"TSLRec_{backbone}", small_data, config_dict=with_a_cold_item)
    model = run.trainer.model.train()
    bias, cold = getattr(model, model.backbone.item_bias), model.fusion.cold
    bias.grad = None
    model.calculate_loss(next(iter(run.train_data))).backward()
    assert cold.any() and not bias.grad[cold].any() and bias.grad[~cold][1:].all()


@pytest.mark.parametrize("backbone", ["LRURec", "BERT4Rec"])
def test_in_a_trained_backbone_a_cold_item_takes_the_biases_of_others(
    backbone, with_a_cold_item, small_data
):
    changes = {"fusion": "none", "score_term": "after"}
    run = run_experiment(f"TSLRec_{backbone}", small_data, config_dict=with_a_cold_item | changes)
    model, plain = run.trainer.model, trained_backbone(run.trainer.pipeline)
    bias, before = (getattr(each, model.backbone.item_bias).detach() for each in (model, plain))
    cold = model.fusion.cold
    assert cold.any() and torch.equal(bias[~cold], before[~cold])
    for item in cold.nonzero().flatten().tolist():
        assert bias[item] == pytest.approx(before[model.fusion.alike[item]].mean().item())
        assert bias[item] != before[item]
