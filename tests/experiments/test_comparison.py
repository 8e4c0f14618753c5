import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import write_atomic
from recbole.config import Config
from safetensors.torch import load_file, save_file
from support.texts import write_texts

from recbole_tslrec.__main__ import main
from recbole_tslrec.config import checks
from recbole_tslrec.experiments.run import cell_run, tables
from recbole_tslrec.experiments.run import comparison as comparison_module
from recbole_tslrec.experiments.run import search as search_module
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import MAIN_VARIANTS, Grid
from recbole_tslrec.experiments.run.kept_cells import ResultsFolder
from recbole_tslrec.experiments.run.search import best_values, declare
from recbole_tslrec.language_model import source
from recbole_tslrec.paradigms.delrec.paradigm import DELREC
from recbole_tslrec.paradigms.llamarec.paradigm import LLAMAREC
from recbole_tslrec.paradigms.llmtrsr.paradigm import LLM_TRSR
from recbole_tslrec.paradigms.p5.paradigm import P5
from recbole_tslrec.paradigms.pod.paradigm import POD
from recbole_tslrec.paradigms.tslrec.paradigm import TSLREC
from recbole_tslrec.recbole_bridge import unfinished
from recbole_tslrec.recbole_bridge.config_files import properties_folder
from recbole_tslrec.recbole_bridge.paradigm import controls
from recbole_tslrec.recbole_bridge.paradigm import variants as known_variants
from recbole_tslrec.recbole_bridge.unfinished import UnfinishedTraining

GRU4REC = {"backbones": ("GRU4Rec",), "datasets": ("small",)}
FAST = ("Base", "CI", "random")


def lines(folder="results") -> list[dict]:
    return [json.loads(line) for line in Path(folder, "cells.jsonl").read_text().splitlines()]


def test_base_is_trained_once_a_seed_and_every_cell_is_kept(small_data, settings, capsys):
    variants = ("Base", "CI", "TSLRec", "backbone_embedding")
    settings |= {"sft_epochs": 1}
    grid = Grid(**GRU4REC, variants=variants, seeds=(1, 2), settings=settings)
    comparison = compare(grid, Path("results"))
    assert [cell.method for cell in comparison.cells] == 2 * [
        "GRU4Rec (Base)",
        "CI_GRU4Rec",
        "TSLRec_GRU4Rec",
        "TSLRec_GRU4Rec, backbone_embedding",
    ]
    assert not list(Path("saved/tslrec").rglob("*.pth"))  # no backbone was trained but Base
    assert comparison.lines == lines() and [line["variant"] for line in lines()] == 2 * [*variants]
    for line in lines():
        check_what_is_kept(line)
    check_tables(comparison.tables())
    assert "keep_checkpoints" not in capsys.readouterr().out
    compare(grid, Path("results"), keep_checkpoints=True)
    told = capsys.readouterr().out
    assert "keep_checkpoints: 6 finished cells have no trained model" in told  # Base's are there


def check_what_is_kept(line: dict) -> None:
    assert line["status"] == "done" and line["error"] is None and line["epochs"] == 1
    assert line["settings"]["train_batch_size"] == 64
    # What was not given is there as well; what the variant does not depend on is not.
    assert line["effective"]["learning_rate"] == "0.001"
    assert ("n_categories" in line["effective"]) == (line["variant"] in ("CI", "TSLRec"))
    assert not {"seed", "dataset", "backbone_checkpoint"} & line["effective"].keys()
    assert line["command"].startswith("python ") and "torch.get_num_threads()" in line["machine"]
    assert set(line["valid"]) == set(line["test"]["masked"]) == set(line["test"]["ranked"])
    kept = np.load(f"results/ranks/{line['cell']}.npz", allow_pickle=False)
    hits = {"ranked": kept["rank"] <= 5, "masked": kept["rank_masked"] <= 5}
    for protocol, hit in hits.items():
        assert line["test"][protocol]["hit@5"] == hit.mean()
    items = Path(f"results/items/{line['cell']}.npz")
    assert items.is_file() == (line["variant"] in ("CI", "TSLRec"))
    checkpoints = list(Path("results/checkpoints", line["cell"]).glob("*.pth"))
    assert len(checkpoints) == (1 if line["variant"] == "Base" else 0)
    stages = {"Base": set(), "CI": {"backbone", "categories"}, "backbone_embedding": {"backbone"}}
    assert line["seconds"]["stages"].keys() >= stages.get(line["variant"], {"fine_tuning"})


def check_tables(tables: str) -> None:
    assert "small, test, 2 seeds" in tables
    for protocol, label in (("ranked", "seen items ranked"), ("masked", "seen items masked")):
        part = tables[tables.index(label) :]
        hits = [line["test"][protocol]["hit@10"] for line in lines() if line["variant"] == "CI"]
        row = next(line for line in part.splitlines() if line.startswith("| CI_GRU4Rec "))
        shown, spread = re.findall(r"([\d.]+) ± ([\d.]+)", row)[1]
        assert float(shown) == round(sum(hits) / 2, 4)
        assert abs(float(spread) - abs(hits[0] - hits[1]) / 2**0.5) < 1e-4
    assert "stage fine_tuning" in tables and "stage backbone" not in tables


