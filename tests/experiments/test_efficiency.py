import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.experiments import efficiency
from recbole_tslrec.experiments.efficiency_ways import (
    BY_LENGTH,
    PADDED_TO_MOST,
    SHARED,
    WAYS,
    Scale,
    Way,
    batches_of,
    computed_positions,
    history_lengths,
    interaction_lengths,
    prompts_of,
)


@given(st.lists(st.integers(1, 70), min_size=1, max_size=20), st.integers(1, 60))
def test_the_latest_interactions_of_every_user(train_lengths, most):
    naive = []
    for n_items in train_lengths:
        targets = range(1, n_items)  # places of the items that have others before them
        naive += sorted(targets, reverse=True)[:most]
    assert interaction_lengths(np.array(train_lengths), most).tolist() == naive


def scale_of(**changes) -> Scale:
    rng = np.random.default_rng(0)
    train = rng.integers(2, 30, size=40)
    return Scale(train, train + 1, 25, **{"size": "none", "max_history": 20} | changes)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_positions_are_those_of_the_prompts(way):
    scale = scale_of(batch_positions=100)
    batches = batches_of(way, scale)
    assert sorted(np.concatenate(batches)) == list(range(len(history_lengths(way, scale))))
    padded = filled = 0
    for batch in batches:
        prompts = prompts_of(way, scale, batch, np.random.default_rng(0))
        once = len(prompts["prefix_ids"]) if "prefix_ids" in prompts else 0
        padded += prompts["token_ids"].numel() + once
        filled += int(prompts["attention_mask"].sum()) + once
    assert computed_positions(way, scale, batches) == (padded, filled)


def test_a_shared_prefix_and_batches_by_length_take_fewer():
    scale = scale_of(batch_positions=200)
    positions = [
        computed_positions(way, scale, batches_of(way, scale))[0]
        for means in (SHARED, BY_LENGTH, PADDED_TO_MOST)
        for way in [Way("TSLRec", "training", means)]
    ]
    assert positions[0] < positions[1] < positions[2]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_command_measures_both_sides(quantization, language_model_folder, tmp_path):
    pytest.importorskip("matplotlib")
    scale = scale_of(
        size=language_model_folder("llama"), batch_positions=100, quantization=quantization
    )
    text = efficiency.run(scale, "made-up", 1, tmp_path / "out")
    assert text.count("| E4SRec") == 2 and text.count("| TSLRec") == 6
    assert (tmp_path / "out" / "efficiency.png").stat().st_size > 5000
    assert (tmp_path / "out" / "efficiency.json").is_file()


def test_without_matplotlib_nothing_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(efficiency, "find_spec", lambda name: None)
    monkeypatch.setattr(efficiency, "measure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'recbole_tslrec\[report\]'"):
        efficiency.run(None, "small", 1, tmp_path)


def test_an_encoder_is_refused(language_model_folder):
    with pytest.raises(ValueError, match="no causal model"):
        efficiency.measure(scale_of(size=language_model_folder("bert")), 1, show_progress=False)
