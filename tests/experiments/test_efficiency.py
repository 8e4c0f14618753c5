from collections import Counter
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.letter_models import save_letter_model
from torch import nn

from recbole_tslrec.experiments import efficiency
from recbole_tslrec.experiments.efficiency import measured_rows
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.language_model import measuring
from recbole_tslrec.language_model.measuring import Measured, measure, sampled_batches
from recbole_tslrec.language_model.workload import When, Workload
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

ROWS = {
    "TSLRec": "TSLRec_SASRec",
    "E4SRec": "E4SRec",
    "LlamaRec": "LlamaRec_SASRec",
    "LLMTRSR": "LLMTRSR_SASRec",
    "DELRec": "DELRec_SASRec",
    "P5": "P5",
    "POD": "POD",
}
ALL_BATCHES = 10_000


class Here(Executor):
    """Runs at once, in this process."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def settings(settings, yes_no_model_folder):
    return settings | {
        "llm": yes_no_model_folder,
        "item_text": "title",
        "code_leaf_items": 6,
        "sft_batch_positions": 512,
        "sft_valid_ratio": 0,
        "sft_epochs": 1,
        "eval_step": 0,
        "trsr_summary_tokens": 5,
        "trsr_summary_instruction": "predict preferences",
        "trsr_merge_instruction": "predict distribution among preferences",
        "trsr_instruction": "predict yes",
    }


def grid_of(dataset: str, settings: dict, *rows: str) -> Grid:
    return Grid(datasets=[dataset], variants=rows, settings=settings)


def measured(monkeypatch, grid: Grid, turns: int = 1, ablation: bool = False):
    monkeypatch.setattr(efficiency, "_apart", Here)
    return efficiency.measure_rows(grid, turns, ablation, show_progress=False)


def test_each_paradigm_with_a_language_model_has_its_row():
    assert set(measured_rows()) == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_what_is_measured_is_what_a_training_computes(row, titled, settings, monkeypatch, tmp_path):
    """Computed whole, the examples and positions of the parts are those of the real stages' costs."""
    if row == "DELRec":
        settings = settings | {"llm": save_letter_model(tmp_path / "letters", "llama")}
    results, failed = measured(monkeypatch, grid_of(titled, settings, row), turns=ALL_BATCHES)
    assert not failed and all(one.sampled == 1 for one in results)
    with_loss = settings | {"train_neg_sample_args": None}
    with_codes = {"llm": "scratch", "item_code": "collaborative"} if row in ("P5", "POD") else {}
    real = run_experiment(ROWS[row], titled, config_dict=with_loss | with_codes, test=False)
    costs = {stage.name: stage.notes.get("cost") for stage in real.stages}
    names = {"training": ROWS[row].lower(), "items": "augmentation"}
    parts = [one for one in results if one.part != "test"]
    for one in parts:
        cost = costs.pop(names.get(one.part, one.part.replace("-", "_").replace(" ", "_")))
        if one.part == "summaries":  # a summary's words are not known before it is written
            continue
        two = one.part == "soft prompts" or row == "LLMTRSR"  # tasks a user, or answers
        examples = cost["examples"] / (2 if two else 1)
        assert (one.examples, one.unit) == (examples, one.unit)
        # P5 draws its sentences; LLM-TRSR's summaries count as long as they may be.
        most = {"P5": 1.05, "LLMTRSR": 1.2}.get(row, 1)
        assert cost["positions"] / most <= one.positions <= cost["positions"] * most
    assert not any(costs.values())  # no stage of a language model is left out
    tested = [one.examples for one in results if one.when == "inference"]
    assert tested == [40 if row != "TSLRec" else len(set(titled_items()))]


def titled_items() -> list[str]:
    with open("data/small/small.inter", encoding="utf-8") as file:
        return [line.split("\t")[1] for line in file.readlines()[1:]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 12))
