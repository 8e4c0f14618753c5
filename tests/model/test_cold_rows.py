"""Rows of items without a training interaction, where their words are known."""

import pytest
import torch
from recbole.quick_start import load_data_and_model
from support.texts import write_texts

from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS, EnhancedFusion
from recbole_tslrec.paradigms.tslrec.folding import fold
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

FUSED = [name for name, kind in FUSIONS.items() if issubclass(kind, EnhancedFusion)]


@pytest.mark.parametrize("name", FUSED)
def test_a_cold_row_is_the_projected_vector_and_learns_nothing(name):
    ids = torch.nn.Parameter(torch.randn(6, 4))
    fusion, plain = (FUSIONS[name](ids, 3, 1.0) for _ in range(2))
    for one in (fusion, plain):
        one.set_enhanced(torch.arange(15.0).view(5, 3).sin())
    fusion.tell_cold_items()
    fusion.set_cold(torch.tensor([False, True, False, False, True]))
    plain.load_state_dict({key: v for key, v in fusion.state_dict().items() if key != "cold"})
    cold = torch.tensor([2, 5])
    warm = torch.tensor([0, 1, 3, 4])
    fusion.eval()
    table = fusion(ids)
    assert torch.equal(table[cold], fusion.project()[cold])
    assert torch.equal(table[warm], plain(ids)[warm])
    if hasattr(fusion, "mean_gate"):
        assert not fusion.mean_gate(ids)[cold].any()
        assert torch.equal(fusion.mean_gate(ids)[warm], plain.mean_gate(ids)[warm])
    fusion.train()
    table = fusion(ids)
    assert not table[cold].any() and torch.equal(table[warm], plain(ids)[warm])
    table.pow(2).sum().backward()
    of_all, ids.grad = ids.grad, None
    fusion(ids)[warm].pow(2).sum().backward()
    assert torch.equal(of_all, ids.grad) and not of_all[cold].any()


@pytest.fixture
def with_a_cold_item(small_data, settings, tmp_path):
    """Settings of an experiment in which one item is the last of a user and no one's otherwise."""
    path = tmp_path / "data" / "small" / "small.inter"
    path.write_text(path.read_text() + "u0\ti30\t999\n")
    write_texts(n_items=31)
    return settings | {"item_text": "title", "enhancement": "text", "epochs": 2}


@pytest.mark.parametrize("norm", ["none", "l2"])
def test_a_cold_item_in_a_trained_model(norm, with_a_cold_item, small_data):
    run = run_experiment(
        "TSLRec_SASRec", small_data, config_dict=with_a_cold_item | {"item_norm": norm}
    )
    trained = run.train_data._dataset.inter_feat
    had = {*trained["item_id"].tolist(), *trained["item_id_list"].flatten().tolist()}
    model = run.trainer.model.eval()
    cold = {*range(1, model.n_items)} - had
    assert run.train_data._dataset.token2id("item_id", "i30") in cold
    assert set(model.fusion.cold.nonzero().flatten().tolist()) == cold
    _, loaded, _, _, _, test_data = load_data_and_model(str(run.checkpoint))
    table = loaded.eval().item_table.weight
    expected = loaded.fusion.project()[list(cold)]
    if norm == "l2":
        expected = torch.nn.functional.normalize(expected, dim=1) * table[1].norm()
    torch.testing.assert_close(table[list(cold)], expected)
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
    assert run.trainer.model.fusion.cold.any()
