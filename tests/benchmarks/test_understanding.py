import argparse
import importlib.util
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import ResultsFolder
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS, GateFusion
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel

_FILE = Path(__file__).parents[2] / "benchmarks" / "understanding.py"
_SPEC = importlib.util.spec_from_file_location("understanding", _FILE)
benchmark = importlib.util.module_from_spec(_SPEC)
sys.modules["understanding"] = benchmark  # where dataclasses look for it
_SPEC.loader.exec_module(benchmark)


def histories_of(*items: list[int]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in items])])
    return Histories(np.arange(1, len(items) + 1), offsets, np.concatenate(items))


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1), st.integers(0, 99)
)
def test_a_cut_leaves_both_parts_of_every_history_an_item(items, seed):
    first, rest = benchmark.cut(histories_of(*items), seed)
    for number, history in enumerate(items):
        beginning, remainder = first[number].tolist(), rest[number].tolist()
        if len(history) == 1:
            assert beginning == remainder == history
        else:
            assert beginning and remainder and beginning + remainder == history


def test_whitened_directions_have_the_same_variance_and_rounding_has_none():
    vectors = torch.randn(200, 3) @ torch.randn(3, 8) + 5  # 3 directions in 8 columns
    white = benchmark.whitened(vectors)
    covariance = white.T @ white / 200
    expected = torch.diag(torch.tensor([1.0] * 3 + [0.0] * 5))
    torch.testing.assert_close(covariance, expected, atol=1e-4, rtol=0)


def test_a_projection_at_the_ids_rate_starts_the_same_and_moves_less():
    table = torch.randn(50, 4) * 0.02
    enhanced = torch.randn(49, 16)
    moved = []
    for kind in (GateFusion, benchmark.ProjectionAtIdsRate):
        torch.manual_seed(1)
        gate = kind(table, 16, 1.0)
        gate.set_enhanced(enhanced)
        before = gate.project()
        with torch.no_grad():
            gate.projection.weight += 1e-3  # as far as a step of Adam goes
        moved.append((before, (gate.project() - before).norm()))
    torch.testing.assert_close(moved[0][0], moved[1][0])
    assert moved[1][1] < 0.03 * moved[0][1]


def test_one_step_size_moves_rows_by_their_gradients_and_other_weights_as_adam_does():
    torch.manual_seed(0)
    table, other = torch.zeros(6, 3), torch.randn(2, 3)
    shares = torch.tensor([[1.0], [1.0], [0.5], [0.5], [0.1], [0.0]])
    gradient = shares * torch.tensor([2.0, -1.0, 0.01])  # the same in every step
    moved = {}
    for kind in (torch.optim.Adam, benchmark.OneScaleForAllRows):
        weights = [torch.nn.Parameter(table.clone()), torch.nn.Parameter(other.clone())]
        table_of_ours = {"table": weights[0]} if kind is benchmark.OneScaleForAllRows else {}
        optimizer = kind(weights, **table_of_ours, lr=0.1)
        for _ in range(3):
            weights[0].grad, weights[1].grad = gradient.clone(), other.clone()
            optimizer.step()
        moved[kind] = [weight.detach() for weight in weights]
    torch.testing.assert_close(*(both[1] for both in moved.values()))
    rows = moved[benchmark.OneScaleForAllRows][0]
    # By hand: three steps of -lr · g / rms(g over the rows).
    expected = -0.3 * gradient / gradient.pow(2).mean(dim=0).sqrt()
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-6)
    rows_of_adam = moved[torch.optim.Adam][0]
    torch.testing.assert_close(rows_of_adam[:5].abs(), torch.full((5, 3), 0.3), rtol=1e-4, atol=0)


def test_items_that_share_histories_are_alike_in_the_first_direction():
    histories = histories_of([1, 2, 2], [1, 2], [3, 4], [4, 3], [5])
    together = benchmark.occurring_together(histories, 5)
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = expected[2, 3] = expected[3, 2] = 2
    assert np.array_equal(together.toarray(), expected)
    # The first column has most variance, the second agrees with the histories.
    vectors = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0], [0.0, 0.0]])
    (reduced,) = benchmark.neighbourly_directions(vectors, together, 1).T
    torch.testing.assert_close(reduced / reduced[0], torch.tensor([1.0, 1, -1, -1, 0]))
    assert reduced.pow(2).mean().item() == pytest.approx(1)


def test_several_numbers_of_categories_share_target_and_prediction(monkeypatch):
    monkeypatch.setattr(benchmark, "_SEVERAL", (2, 3, 5))
    embeddings = torch.randn(9, 4)
    backbone = SimpleNamespace(item_embeddings=lambda: embeddings)
    pipeline = SimpleNamespace(
        stage=lambda kind: backbone,
        histories=histories_of([1, 2, 3, 4], [9]),
        config={"category_backend": "sklearn", "seed": 1},
    )
    target = torch.from_numpy(benchmark.several_preferences(pipeline).toarray())
    model = benchmark.of_class(benchmark.SeveralSoftmaxes, ReconstructionModel(None, 4, 10))
    predicted = model.distribution(torch.randn(2, 4))
    for of_both in (target, predicted):
        for part in of_both.split((2, 3, 5), dim=1):
            torch.testing.assert_close(part.sum(dim=1), torch.full((2,), 1 / 3))
    assert target[1].max() == pytest.approx(1 / 3)  # one item, one category of each number


