"""A comparison keeps no result of files that are not those by whose hashes it names its cells."""

import json
import shutil
from pathlib import Path

import pytest
from recbole.model.sequential_recommender import GRU4Rec
from support.texts import write_texts

from recbole_tslrec.experiments.run import cell_run
from recbole_tslrec.experiments.run import search as search_module
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import ResultsFolder
from recbole_tslrec.experiments.run.search import declare
from recbole_tslrec.recbole_bridge import unfinished
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.store.json_lines import JsonLines

SMALL = {"backbones": ("GRU4Rec",), "datasets": ("small",)}


def changed(path: Path) -> None:
    """Without its last line."""
    *lines, _ = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines))


def changing(monkeypatch, module, path: Path) -> None:
    """Have a file change while the next experiment of a module trains, once it has read it."""
    run = module.run_experiment

    def run_and_change(*args, **kwargs):
        experiment = run(*args, **kwargs)
        changed(path)
        monkeypatch.setattr(module, "run_experiment", run)
        return experiment

    monkeypatch.setattr(module, "run_experiment", run_and_change)


@pytest.mark.parametrize("kind", ["inter", "item"])
def test_files_that_changed_before_a_cell_are_refused(kind, titled, settings, monkeypatch):
    """Those that the cell reads: Base reads no texts."""
    monkeypatch.setattr(cell_run, "run_experiment", None)
    grid = Grid(**SMALL, variants=("tfidf_term",), settings=settings | {"item_text": "title"})
    (cell,) = grid.groups()
    changed(path := Path(f"data/small/small.{kind}"))
    with pytest.raises(ValueError, match=rf"\[{path}\] has changed since this comparison began"):
        cell_run.run_cell(cell, ResultsFolder(Path("results")))


def test_a_given_checkpoint_that_changed_is_refused(small_data, settings):
    plain = settings | {"train_neg_sample_args": None}
    given, other = (
        run_experiment("GRU4Rec", small_data, config_dict=plain | {"seed": seed}).checkpoint
        for seed in (1, 2)
    )
    settings |= {"backbone_checkpoint": str(given)}
    (cell,) = Grid(**SMALL, variants=("backbone_embedding",), settings=settings).groups()
    assert cell.id  # planned
    shutil.copy(other, given)
    with pytest.raises(
        ValueError, match=rf"^backbone_checkpoint: what is in \[{given}\] has changed"
    ):
        cell_run.run_cell(cell, ResultsFolder(Path("results")))


def test_files_that_change_while_a_cell_trains_are_refused(small_data, settings, monkeypatch):
    path = Path("data/small/small.inter")
    before = path.read_text()
    changing(monkeypatch, cell_run, path)
    grid = Grid(**SMALL, variants=("Base",), settings=settings)
    results = ResultsFolder(Path("results"))
    (line,) = compare(grid, results.folder).lines
    assert line["status"] == "failed" and f"[{path}] has changed since" in line["error"]
    assert not results.arrays_file("ranks", line["cell"]).exists()
    assert results.checkpoint(line["cell"], "GRU4Rec") is None
    path.write_text(before)
    (again,) = compare(grid, results.folder).lines
    assert again["cell"] == line["cell"] and again["status"] == "done"


def test_texts_that_change_while_base_trains_fail_their_readers_alone(
    titled, settings, monkeypatch
):
    changing(monkeypatch, cell_run, Path("data/small/small.item"))
    settings |= {"item_text": "title"}
    grid = Grid(**SMALL, variants=("Base", "tfidf_term"), settings=settings)
    base, term = compare(grid, Path("results")).lines
    assert base["status"] == "done"
    assert term["status"] == "failed" and "small.item] has changed since" in term["error"]
    write_texts()
    assert not compare(grid, Path("results")).failed


def test_a_trial_of_files_that_change_fails(small_data, settings, monkeypatch):
    pytest.importorskip("hyperopt")
    changing(monkeypatch, search_module, Path("data/small/small.inter"))
    grid = Grid(**SMALL, variants=("Base",), settings=settings)
    compare(grid, Path("results"), declare("learning_rate=[0.002,0.003]", None, 2))
    trials = [json.loads(line) for line in Path("results/searches.jsonl").read_text().splitlines()]
    assert all("small.inter] has changed since" in trial["error"] for trial in trials)


def test_a_training_whose_line_could_not_be_written_is_not_lost(small_data, settings, monkeypatch):
    """As on a full disk."""
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0)
    grid = Grid(**SMALL, variants=("CI",), settings=settings)
    append = JsonLines.append

    def refuse(lines, line):
        raise OSError("no space left")

    monkeypatch.setattr(JsonLines, "append", refuse)
    with pytest.raises(OSError, match="no space"):
        compare(grid, "results")
    assert list(Path("results/checkpoints").rglob("*.unfinished"))
    monkeypatch.setattr(JsonLines, "append", append)
    trained = []
    monkeypatch.setattr(GRU4Rec, "calculate_loss", lambda *_: trained.append(1))
    assert not compare(grid, "results").failed and not trained
    assert not list(Path("results/checkpoints").glob("*/*"))


def test_a_cell_is_finished_though_its_files_cannot_be_removed(small_data, settings, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise OSError("busy")

    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(cell_run.Experiment, "is_tested", refuse)
    grid = Grid(**SMALL, variants=("CI",), settings=settings)
    assert not compare(grid, "results").failed
    assert Path("results/cells.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_pickled_data_are_refused(key, small_data, settings):
    """They may be of another file than the one whose hash names the cells."""
    grid = Grid(**SMALL, variants=("Base",), settings=settings | {key: "data.pth"})
    with pytest.raises(ValueError, match=rf"{key}=data.pth: .*Leave it out"):
        grid.groups()