def test_a_row_of_no_backbone_stands_beside_each_and_among_ranked_figures_alone():
    grid = Grid(("small",), ("SASRec", "GRU4Rec"), ("Base", "repeat"), (1, 2))
    figures = dict.fromkeys(("hit@5", "hit@10", "ndcg@5", "ndcg@10"), 0.5)
    cells = [
        Cell("small", backbone, variant, seed, {}, "0")
        for seed in grid.seeds
        for backbone in grid.backbones
        for variant in grid.variants
    ]
    line = {"status": "done", "test": {"ranked": figures, "masked": figures}, "effective": {}}
    lines = [line | {"variant": one.variant, "backbone": one.backbone} for one in cells]
    parts = tables.FinishedGrid(grid, cells, lines).tables().split("\n\n")
    names = [re.findall(r"^\| (\S.*?)  *\| 0", part, re.MULTILINE) for part in parts]
    base = [f"{backbone} (Base)" for backbone in grid.backbones]
    beside = [f"Repeat, repeat, beside {backbone}" for backbone in grid.backbones]
    assert names[:2] == [[base[0], beside[0], base[1], beside[1]], base]
    assert sum("Repeat, repeat, beside" in row for row in names[2]) == 2
    lines = [one | {"machine": f"m{cell.seed}"} for one, cell in zip(lines, cells, strict=True)]
    times = tables.FinishedGrid(grid, cells, lines).tables().split("\n\n")[2]
    assert "SASRec (Base): training and evaluation (m1)" in times and "evaluation (m2)" in times


def test_texts_at_scoring_take_bases_training_and_no_other(small_data, settings):
    write_texts()
    variants = ("Base", "TextTerm", "tfidf_term")
    grid = Grid(**GRU4REC, variants=variants, settings=settings | {"item_text": "title"})
    assert [cell.method for cell in compare(grid, Path("results")).cells] == [
        "GRU4Rec (Base)",
        "GRU4Rec, TextTerm",
        "GRU4Rec, tfidf_term",
    ]
    assert not list(Path("saved/tslrec").rglob("*.pth"))
    base, *terms = lines()
    assert [line["epochs"] for line in terms] == [0, 0]
    for line in terms:  # the best of the grid, in which no term at all is
        assert line["valid"]["ndcg@10"] >= base["valid"]["ndcg@10"]


def test_a_cell_does_not_depend_on_whether_base_was_in_the_grid(small_data, settings):
    """Base's checkpoint only saves a training; else the pipeline trains the same backbone."""
    with_base = Grid(**GRU4REC, variants=("Base", "CI"), settings=settings)
    compare(with_base, "with")
    compare(replace(with_base, variants=("CI",)), "without")
    first, second = lines("with")[1], lines("without")[0]
    assert list(Path("saved/tslrec").rglob("GRU4Rec.pth"))
    assert first["cell"] == second["cell"] and first["test"] == second["test"]
    ranks = [np.load(f"{run}/ranks/{first['cell']}.npz")["rank"] for run in ("with", "without")]
    assert np.array_equal(*ranks)
    # A Base beside a cell that did not take it: the cell's own backbone was work of its own.
    methods = {"GRU4Rec (Base)": lines("with")[:1], "CI_GRU4Rec": [second]}
    assert "GRU4Rec: stage backbone" in tables._times(methods)


def test_killed_and_started_again_every_cell_is_finished_once(small_data, settings, tmp_path):
    more = {"epochs": 4, "train_batch_size": 16}  # time to be killed in
    Path("mine.yaml").write_text(yaml.safe_dump(settings | more))
    command = [sys.executable, "-m", "recbole_tslrec", "compare", "--dataset=small", "--seeds=2"]
    command += ["--backbone=GRU4Rec", "--variants=Base,CI", "--config_files=mine.yaml"]
    file = Path("results/cells.jsonl")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (file.is_file() and file.read_bytes().count(b"\n") >= 1):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = file.read_text()
    assert 1 <= len(done.splitlines()) < 4
    with open(file, "a") as half:
        half.write('{"format": 1, "cell": "')
    grid = Grid(**GRU4REC, variants=("Base", "CI"), seeds=(2020, 2021), config_files=["mine.yaml"])
    comparison = compare(grid, "results")
    assert not comparison.failed and file.read_text().startswith(done)
    counts = Counter(line["cell"] for line in lines())
    assert counts == {cell.id: 1 for cell in comparison.cells} and len(counts) == 4
    assert Path("results/cells.jsonl.dropped").read_text() == '{"format": 1, "cell": "\n'
    compare(grid, "results")  # nothing is left to do
    assert len(lines()) == 4


def test_a_cell_that_was_stopped_goes_on_within_its_training(small_data, settings, monkeypatch):
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(unfinished, "SHARE_OF_WRITING", float("inf"))
    grid = Grid(**GRU4REC, variants=("Base",), settings=settings | {"epochs": 4})
    compare(grid, "unbroken")
    epoch_ends = UnfinishedTraining.epoch_ends

    def stop(self, epoch, score):
        epoch_ends(self, epoch, score)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(UnfinishedTraining, "epoch_ends", stop)
        with pytest.raises(KeyboardInterrupt):
            compare(grid, "results")
    begun = []
    monkeypatch.setattr(
        UnfinishedTraining, "epoch_ends", lambda self, epoch, _score: begun.append(epoch)
    )
    compare(grid, "results")
    assert begun == [2, 3]
    (cell,), (same,) = lines("results"), lines("unbroken")
    assert cell["test"] == same["test"] and cell["valid"] == same["valid"]
    assert cell["epochs"] == same["epochs"] == 4
    assert not list(Path("results").rglob("*.unfinished*"))


def test_a_cell_whose_stages_are_removed_while_it_trains_is_finished(
    small_data, settings, monkeypatch, capsys
):
    rank = cell_run.rank_test_targets

    def ranked_after_a_clean_up(*given):
        shutil.rmtree("saved/tslrec")
        return rank(*given)

    monkeypatch.setattr(cell_run, "rank_test_targets", ranked_after_a_clean_up)
    grid = Grid(
        backbones=("SASRec",),
        datasets=(small_data,),
        variants=("CI",),
        seeds=(1,),
        settings=settings | {"state": "WARNING"},
    )
    (line,) = compare(grid, Path("results")).lines
    assert line["status"] == "done" and "nothing is kept of its items" in capsys.readouterr().err
    assert not list(Path("results").rglob("*.unfinished"))