def test_single_items_join_the_histories_with_their_users_distribution():
    histories = histories_of([3, 4], [5], [6, 7, 8])
    preferences = benchmark.sparse.csr_matrix(np.eye(3))
    both, targets = benchmark.with_single_items(histories, preferences, 5)
    settings = benchmark.SplitByUser(1, 0.1, 8, "adamw_torch", 1, seed=5, valid_ratio=0.4)
    assert [both[number].tolist() for number in range(3)] == [[3, 4], [5], [6, 7, 8]]
    for number in range(3):
        (item,) = both[3 + number]
        assert item in histories[number]
    assert np.array_equal(targets.toarray(), np.tile(np.eye(3), (2, 1)))
    # Who is watched is learned from under neither prompt, and watched by the history alone.
    train, valid = settings.split(len(both))
    assert valid.max() < 3 and sorted([*train, *valid, *(3 + valid)]) == list(range(6))


@pytest.mark.parametrize(
    "name",
    [
        "one gate an item",
        "h' stays as it starts",
        "h' without the ids",
        "gate starts at 0.9 for the ids",
    ],
)
def test_a_piece_stands_in_only_while_it_lasts(name):
    table, before = torch.randn(6, 4), FUSIONS["gate"]
    with benchmark.CHANGES[name].registered():
        gate = FUSIONS["gate"](table, 4, 1.0)
        assert type(gate) is not before
        assert gate(table).shape == table.shape
    assert FUSIONS["gate"] is before


