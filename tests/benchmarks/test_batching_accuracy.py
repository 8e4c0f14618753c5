import importlib.util
import json
import sys
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.utils import init_seed

_FILE = Path(__file__).parents[2] / "benchmarks" / "batching_accuracy.py"
_SPEC = importlib.util.spec_from_file_location("batching_accuracy", _FILE)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


class Shortened(SASRec):
    """A class of its own, so that RecBole's stays as it is."""


benchmark.run_without_padding(Shortened)


def test_rows_without_padding_have_the_same_loss_and_gradients(small_data, settings):
    given = {key: settings[key] for key in ("data_path", "gpu_id", "load_col")}
    given |= {"train_neg_sample_args": None, "train_batch_size": 64, "hidden_size": 16}
    given |= {"hidden_dropout_prob": 0, "attn_dropout_prob": 0, "MAX_ITEM_LIST_LENGTH": 12}
    config = Config("SASRec", small_data, config_dict=given)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    results = []
    batch = next(iter(train_data))
    for model_class in (SASRec, Shortened):
        init_seed(1, True)
        model = model_class(config, train_data._dataset)
        loss = model.calculate_loss(batch)
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_the_command_keeps_what_is_done(small_data, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "run_without_padding", lambda model_class: None)
    command = ["x", f"--dataset={small_data}", "--data_path=data", "--seeds=1", "--epochs=1"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    table = capsys.readouterr().out
    assert "| prefix           | 1 " in table and "| sequence         | 1 " in table
    kept = (tmp_path / "batching_accuracy.jsonl").read_text()
    assert {json.loads(line)["train_batching"] for line in kept.splitlines()} == {
        "prefix",
        "sequence",
    }
    monkeypatch.setattr(benchmark, "run_cell", None)  # nothing is left to run
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    assert table.splitlines()[-3:] == capsys.readouterr().out.splitlines()[-3:]
