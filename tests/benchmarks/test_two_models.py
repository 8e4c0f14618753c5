"""A second model's scores beside a first one's."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

_FILE = Path(__file__).parents[2] / "benchmarks" / "two_models.py"
_SPEC = importlib.util.spec_from_file_location("two_models", _FILE)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


@pytest.fixture
def settings(settings):
    return settings | {"train_neg_sample_args": None}


def test_scores_are_standardised_over_the_items():
    scores = torch.tensor([[9.0, 1, 2, 3], [9, 5, 5, 5]])
    found = benchmark.standardised(scores)[:, 1:]
    half = 1.5**0.5
    torch.testing.assert_close(found, torch.tensor([[-half, 0, half], [0, 0, 0]]))


def test_a_second_model_is_weighted_on_validation(small_data, settings, monkeypatch, capsys):
    runs = [
        run_experiment("SASRec", small_data, config_dict=settings | {"seed": s}) for s in (1, 2)
    ]
    files = [str(run.checkpoint) for run in runs]
    monkeypatch.setattr(
        sys, "argv", ["x", f"--checkpoint={files[0]}", f"--beside={files[1]},{files[0]}"]
    )
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[0] for row in rows] == ["SASRec, seed 1", "+ SASRec, seed 2", "+ SASRec, seed 1"]
    model, *data = runs[0].trainer.model, *(getattr(runs[0], f"{n}_data") for n in PARTS)
    masked = rank_test_targets(model, *data).metrics()["masked"]
    assert float(rows[0][4]) == pytest.approx(masked["ndcg@10"], abs=5e-5)
    assert rows[2][4] == rows[0][4]  # its own scores change no rank
    models = [benchmark.load_trained_model(file) for file in files]
    ranks = benchmark.ranks_by_weight(models, "test")
    assert ranks.shape == (1, len(benchmark.WEIGHTS), len(data[2]._dataset))
    assert np.array_equal(ranks[0, 0], benchmark.ranks_by_weight(models[:1] * 2, "test")[0, 3])


PARTS = ("train", "valid", "test")


def test_two_variants_of_one_seed_have_names_of_their_own(small_data, settings):
    keys = settings | {"seed": 3, "n_categories": 3}
    names = []
    for more in ({"enhancement": "random"}, {"enhancement": "random", "fusion": "sum"}):
        run = run_experiment("TSLRec_SASRec", small_data, config_dict=keys | more)
        names.append(benchmark.name_of(benchmark.load_trained_model(run.checkpoint).config))
    assert names == [
        f"TSLRec_SASRec, enhancement: random, fusion: {fusion}, score_term: none, seed 3"
        for fusion in ("gate", "sum")
    ]
    own = {"model": "CI_SASRec", "seed": 3, "enhancement": "tslrec", "fusion": "gate"}
    assert benchmark.name_of(own) == "CI_SASRec, seed 3"


def test_models_of_other_data_are_refused(small_data, settings):
    one = run_experiment("SASRec", small_data, config_dict=settings)
    fewer = settings | {"user_inter_num_interval": "[8,inf)"}
    other = run_experiment("SASRec", small_data, config_dict=fewer)
    models = [benchmark.load_trained_model(str(run.checkpoint)) for run in (one, other)]
    with pytest.raises(ValueError, match="beside: .* is of other users or items"):
        benchmark.check_same_data(models)


def test_models_of_another_kind_stand_beside(small_data, settings):
    """STAMP looks at the last place of a list, padding or not: lists are not cut."""
    runs = [run_experiment(one, small_data, config_dict=settings) for one in ("SASRec", "STAMP")]
    first, second = [benchmark.load_trained_model(str(run.checkpoint)) for run in runs]
    data = (second.train_data, second.valid_data, second.test_data)
    alone = rank_test_targets(second.model, *data).rank_masked
    assert np.array_equal(benchmark.ranks_by_weight([second, first], "test")[0, 0], alone)
    swapped = benchmark.ranks_by_weight([first, second], "test")
    assert swapped.shape[2] == len(alone)
    second.config["MAX_ITEM_LIST_LENGTH"] = 3
    with pytest.raises(ValueError, match="beside: .* has MAX_ITEM_LIST_LENGTH 3"):
        benchmark.check_same_data([first, second])