def test_the_command_keeps_what_is_done(small_data, settings, monkeypatch, capsys, tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings | {"sft_epochs": 1}))
    changes = ["learning rate × 3", "equal norms", "whitened", "cross entropy"]
    changes += ["128 columns by recommendation-aware PCA"]
    command = ["x", f"--dataset={small_data}", "--config_files=small.yaml", "--seeds=1"]
    command += [f"--changes={','.join(changes)}"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    printed = capsys.readouterr().out
    unchanged, changed = kept("results"), kept("results/understanding")
    assert set(unchanged) == {(None, variant) for variant in benchmark.UNCHANGED}
    assert set(changed) == {
        (name, variant) for name in changes for variant in benchmark.CHANGES[name].variants
    }
    # Pieces and keys have changed what they should, and nothing else has changed.
    tripled, plain = changed["learning rate × 3", "Base"], unchanged[None, "Base"]
    assert tripled["settings"]["learning_rate"] == 3e-3
    assert tripled["valid"] != plain["valid"]
    checkpoints = ResultsFolder(Path("results")).checkpoints(plain["cell"])
    for (_, variant), line in changed.items():
        if variant in ("CI", "TSLRec", "backbone_embedding", "mean_preference"):
            assert checkpoints.samefile(Path(line["settings"]["backbone_checkpoint"]).parent)
    for name in ("whitened", "cross entropy"):
        assert changed[name, "TSLRec"]["valid"] != unchanged[None, "TSLRec"]["valid"]
    assert "augmentation" in changed["whitened", "TSLRec"]["reused_stages"]
    assert "augmentation" not in changed["cross entropy", "TSLRec"]["reused_stages"]
    rows = printed[printed.index("| change") :]
    assert rows.count("\n") == 2 + len(unchanged) + len(changed)
    shutil.rmtree(
        "results/checkpoints"
    )  # as of lines from elsewhere: Base is trained again, beside
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    again = capsys.readouterr().out
    assert again[again.index("| change") :] == rows
    assert kept("results") == unchanged and kept("results/understanding") == changed
    assert set(kept("results/understanding/base")) == {(None, "Base")}


@pytest.mark.parametrize(
    "name",
    [
        "target: the remainder",
        "one item alone as a second prompt",
        "K = 20 and 50 and 200 at once",
    ],
)
def test_what_fine_tuning_is_given_can_be_changed(name, small_data, settings, monkeypatch):
    monkeypatch.setattr(benchmark, "_SEVERAL", (2, 3))
    settings = settings | {"n_categories": 5}  # those of several at once
    plain = compare(grid_of(settings, "TSLRec"), "plain")
    with benchmark.CHANGES[name].registered():
        changed = compare(grid_of(settings, "TSLRec"), "changed")
    assert not changed.failed and not plain.failed
    assert changed.lines[0]["valid"] != plain.lines[0]["valid"]


def test_what_is_inferred_can_stand_for_h(small_data, settings):
    change = benchmark.CHANGES["ĝ^v in place of h^v"]
    with change.registered():
        widths = {"n_categories": 4, "enhanced_dim": 4}
        assert not compare(grid_of(settings | widths, "TSLRec"), "results").failed


@pytest.mark.parametrize("variant", ["Base", "TSLRec"])
def test_one_step_size_is_of_the_item_table(variant, small_data, settings, monkeypatch):
    tables = []
    original = benchmark.OneScaleForAllRows.__init__

    def note(self, params, table, **others):
        tables.append(table.shape)
        original(self, params, table, **others)

    monkeypatch.setattr(benchmark.OneScaleForAllRows, "__init__", note)
    with benchmark.CHANGES["one step size for all items"].registered():
        assert not compare(grid_of(settings, variant), "results").failed
    assert tables and set(tables) == {(31, 64)}  # 30 items and padding; wider layers are not taken


def grid_of(settings, variant) -> Grid:
    return Grid(datasets=("small",), backbones=("SASRec",), variants=(variant,), settings=settings)


def test_a_rate_is_times_the_comparisons(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        benchmark, "compare", lambda grid, _: seen.append(grid) or SimpleNamespace(lines=[])
    )
    (tmp_path / "mine.yaml").write_text("learning_rate: 1e-4")
    args = argparse.Namespace(
        dataset="small", backbone="SASRec", work=tmp_path, variants=["TSLRec", "CI"]
    )
    for files, expected in (("", 3e-3), (str(tmp_path / "mine.yaml"), 3e-4)):
        args.config_files = files
        benchmark.run("learning rate × 3", 1, tmp_path / "x.pth", args)
        assert seen[-1].settings["learning_rate"] == pytest.approx(expected)
        assert seen[-1].variants == ("CI", "TSLRec")


def test_a_base_that_comes_out_otherwise_is_refused(monkeypatch, tmp_path):
    comparison = namedtuple("Comparison", "cells lines")
    cell = namedtuple("Cell", "id model")("x", "SASRec")

    def compare(grid, folder):
        score = 0.1 if folder == tmp_path else 0.2
        return comparison([cell], [{"status": "done", "valid": {"ndcg@10": score}}])

    monkeypatch.setattr(benchmark, "compare", compare)
    args = argparse.Namespace(
        dataset="small",
        backbone="SASRec",
        variants=None,
        config_files="",
        results=tmp_path,
        work=tmp_path / "work",
    )
    with pytest.raises(SystemExit, match="Base of seed 2020 .* comes out otherwise"):
        benchmark.run_unchanged(2020, args)


def test_a_base_without_its_trained_model_is_said(monkeypatch, tmp_path):
    cell = SimpleNamespace(id="x", model="SASRec")
    line = {"status": "done", "valid": {"ndcg@10": 0.1}}
    comparison = SimpleNamespace(cells=[cell], lines=[line])
    monkeypatch.setattr(benchmark, "compare", lambda grid, folder: comparison)
    settings = {"dataset": "small", "backbone": "SASRec", "variants": None, "config_files": ""}
    args = argparse.Namespace(**settings, results=tmp_path, work=tmp_path / "work")
    with pytest.raises(SystemExit, match="not its trained model any more"):
        benchmark.run_unchanged(2020, args)


def test_every_change_can_be_named_on_the_command_line():
    assert not [name for name in benchmark.CHANGES if "," in name]


def test_a_misspelt_change_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(benchmark, "compare", None)
    monkeypatch.setattr(sys, "argv", ["x", "--changes=equal norms,witened"])
    with pytest.raises(SystemExit, match=r"\[witened\] is not one of: .*whitened"):
        benchmark.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--variants=TSLRec,Preferences"],
            r"--variants: \[Preferences\] is not one of: .*mean_preference",
        ),
        (
            ["--variants=CI", "--changes=K = 20,whitened"],
            r"\[CI\] .* \[whitened\] is for: .*TSLRec",
        ),
    ],
)
def test_variants_that_a_change_does_not_have_are_refused(arguments, message, monkeypatch):
    monkeypatch.setattr(benchmark, "compare", None)
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit, match=message):
        benchmark.main()


def test_variants_choose_the_changes_and_what_stands_beside(monkeypatch, tmp_path):
    """All changes that one of them is for; without a change, they and Base alone."""
    ran = []
    monkeypatch.setattr(benchmark, "run", lambda name, *_: ran.append(name) or [])
    monkeypatch.setattr(benchmark, "run_unchanged", lambda seed, args: ([], None))
    monkeypatch.setattr(sys, "argv", ["x", "--variants=CI", "--seeds=1"])
    benchmark.main()
    assert ran == [name for name, change in benchmark.CHANGES.items() if "CI" in change.variants]
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(benchmark, "compare", lambda grid, results: seen.append(grid) or 1 / 0)
    args = argparse.Namespace(
        dataset="small",
        backbone="SASRec",
        variants=["CI", "Norm"],
        results=tmp_path,
        config_files="",
    )
    with pytest.raises(ZeroDivisionError):
        benchmark.run_unchanged(2020, args)
    assert seen[0].variants == ("Base", "CI")


def kept(folder: str) -> dict[tuple[str | None, str], dict]:
    """The lines of a folder by change and variant."""
    lines = ResultsFolder(Path(folder)).cells.read().values()
    return {(line["settings"].get("change"), line["variant"]): line for line in lines}