def test_a_failed_cell_does_not_stop_the_others_and_is_tried_again(small_data, settings, capsys):
    grid = Grid(**GRU4REC, settings=settings | {"n_categories": 31}, variants=FAST)
    for _ in range(2):
        comparison = compare(grid, "results")
        ((cell, error),) = comparison.failed
        assert cell.variant == "CI" and "n_categories: [31] is more than the 30 items" in error
    assert [line["status"] for line in lines()] == ["done", "failed", "done", "failed"]
    assert "CI_GRU4Rec, seed 2020, failed: n_categories" in capsys.readouterr().out
    assert re.search(r"\| CI_GRU4Rec \(0 of 1 seeds\) +\| failed ", comparison.tables())


@pytest.mark.parametrize("llm", [None, "/no/such"])
def test_what_would_fail_some_is_said_first_and_stops_no_other(llm, small_data, settings, capsys):
    Path("mine.yaml").write_text("seed: 5\nepochs: 1\n")
    grid = Grid(
        **GRU4REC,
        variants=("Base", "TSLRec"),
        config_files=["mine.yaml"],
        settings=settings | {"llm": llm},
    )
    ((cell, _),) = compare(grid, "results").failed
    assert cell.variant == "TSLRec" and lines()[0]["seed"] == 2020
    before_training = capsys.readouterr().out.partition("2 cells")[0]
    assert "TSLRec_GRU4Rec, will fail: llm" in before_training
    assert "seed of the config files: not used" in before_training


def test_what_a_row_lacks_or_sets_itself_is_said_before_anything_is_trained(
    small_data, settings, capsys
):
    rows = ("Base", "LlamaRec", "DELRec", "LLMTRSR", "P5", "POD")
    texts = {"llamarec_items": "text", "delrec_items": "text"}
    Grid(variants=rows, datasets=(small_data,), settings=settings | texts).groups()
    told = capsys.readouterr().out
    assert told.count("item_text names no column") == 3
    assert "small: P5, POD: always with llm: scratch, not the given [" in told
    misspelt = Grid(("small",), variants=("Base",), settings=settings | {"item_text": "title"})
    with pytest.raises(FileNotFoundError, match="item_text: there is no file"):
        misspelt.groups()


def test_an_item_without_a_text_is_told_before_anything_is_trained(small_data, settings, capsys):
    write_texts()
    path = Path("data/small/small.item")
    path.write_text(path.read_text().replace("i3\t", "i31\t"))
    rows = ("Base", "CI", "TSLRec", "TextTerm", "tfidf_term", "LLMTRSR")
    grid = Grid((small_data,), variants=rows, settings=settings | {"item_text": "title"})
    grid.groups()
    told = capsys.readouterr().out
    assert told.count("for 1 of 30 items, among them 'i3'") == 3  # none of those that read no text
    assert "TextTerm, will fail: item_text" in told
    alone = replace(grid, variants=("TextTerm", "tfidf_term"))
    with pytest.raises(ValueError, match="item_text: .*Add their texts or"):
        alone.groups()
    # Which items a filter leaves out is not known yet; with a text for all of them nothing is wrong.
    for given in ({"item_inter_num_interval": "[3,inf)"}, {"item_text_missing": "unknown"}):
        replace(alone, settings=alone.settings | given).groups()
    assert "will fail" not in capsys.readouterr().out


def test_each_row_takes_the_file_of_its_own_paradigm(small_data, settings):
    """The presets for a CPU, none of which keeps a comparison from validating."""
    rows = ("Base", "TSLRec", "P5", "POD", "DELRec")
    texts = {"delrec_items": "slots"}
    plain = Grid(variants=rows, datasets=(small_data,), settings=settings | texts)
    with_files = replace(plain, config_files=["properties/{paradigm}_cpu.yaml"])
    before, after = plain.groups(), with_files.groups()
    changed = [one.variant for one, other in zip(before, after, strict=True) if one.id != other.id]
    assert changed == ["P5", "POD", "DELRec"]
    learned = {one.variant: one.settings.get("sft_epochs") for one in after}
    given = settings["sft_epochs"]  # on the command line, which is above all files
    assert learned == {"Base": None} | dict.fromkeys(rows[1:], given)
    rates = {key: one.settings[key] for one in after for key in one.settings if "_rate" in key}
    assert {"p5_learning_rate", "pod_learning_rate", "delrec_learning_rate"} <= rates.keys()
    assert not {"p5_learning_rate", "delrec_learning_rate"} & after[3].settings.keys()


@pytest.mark.parametrize(
    "line", ["user_inter_num_interval: '[3,inf)'", "valid_protocol: masked", "rm_dup_inter: first"]
)
def test_a_paradigm_s_own_file_does_not_change_the_data_or_the_judge(line, small_data, settings):
    Path("p5_own.yaml").write_text(f"{line}\n")
    grid = Grid((small_data,), variants=("Base", "P5"), settings=settings)
    grid = replace(grid, config_files=["{paradigm}_own.yaml"])
    key = line.partition(":")[0]
    with pytest.raises(ValueError, match=rf"P5 is given {key}: .* Set --{key}=… for all rows"):
        grid.groups()
    same = {
        "user_inter_num_interval": "[3,inf)",
        "valid_protocol": "masked",
        "rm_dup_inter": "first",
    }
    assert len(replace(grid, settings=settings | same).groups()) == 2


def test_a_file_s_vectors_are_not_reused(small_data, settings):
    grid = Grid((small_data,), ("SASRec", "GRU4Rec"), settings=settings, reuse=True)
    given = settings | {"enhanced_items": "enhanced_items.safetensors"}
    with pytest.raises(ValueError, match="reuse: .* enhanced_items gives those of a file"):
        replace(grid, settings=given).groups()