def test_a_sample_goes_evenly_from_the_cheapest_to_the_dearest(weights, turns):
    batches = [np.arange(weight) for weight in weights]
    run = Workload("", When.EPOCH, "", nn.Linear(1, 1), batches, np.array(weights), None)
    chosen, turns_of_each = sampled_batches(run, turns)
    assert len(set(chosen)) == len(chosen) <= min(turns, len(weights))
    ascending = sorted(weights)
    reached = [sum(ascending[: n + 1]) for n in range(len(weights))]
    wanted = [(turn + 0.5) / turns * reached[-1] for turn in range(turns)]
    naive = [next(w for w, r in zip(ascending, reached, strict=True) if r >= one) for one in wanted]
    assert Counter(naive) == sum(
        (Counter({weights[place]: n}) for place, n in zip(chosen, turns_of_each, strict=True)),
        Counter(),
    )
    if turns >= reached[-1]:  # a point in every unit of weight
        assert sorted(chosen) == list(range(len(weights)))


def test_the_whole_is_extrapolated_by_what_the_cost_goes_by(monkeypatch):
    """A clock that each position advances: the seconds of a sample are those of the whole."""
    now = [0.0]

    class Reader(nn.Linear):
        def forward(self, token_ids, attention_mask):
            now[0] += token_ids.numel()

    reader = Reader(1, 1)
    batches = np.split(np.arange(60), [5, 20, 22, 50])

    def run(places, meter):
        ones = torch.ones(len(places), 3, dtype=torch.int64)
        reader(token_ids=ones, attention_mask=ones)

    monkeypatch.setattr(measuring, "perf_counter", lambda: now[0])
    sizes = np.array([len(batch) for batch in batches])
    one = measure("row", Workload("", When.ONCE, "users", reader, batches, sizes, run), 2)
    assert (one.examples, one.positions, one.seconds) == (60, 180, pytest.approx(180))
    assert 0 < one.sampled < 1 and one.padding_share == 0


@pytest.mark.parametrize(
    ("sizes", "turns", "expected"),
    [((300, 20), 40, 360), ((300, 20), 1, 320 / 300 * 320), ((300,) * 10 + (20,) * 10, 20, 3563)],
)
def test_a_small_batch_stands_for_little(monkeypatch, sizes, turns, expected):
    """Batches that take 20 s each, and one for each example; what all of them are is no estimate."""
    now, batches = [0.0], [np.arange(size) for size in sizes]

    def run(places, meter):
        now[0] += 20 + len(places)
        ones = torch.ones(1, 1, dtype=torch.int64)
        reader(token_ids=ones, attention_mask=ones)

    class Reader(nn.Linear):
        def forward(self, token_ids, attention_mask):
            return token_ids

    reader = Reader(1, 1)
    monkeypatch.setattr(measuring, "perf_counter", lambda: now[0])
    work = Workload("", When.ONCE, "users", reader, batches, np.array(sizes), run)
    assert measure("row", work, turns).seconds == pytest.approx(expected, rel=1e-3)


def test_an_ablation_computes_more_positions(titled, settings, monkeypatch):
    grid = grid_of(titled, settings | {"sft_batch_positions": 64}, "TSLRec")
    results, _ = measured(monkeypatch, grid, turns=ALL_BATCHES, ablation=True)
    tuning = [one.positions for one in results if one.part == "fine-tuning"]
    assert len(tuning) == 4 and sorted(tuning) == tuning and tuning[0] < tuning[1] < tuning[3]
    items = [one.positions for one in results if one.part == "items"]
    assert len(items) == 2 and items[0] < items[1]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_are_random_where_only_a_size_is_given(
    quantization, titled, settings, monkeypatch, tmp_path
):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(efficiency, "_apart", Here)
    random = {"llm": f"random:{settings['llm']}", "llm_quantization": quantization}
    grid = grid_of(titled, settings | random, "LLMTRSR", "P5")
    text = efficiency.run(grid, 1, False, tmp_path / "out")
    assert text.count("| LLMTRSR") == 3 and text.count("| P5") == 2
    assert (tmp_path / "out" / "efficiency.png").stat().st_size > 5000
    assert (tmp_path / "out" / "efficiency.json").is_file()