def test_what_is_wrong_with_the_data_stops_the_base_as_well(tmp_path, settings):
    rows = [(f"u{user}", f"i{item}", item) for user in range(9) for item in range(6)]
    write_atomic(tmp_path / "data", "small", [("u0", "NA", 9), *rows])
    with pytest.raises(ValueError, match=r"line 2: the item_id \[NA\]"):
        compare(Grid(**GRU4REC, variants=("Base", "CI"), settings=settings), "results")


def test_a_data_set_that_recbole_saves_is_not_the_trained_model(tmp_path):
    folder = ResultsFolder(tmp_path).checkpoints("x")
    folder.mkdir(parents=True)
    for name in ("small-SequentialDataset", "small-for-SASRec-dataloader"):
        (folder / f"{name}.pth").touch()
    assert ResultsFolder(tmp_path).checkpoint("x", "SASRec") is None
    (folder / "SASRec-Nov-21-2026.pth").touch()
    assert ResultsFolder(tmp_path).checkpoint("x", "SASRec").name == "SASRec-Nov-21-2026.pth"


@pytest.mark.parametrize(
    ("changes", "settings_too", "error"),
    [
        ({"backbones": ("SASRex",)}, {}, r"backbones: \[SASRex\] is not one of GRU4Rec"),
        ({"variants": ("CI", "untune")}, {}, r"variants: \[untune\] is not one of Base"),
        ({"datasets": ("small", "large")}, {}, r"dataset: there is no \[data/large/large.inter\]"),
        ({"seeds": ()}, {}, "seeds: .* is empty"),
        ({"reuse": True}, {}, "reuse: needs .* two backbones"),
        ({"config_files": ("{dataset}.yaml",)}, {}, r"there is no file \[small.yaml\]"),
        ({"config_files": ("{paradigm}.yaml",)}, {}, r"for none of the rows .* one of tslrec.yaml"),
        (
            {"config_files": ("empty.yaml",)},
            {},
            r"config_files: \[empty.yaml\] is not 'key: value'",
        ),
        ({"config_files": ("broken.yaml",)}, {}, r"config_files: \[broken.yaml\] is not 'key: val"),
        ({"config_files": ("typo.yaml",)}, {}, r"no key \[epoch\]. Did you mean \[epochs\]"),
        ({"variants": ("Base",)}, {"eval_step": "x"}, r"eval_step: \['x'\] is not a whole"),
        ({"variants": ("Base",)}, {"topk": "abc"}, r"topk: \['abc'\] is not a whole"),
        ({}, {"valid_metric": "NDGC@10"}, r"valid_metric: \[NDGC\] is not one of"),
        ({}, {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}, "loss_type"),
        ({"variants": ("TSLRec",)}, {"n_categorys": 3}, "Did you mean .n_categories"),
        ({"variants": ("Base",)}, {"epoch": 1}, r"no key \[epoch\]. Did you mean \[epochs\]"),
        ({"variants": ("CI",)}, {"n_categories": 31}, r"n_categories: \[31\] is more than the 30"),
        ({"variants": ("E4SRec",)}, {}, r"variants: E4SRec stands beside SASRec"),
        ({"variants": ("TSLRec",)}, {"llm": "/no/such"}, r"llm: .*\[/no/such\] cannot be opened"),
        ({}, {"eval_args": {"order": "TO", "mode": "uni10"}}, "eval_args: .* ranks all items"),
        ({}, {"eval_step": 0}, r"eval_step: \[0\] never validates"),
        (
            {"datasets": ("made",)},
            {"benchmark_filename": ["train", "valid", "test"]},
            "benchmark_filename=.*ready-made.*Give the plain .inter file",
        ),
        (
            {},
            {"eval_args": {"order": "TO", "split": {"RS": [8, 1, 1]}}},
            "eval_args: .* one item a user",
        ),
    ],
)
def test_what_would_fail_every_cell_comes_before_any_training(
    changes, settings_too, error, small_data, settings
):
    Path("empty.yaml").write_text("# nothing yet\n")
    Path("broken.yaml").write_text("epochs: [1\n")
    Path("typo.yaml").write_text("epoch: 1\n")
    with pytest.raises((ValueError, OSError), match=error):
        compare(Grid(**(GRU4REC | changes), settings=settings | settings_too), "results")
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--seed=3", "Give --seeds=<how many>"),
        ("--sedes", r"\[--sedes\] is neither an option nor a --key=value"),
        ("--backbon=GRU4Rec", r"no option \[--backbon\]. Did you mean \[--backbone\]"),
        ("--search_budge=3", r"Did you mean \[--search_budget\]"),
        ("--epochs=3 --epochs=4", r"\[3\] and \[4\] are given"),
        ("--data_path=/x/lr=1", "data_path=/x/lr=1.*second '='"),
        ("--variants=CI,none", r"variants: \[none\] is not one of"),
        ("--search=epochs", "not of the form key="),
        ("--search=seed=[1,2]", r"search: \[seed\] says what is compared"),
        ("--search=val_interval=[1]", r"search: \[val_interval\] says what is compared"),
    ],
)
def test_a_wrong_command_line(argument, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recbole_tslrec", "compare", *argument.split()])
    with pytest.raises(SystemExit, match=message):
        main()


def cell(variant="TSLRec", seed=1, data="0", **settings) -> Cell:
    chosen = known_variants()[variant].choose(settings)
    return Cell("small", "SASRec", variant, seed, chosen, data)


def fused_controls() -> tuple[str, ...]:
    """Those in the place of TSLRec's own vectors, of which the kept results are."""
    own = {row.name for row in TSLREC.variants}
    return tuple(name for name in controls({}) if name in own)


def test_the_id_ignores_what_cannot_change_the_result(language_model_folder, tmp_path):
    same = {"show_progress": True, "gpu_id": "1", "data_path": "x", "checkpoint_dir": "y"}
    same |= {"tslrec_dir": "z", "topk": [3], "metrics": ["MRR"], "worker": 2}
    for variant in known_variants():
        assert cell(variant).id == cell(variant, **same).id, variant
        for change in ({"seed": 2}, {"data": "1"}, {"learning_rate": 0.1}, {"epochs": 2}):
            assert cell(variant).id != cell(variant, **change).id, (variant, change)
    assert len({cell(variant).id for variant in known_variants()}) == len(known_variants())
    by_tuned = {"TunedTextTerm", "shuffled_tuned_text_term", "TunedTextTfidfTerm"}
    joined = {"TextTfidfTerm", "shuffled_text_tfidf_term"}
    # They set the keys of the fusion themselves.
    terms = {"TextTerm", *controls(of=["TextTerm"]), *by_tuned, *joined}
    fused = ({"TSLRec", *controls()} & {row.name for row in TSLREC.variants}) - terms
    reranked = {"LlamaRec", *controls(of=["LlamaRec"])} & {row.name for row in LLAMAREC.variants}
    by_codes = {row.name for row in (*P5.variants, *POD.variants)}
    by_model = {"random", "text", "shuffled_text", "gaussian_text"}  # as wide as its states
    by_model |= {"TextTerm", "shuffled_text_term", *by_tuned, *joined}
    tuned = {row.name for row in (*DELREC.variants, *LLM_TRSR.variants)}
    depends = {
        "n_categories": {"CI", "TSLRec", "mean_preference", "frozen_lm", "P5-embedding"},
        "sft_epochs": {"TSLRec", "E4SRec", *reranked, *by_codes, *tuned, *by_tuned},
        "sft_users": {"TSLRec", "E4SRec", *reranked, *by_codes, *tuned, *by_tuned},
        "fusion": fused,
        "item_norm": {"CI", *fused},
        "llm": {"TSLRec", "frozen_lm", "E4SRec", *by_model, *reranked, *tuned},
        "llm_pooling": {"TSLRec", "frozen_lm", "E4SRec", *reranked},
        "n_candidates": reranked | tuned,
    }
    depends["llm_instruction"] = {"TSLRec", "frozen_lm"}
    for key, variants in depends.items():
        changed = {v for v in known_variants() if cell(v).id != cell(v, **{key: "other"}).id}
        assert changed == variants, key
    folder = Path(language_model_folder("llama"))
    (tmp_path / "moved").symlink_to(folder)
    assert cell(llm=str(folder)).id == cell(llm=str(tmp_path / "moved")).id


@pytest.mark.parametrize(
    ("folder", "changes", "n_cells"),
    [
        (
            "kept",
            {"backbones": ("SASRec", "GRU4Rec"), "variants": (*MAIN_VARIANTS, *fused_controls())},
            14,
        ),
        (
            "kept_reuse",
            {
                "backbones": ("GRU4Rec", "Caser", "SASRec", "FMLPRec"),
                "variants": ("Base", "TSLRec"),
                "settings": {"MAX_ITEM_LIST_LENGTH": 10},
                "reuse": True,
            },
            20,
        ),
        (
            "kept_search",  # the rate that was chosen, for all but frozen_lm
            {
                "backbones": ("GRU4Rec",),
                "variants": (*MAIN_VARIANTS, *fused_controls()[:-1]),
                "settings": {"learning_rate": 0.003},
            },
            6,
        ),
        (
            "kept_map_ml-100k",
            {
                "variants": ("Base", "TextTerm", "tfidf_term", "shuffled_text_term"),
                "settings": {"score_map": "contrastive", "train_precision": "float32"},
                "config_files": ("compare_ml-100k.yaml", "quick_ml-100k.yaml"),
            },
            4,
        ),
    ],
)
def test_the_results_in_the_repository_are_those_of_its_commands(folder, changes, n_cells):
    """A change of code that gives their cells other ids would have everybody run them again."""
    top = properties_folder().parent
    kept = ResultsFolder(top / "docs" / "results" / folder).cells.read()
    files = changes.get("config_files", ["compare_ml-100k.yaml"])
    grid = Grid(**changes | {"config_files": [str(top / "properties" / file) for file in files]})
    cells = grid.cells(grid.groups())
    assert len(cells) == n_cells
    assert {cell.id for cell in cells} <= kept.keys()


def test_the_id_is_of_a_language_models_revision(monkeypatch):
    ids = []
    for revision in ("aaa", "bbb"):
        comes = SimpleNamespace(identity={"hub": "organisation/model", "revision": revision})
        source._identity_of.cache_clear()
        monkeypatch.setattr(source, "open_source", lambda *_, comes=comes: comes)
        ids.append(cell(llm="organisation/model").id)
        assert cell(llm="embedded").id == cell().id
    assert ids[0] != ids[1]
    source._identity_of.cache_clear()


def test_the_id_is_of_a_folders_files_as_they_are(tmp_path, language_model_folder):
    """In one process, too: a notebook may write the model again."""
    folder = tmp_path / "model"
    shutil.copytree(language_model_folder("llama"), folder)
    first = cell(llm=str(folder)).id
    assert cell(llm=str(folder)).id == first
    (folder / "generation_config.json").write_text("{}")
    second = cell(llm=str(folder)).id
    shutil.copy(folder / "model.safetensors", tmp_path / "kept")
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert len({first, second, cell(llm=str(folder)).id}) == 3
    shutil.copy(tmp_path / "kept", folder / "model.safetensors")
    assert cell(llm=str(folder)).id == second


def test_the_id_is_of_an_encoder_decoders_weights(tmp_path, headed_model_folder):
    """TSLRec takes none; DELRec and P5 do."""
    folder, ids = tmp_path / "model", []
    shutil.copytree(headed_model_folder("t5"), folder)
    for _ in range(2):
        ids.append(cell("DELRec", llm=str(folder)).id)
        weights = load_file(folder / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "new")
        (folder / "new").replace(folder / "model.safetensors")
    assert ids[0] != ids[1]


def test_the_id_is_of_a_checkpoints_weights(tmp_path):
    ids, config = [], Config("SASRec", "tiny", config_dict={"train_neg_sample_args": None})
    for epoch, weight in ((0, 1.0), (3, 1.0), (3, 2.0)):
        file = tmp_path / f"{len(ids)}.pth"
        weights = {"w": torch.full((2,), weight)}
        torch.save({"config": config, "state_dict": weights, "epoch": epoch}, file)
        ids.append(cell(backbone_checkpoint=str(file)).id)
    assert ids[0] == ids[1] != ids[2]
    (tmp_path / "damaged.pth").write_bytes(b"no checkpoint")
    assert cell(backbone_checkpoint=str(tmp_path / "damaged.pth")).id not in ids


def test_every_fused_row_takes_a_given_backbone(tmp_path):
    """With ``fusion: none, score_term: after`` each of them is that backbone, scored with a term."""
    file = tmp_path / "given.pth"
    file.write_bytes(b"of this content")
    for name in ("TSLRec", *fused_controls()):
        given = cell(name, backbone_checkpoint=str(file))
        assert given.experiment_settings()["backbone_checkpoint"] == repr(str(file)), name
        assert given.id != cell(name).id, name


def test_the_id_is_of_the_config_files_content(small_data, settings):
    Path("one.yaml").write_text("learning_rate: 1e-3\nepochs: 3\n")
    Path("two.yaml").write_text("epochs: 3 # the same\n")
    Path("three_small.yaml").write_text("learning_rate: 0.001\n")
    files = (["one.yaml"], ["two.yaml", "three_{dataset}.yaml"], ["two.yaml"])
    ids = [Grid(**GRU4REC, config_files=f, settings=settings).groups()[0].id for f in files]
    assert ids[0] == ids[1] != ids[2]


def test_texts_of_a_config_file_stay_texts(small_data, settings):
    Path("one.yaml").write_text("llm_response: '[1]'\nmine: key\n")
    grid = Grid(**GRU4REC, config_files=["one.yaml"], settings=settings)
    given = grid.groups()[2].experiment_settings()
    config = Config("TSLRec_GRU4Rec", "small", config_dict=given)
    assert config["llm_response"] == "[1]" and config["mine"] == "key"


@pytest.mark.parametrize(
    ("held", "meanwhile"),
    [("random", ["Base", "CI"]), ("Base", ["random"])],  # random takes nothing from Base
)
def test_a_cell_of_another_live_process_is_waited_for(
    held, meanwhile, small_data, settings, monkeypatch
):
    grid = Grid(**GRU4REC, variants=FAST, settings=settings)
    other = ResultsFolder("results")
    cell = grid.cells(grid.groups())[FAST.index(held)]
    lock = other.only_one(cell.id)
    assert lock.__enter__()

    def finish(seconds):  # what the other process does while this one waits
        assert [line["variant"] for line in lines()] == meanwhile
        other.cells.append(lines()[0] | {"cell": cell.id, "variant": held})
        lock.__exit__(None, None, None)

    monkeypatch.setattr(comparison_module.time, "sleep", finish)
    comparison = compare(grid, "results")
    assert len(lines()) == 3
    assert comparison.lines[FAST.index(held)] == lines()[len(meanwhile)]


def test_one_backbones_embeddings_in_another(small_data, settings):
    grid = Grid(
        datasets=("small",),
        backbones=("GRU4Rec", "SASRec"),
        variants=("TSLRec",),
        settings=settings | {"sft_epochs": 1},
        reuse=True,
    )
    comparison = compare(grid, "results")
    assert not comparison.failed
    reused = [line for line in lines() if line["embeddings_from"]]
    assert [(line["backbone"], line["embeddings_from"]) for line in reused] == [
        ("GRU4Rec", "SASRec"),
        ("SASRec", "GRU4Rec"),
    ]
    assert all(line["seconds"]["stages"] == {} for line in reused)
    assert len({line["cell"] for line in lines()}) == 4
    assert "TSLRec_SASRec, embeddings of GRU4Rec" in comparison.tables()
    # Had the grid given SASRec its own embeddings, the results would be equal.
    own = next(line for line in lines() if line["variant"] == "TSLRec" and line not in reused)
    ranks = [np.load(f"results/ranks/{line['cell']}.npz")["rank"] for line in (own, reused[0])]
    assert not np.array_equal(*ranks)


def test_a_search_is_of_equal_budget_on_validation_alone_and_is_not_repeated(
    small_data, settings, monkeypatch
):
    pytest.importorskip("hyperopt")
    variants = ("Base", "CI")
    text = "learning_rate=[1e-2,0.001] n_categories=[3, 4] dropout_prob=[0.1,0.3] attn=[1]"
    with pytest.raises(ValueError, match=r"no model of this comparison has a key \[attn\]"):
        compare(Grid(**GRU4REC, settings=settings), "results", declare(text, None, 2))
    search = declare(text.removesuffix(" attn=[1]"), None, 2)
    grid = Grid(**GRU4REC, variants=variants, seeds=(1, 2), settings=settings)
    comparison = compare(grid, "results", search)
    assert not comparison.failed
    trials = [json.loads(line) for line in Path("results/searches.jsonl").read_text().splitlines()]
    assert Counter(trial["variant"] for trial in trials) == dict.fromkeys(variants, 2)
    assert all("test" not in trial and trial["seed"] == 1 for trial in trials)
    for variant in variants:
        of_variant = [trial for trial in trials if trial["variant"] == variant]
        ours = {"n_categories"} if variant == "CI" else set()
        assert set(of_variant[0]["values"]) == {"learning_rate", "dropout_prob"} | ours
        best = max(of_variant, key=lambda trial: trial["score"])
        for line in lines():
            if line["variant"] == variant:
                for key, value in best["values"].items():
                    assert line["effective"][key] == str(value)
                if line["seed"] == 1:
                    assert line["valid"] == best["valid"]
    assert not list(Path("results/checkpoints").glob("trial-*"))

    def no_training(*args, **kwargs):
        raise AssertionError("a trial is repeated")

    monkeypatch.setattr("recbole_tslrec.experiments.run.search.run_experiment", no_training)
    again = compare(grid, "results", declare(text.removesuffix(" attn=[1]"), None, 2))
    assert again.lines == comparison.lines


def test_a_trial_that_a_finished_cell_is_already_takes_its_validation(
    small_data, settings, monkeypatch
):
    pytest.importorskip("hyperopt")
    grid = Grid(**GRU4REC, variants=("Base", "CI"), settings=settings)
    plain = compare(grid, "results").lines
    monkeypatch.setattr("recbole_tslrec.experiments.run.search.run_experiment", None)
    # RecBole's default, and the value that is given: both hold without the search.
    searched = compare(grid, "results", declare("learning_rate=[0.001] n_categories=[4]", None, 1))
    assert searched.lines == plain
    trials = map(json.loads, Path("results/searches.jsonl").read_text().splitlines())
    for trial, cell in zip(trials, plain, strict=True):
        assert "test" not in trial and trial["values"]["learning_rate"] == 0.001
        assert (trial["valid"], trial["score"]) == (cell["valid"], cell["valid"]["ndcg@10"])


def test_a_trial_of_an_earlier_search_gives_all_the_values_of_this_one(small_data, settings):
    pytest.importorskip("hyperopt")
    grid = Grid(**GRU4REC, variants=("Base",), settings=settings)
    narrow = replace(grid, settings=settings | {"dropout_prob": 0.1})
    compare(narrow, "results", declare("learning_rate=[0.001,0.5]", None, 2))
    wide = declare("learning_rate=[0.001,0.5] dropout_prob=[0.1,0.9]", None, 4)
    (line,) = compare(grid, "results", wide).lines
    trials = [json.loads(line) for line in Path("results/searches.jsonl").read_text().splitlines()]
    assert len(trials) == 4  # two of them found
    best = max(trials, key=lambda trial: trial["score"])
    values = {"dropout_prob": 0.1} | best["values"]  # 0.1 was given, not searched, at first
    assert {key: line["effective"][key] for key in values} == {
        key: str(value) for key, value in values.items()
    }


def test_two_searches_at_the_same_trial_run_it_once(small_data, settings, monkeypatch):
    pytest.importorskip("hyperopt")
    trained = Counter()

    def train(trial, values, results):
        trained[trial.id] += 1
        time.sleep(0.5)  # the other search comes to it meanwhile
        outcome = {"cell": trial.id, "status": "done", "score": 0.1, "bigger": True}
        return outcome | {"values": values}

    monkeypatch.setattr(search_module, "_run_trial", train)
    (group,) = Grid(**GRU4REC, variants=("Base",), settings=settings).groups()
    given = replace(group, settings={**group.settings, "learning_rate": 0.003})
    folder = ResultsFolder("results")
    with ThreadPoolExecutor() as threads:
        both = threads.map(
            lambda search: search_module._trial(*search, folder, {}),
            [(given, {"epochs": 7}), (group, {"epochs": 7, "learning_rate": 0.003})],
        )
        assert [trial["values"] for trial in both] == [
            {"epochs": 7},
            {"epochs": 7, "learning_rate": 0.003},
        ]
    assert list(trained.values()) == [1]


def test_a_searched_cell_takes_the_stages_of_its_trial(small_data, settings):
    pytest.importorskip("hyperopt")
    grid = Grid(**GRU4REC, variants=("TSLRec", "Base"), settings=settings | {"sft_epochs": 1})
    comparison = compare(grid, "results", declare("fusion=[gate,sum]", None, 2))
    assert not comparison.failed
    for stage in ("backbone", "fine_tuning", "augmentation"):
        assert len(list(Path("saved/tslrec/small").glob(f"{stage}-*"))) == 1, stage
    assert not list(Path("saved/tslrec").rglob("*.pth"))  # no backbone was trained but Base
    ours = next(line for line in lines() if line["variant"] == "TSLRec")
    # Its stages' times are there, although the trial made them; so is the Base that they start from.
    assert ours["seconds"]["stages"]["fine_tuning"] > 0
    assert ours["backbone_from"] == next(one["cell"] for one in lines() if one["variant"] == "Base")
    assert ours["reused_stages"] == ["augmentation"]  # those before it were not looked at


def test_the_id_is_of_all_files_that_are_loaded(small_data, settings):
    items = Path("data/small/small.item")
    ids = []
    for load_col, content in (
        (settings["load_col"], None),
        (settings["load_col"], "item_id:token\n1\n"),
        (None, "item_id:token\n1\n"),
        (None, "item_id:token\n2\n"),
    ):
        if content is not None:
            items.write_text(content)
        grid = Grid(**GRU4REC, settings=settings | {"load_col": load_col})
        ids.append(grid.groups()[0].id)
    assert ids[0] == ids[1] and len(set(ids)) == 3


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("variant", ["Base", "CI"])
def test_a_data_set_with_nobody_to_validate_on_says_so(variant, length, tmp_path, settings):
    rows = [(f"u{user}", f"i{(user + k) % 4}", k) for user in range(4) for k in range(length)]
    write_atomic(tmp_path / "data", "small", rows)
    comparison = compare(Grid(**GRU4REC, variants=(variant,), settings=settings), "results")
    assert comparison.failed
    for _, error in comparison.failed:
        assert "has no user with the four interactions" in error
    assert not Path("saved/tslrec").exists()


def test_a_base_that_fails_is_trained_once_a_start(small_data, settings):
    pytest.importorskip("hyperopt")
    broken = settings | {"learning_rate": 1e30, "train_batch_size": 32}  # diverges
    grid = Grid(**GRU4REC, variants=("Base", "CI"), settings=broken)
    comparison = compare(grid, "results", declare("n_categories=[3,4]", None, 1))
    assert len(comparison.failed) == 2
    assert [line["variant"] for line in lines()] == ["Base"]


def test_the_id_is_of_the_precision_that_the_machine_has(small_data, settings, monkeypatch):
    def ids(**given):
        backbones = ("GRU4Rec", "CORE")  # CORE is trained in float32 everywhere
        rows = {"backbones": backbones, "variants": ("Base", "CI"), "datasets": (small_data,)}
        return [cell.id for cell in Grid(**rows, settings=settings | given).groups()]

    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: False)
    slow, plain = ids(train_precision="auto"), ids()
    assert slow == plain == ids(train_precision="float32")
    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: True)
    assert ids() == plain
    fast, of_products = ids(train_precision="auto"), ids(train_precision="bfloat16")[:2]
    assert fast == [*of_products, *plain[2:]] and not {*of_products} & {*plain}


def test_a_mean_is_of_cells_that_differ_in_the_seed_alone(small_data, settings):
    grid = Grid(**GRU4REC, seeds=(1, 2), variants=("Base", "random"), settings=settings)
    cells = grid.cells(grid.groups())
    assert len({one.configuration for one in cells}) == 2 and len({one.id for one in cells}) == 4
    assert cells[0].configuration == cells[2].configuration
    assert replace(cells[0], data="other").configuration != cells[0].configuration


def test_a_search_may_mend_what_is_given(small_data, settings):
    pytest.importorskip("hyperopt")
    grid = Grid(**GRU4REC, variants=("CI",), settings=settings | {"n_categories": 31})
    assert not compare(grid, "results", declare("n_categories=[4]", None, 1)).failed


def test_a_search_that_fails_leaves_the_others(small_data, settings):
    pytest.importorskip("hyperopt")
    grid = Grid(**GRU4REC, variants=("Base", "CI"), settings=settings)
    search = declare("n_categories=[31,32]", None, 2)  # of 30 items
    comparison = compare(grid, "results", search)
    ((cell, error),) = comparison.failed
    assert cell.variant == "CI" and "All 2 trials of the search failed" in error
    assert [line["variant"] for line in lines()] == ["Base"]


@pytest.mark.parametrize("text", ["learning_rate", "learning_rate=3", "a=[1] b=[", "a=[]"])
def test_a_search_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="not of the form key="):
        declare(text, None, 3)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_search_says_how_many_trials_failed(failing, small_data, settings, capsys):
    pytest.importorskip("hyperopt")
    values = [4, *range(31, 31 + failing)]  # categories of 30 items
    search = declare(f"n_categories={values}", None, 3)
    assert not compare(
        Grid(**GRU4REC, variants=("CI",), settings=settings), "results", search
    ).failed
    said = capsys.readouterr().out
    assert f"{failing} of {failing + 1} trials of small, CI_GRU4Rec, failed, the first of: " in said
    assert "chose {'n_categories': 4}" in said