def test_a_process_of_its_own_measures_the_same(titled, settings):
    grid = grid_of(titled, settings, "E4SRec")
    (training, test), failed = efficiency.measure_rows(grid, 2, False, show_progress=False)
    assert not failed and training.examples > 100 and test.examples == 40
    assert training.peak_memory > 2**27  # of the process in all


def test_a_row_that_cannot_be_measured_is_told(titled, settings, monkeypatch):
    without = settings | {"item_text": None}
    results, failed = measured(monkeypatch, grid_of(titled, without, "P5", "LLMTRSR"))
    assert {one.row for one in results} == {"P5"} and "item_text" in failed["LLMTRSR"]
    with pytest.raises(ValueError, match="item_text"):
        measured(monkeypatch, grid_of(titled, without, "LLMTRSR"))


class Apart(Here):
    """As a process of its own: an error comes back without the lines on which it was raised."""

    def submit(self, function, /, *args, **kwargs):
        future = super().submit(function, *args, **kwargs)
        error = future.exception() or future.result()
        if isinstance(error, Exception):
            error.with_traceback(None)
        return future


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("a bug"), None])
def test_a_bug_in_one_row_shows_its_traceback_and_stops_no_other(
    error, titled, settings, monkeypatch, caplog
):
    def measured_here(part):
        if part.row == "LLMTRSR" and error:
            raise error
        if part.row == "LLMTRSR":
            Grid(backbones=["SASRek"])  # refused
        return real(part)

    real = efficiency.Part.measured
    monkeypatch.setattr(efficiency.Part, "measured", measured_here)
    monkeypatch.setattr(efficiency, "_apart", Apart)
    grid = grid_of(titled, settings, "LLMTRSR", "P5")
    results, failed = efficiency.measure_rows(grid, 1, False, show_progress=False)
    assert {one.row for one in results} == {"P5"} and list(failed) == ["LLMTRSR"]
    assert ("a bug" if error else "SASRek") in failed["LLMTRSR"]
    shown = [record for record in caplog.records if "LLMTRSR failed" in record.getMessage()]
    assert [record.exc_info is not None for record in shown] == [True] * bool(error)


def test_a_killed_process_is_told_in_a_line_and_stops_no_other(
    titled, settings, monkeypatch, caplog
):
    class Killed(Here):
        def submit(self, function, /, *args, **kwargs):
            if function.__self__.row != "LLMTRSR":
                return super().submit(function, *args, **kwargs)
            future = Future()
            future.set_exception(BrokenProcessPool("A process was terminated abruptly"))
            return future

    monkeypatch.setattr(efficiency, "_apart", Killed)
    grid = grid_of(titled, settings, "LLMTRSR", "P5")
    results, failed = efficiency.measure_rows(grid, 1, False, show_progress=False)
    assert {one.row for one in results} == {"P5"}
    assert "was killed, most likely for its memory" in failed["LLMTRSR"]
    assert not [record for record in caplog.records if record.exc_info]


def test_a_row_without_a_language_model_is_refused(titled, settings, monkeypatch):
    with pytest.raises(ValueError, match="variants: Base asks nothing of a language model"):
        measured(monkeypatch, grid_of(titled, settings, "Base"))


def test_the_table_has_factors_over_the_first_row():
    def line(row, part, when, seconds, means=""):
        return Measured(row, part, when, "users", means, 10, 5, 50, 0, 1, seconds, 2**30, None)

    table = efficiency.efficiency_table(
        [
            line("A", "x", "each epoch", 2.0),
            line("A", "x", "each epoch", 8.0, means="otherwise"),
            line("B", "y", "each epoch", 3000.0),
            line("B", "z", "inference", 3.0),
        ]
    )
    factors = [line.split("|")[-3].strip() for line in table.splitlines()[2:]]
    assert table.count("| 100 % ") == 4
    assert factors == ["1", "4", "1,500", "–"]


def test_without_matplotlib_nothing_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(efficiency, "find_spec", lambda name: None)
    monkeypatch.setattr(efficiency, "measure_rows", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'recbole_tslrec\[report\]'"):
        efficiency.run(None, 1, False, tmp_path)