def test_a_trial_that_failed_meanwhile_is_not_tried_again(small_data, settings, monkeypatch):
    """Or two processes could choose different values; a later start does try it again."""
    pytest.importorskip("hyperopt")
    fails = iter([True, False])

    def train(trial, values, results):
        failed = values["learning_rate"] == 0.1 and next(fails)
        outcome = {"status": "failed", "error": "no memory"} if failed else {"status": "done"}
        return outcome | {"cell": trial.id, "score": values["learning_rate"], "bigger": True}

    monkeypatch.setattr(search_module, "_run_trial", train)
    (group,) = Grid(**GRU4REC, variants=("Base",), settings=settings).groups()
    search, folder = declare("learning_rate=[0.01,0.1]", None, 2), ResultsFolder("results")

    def chosen(earlier):
        return best_values(group, search, folder, earlier)["learning_rate"]

    assert [chosen({}), chosen({})] == [0.01, 0.01]
    assert chosen(folder.trials.read()) == 0.1


def test_whole_numbers_are_drawn_for_what_takes_them(small_data, settings):
    pytest.importorskip("hyperopt")
    Path("hyper.test").write_text("hidden_size quniform 8,24,8\ndropout_prob uniform 0.2,0.3\n")
    grid = Grid(**GRU4REC, variants=("Base",), settings=settings)
    assert not compare(grid, "results", declare(None, Path("hyper.test"), 3)).failed
    trials = ResultsFolder("results").trials.read().values()
    assert {trial["status"] for trial in trials} == {"done"}
    assert all(type(trial["values"]["hidden_size"]) is int for trial in trials)
    assert all(0.2 < trial["values"]["dropout_prob"] < 0.3 for trial in trials)


def test_a_key_searched_twice_and_a_file_that_cannot_be_read():
    with pytest.raises(ValueError, match=r"search: \[a\] is given twice"):
        declare("a=[1] a=[2]", None, 3)
    for line in ("n_layers choice 1\nx choice [1]", "a uniform 1", "a choice [b]", "a wrong [1]"):
        Path("hyper.test").write_text(line)
        with pytest.raises(ValueError, match=r"search_file: \[hyper.test\] cannot be read"):
            declare(None, Path("hyper.test"), 3)


def test_a_search_file_of_recbole():
    Path("hyper.test").write_text("learning_rate loguniform -8,0\ndropout_prob choice [0.1,0.2]\n")
    assert set(declare(None, Path("hyper.test"), 3).space) == {"learning_rate", "dropout_prob"}
