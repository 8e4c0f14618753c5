"""The files of what is finished: what is cut short, left without its end, or edited."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_atomic
from synthetic import SyntheticResults

from recbole_tslrec.experiments.report.report import write_report
from recbole_tslrec.experiments.report.results import Results
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import (
    ResultsFolder,
    check_entries,
)
from recbole_tslrec.experiments.run.packing import pack
from recbole_tslrec.store.json_lines import JsonLines

WHOLE = '{"cell": "2", "status": "failed", "text": "ü"}'


@pytest.fixture
def kept(tmp_path) -> JsonLines:
    lines = JsonLines(tmp_path / "kept.jsonl", "cell", check_entries)
    lines.append({"cell": "1", "status": "failed"})
    return lines


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_broken_line_is_named(kept):
    kept.append({"cell": "1", "status": "failed", "value": 1})
    kept.append({"cell": "1", "status": "failed", "value": 2})
    assert kept.read()["1"]["value"] == 2
    kept.path.write_text(kept.path.read_text() + "{}\n")
    with pytest.raises(ValueError, match=r"kept.jsonl\], line 4"):
        kept.read()


def test_a_whole_last_line_without_its_newline_is_kept(kept, tmp_path):
    kept.path.write_text(kept.path.read_text() + WHOLE)
    assert set(kept.read()) == {"1", "2"}
    kept.append({"cell": "3", "status": "failed"})
    assert set(kept.read()) == {"1", "2", "3"}
    assert WHOLE + "\n" in kept.path.read_text()
    assert not list(tmp_path.glob("*.dropped"))


@pytest.mark.parametrize("length", [1, 9, len(WHOLE.encode()) - 3])  # the last is within a letter
def test_half_a_line_is_left_out_and_moved_beside_the_file(length, kept, caplog):
    half = WHOLE.encode()[:length]
    kept.path.write_bytes(kept.path.read_bytes() + half)
    before = kept.path.read_bytes()
    assert set(kept.read()) == {"1"} and kept.path.read_bytes() == before
    kept.append({"cell": "3", "status": "failed"})
    assert set(kept.read()) == {"1", "3"}
    dropped = kept.path.with_name("kept.jsonl.dropped")
    assert dropped.read_bytes() == half + b"\n"
    assert [record.getMessage() for record in caplog.records] == [
        f"[{kept.path}] ended in a half-written line, of a run that was killed: it "
        f"is in [{dropped}] now."
    ]


def test_blank_lines_are_no_cells(kept):
    kept.path.write_text(kept.path.read_text() + "\n  ")
    kept.append({"cell": "3", "status": "failed"})
    assert set(kept.read()) == {"1", "3"}


@pytest.mark.parametrize("end", ["", "half"])
def test_who_reads_writes_nothing(end, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    writer = SyntheticResults(folder, n_users=40, n_items=30)
    for variant in ("Base", "TSLRec"):
        cell = writer.write("tiny", "SASRec", variant, 1)
    file = folder / "cells.jsonl"
    file.write_text(file.read_text().rstrip("\n") + ("\n" + '{"cell": "' if end else ""))
    before = files(folder)
    assert cell in ResultsFolder(folder).cells.read()
    assert len(Results(folder).cells) == 2
    write_report([folder], tmp_path / "report")
    assert files(folder) == before


def test_metrics_that_were_edited_are_refused_by_cell(tmp_path, settings):
    rows = [(f"u{user}", f"i{(user + k) % 12}", k) for user in range(12) for k in range(6)]
    write_atomic(tmp_path / "data", "small", rows)
    grid = Grid(("small",), ("GRU4Rec",), ("Base",), (2020,), settings=settings)
    first = compare(grid, "results").tables()
    assert compare(grid, "results").tables() == first
    file = Path("results/cells.jsonl")
    line = json.loads(file.read_text())
    line["test"]["masked"]["ndcg@10"] = 0.9
    file.write_text(json.dumps(line) + "\n")
    message = (
        rf"cells.jsonl\], cell \[{line['cell']}\] \(small, GRU4Rec, Base, seed 2020\): NDCG@10 \(seen "
        r"items masked\) is 0.9000 in cells.jsonl and 0\.\d{4} by the kept ranks.* run again"
    )
    with pytest.raises(ValueError, match=message):
        compare(grid, "results")
    file.write_text("")  # as the message says
    assert compare(grid, "results").lines[0]["test"] != line["test"]


def test_the_report_says_on_the_screen_that_metrics_were_edited(tmp_path, caplog):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    edited = dict.fromkeys(("hit@5", "hit@10", "ndcg@5", "ndcg@10"), 0.9)
    writer.write("tiny", "SASRec", "Base", 1, test={"ranked": edited, "masked": edited})
    Results(tmp_path)
    assert "tiny, SASRec, Base, seed 1: 8 metrics in cells.jsonl are not" in caplog.text


def test_a_metric_that_is_no_number_is_named(tmp_path):
    writer = SyntheticResults(tmp_path)
    no_number = dict.fromkeys(("hit@5", "hit@10", "ndcg@5", "ndcg@10"), "0.9")
    writer.write("tiny", "SASRec", "Base", 1, test={"ranked": no_number, "masked": no_number})
    with pytest.raises(ValueError, match=r"line 1: test: .* is not an object of finite numbers"):
        Results(tmp_path)


ODD_ENTRIES = [
    *(("cell", {}), ("dataset", None), ("variant", 1.5), ("backbone", True), ("data", [])),
    *(("configuration", {}), ("machine", []), ("command", 1), ("finished_at", -1)),
    *(("embeddings_from", True), ("error", []), ("seed", "x"), ("seed", True), ("seed", None)),
    *(("epochs", 10**400), ("epochs", "5"), ("settings", None), ("effective", "")),
    *(("effective", {"epochs": 5}), ("versions", [1]), ("reused_stages", {}), ("seconds", [1])),
    *(
        ("seconds", {"training": float("nan")}),
        ("valid", {"hit@5": "0.2"}),
        ("test", {"ranked": 1}),
    ),
    *(("test", {"ranked": {"hit@5": value}}) for value in (float("nan"), float("inf"), None, True)),
    *(("test", {}), ("valid", {"hit@5": 0.2})),
]


@pytest.mark.parametrize(("name", "value"), ODD_ENTRIES)
def test_an_entry_of_another_type_is_named_with_its_line(name, value, tmp_path):
    SyntheticResults(tmp_path).write("tiny", "SASRec", "Base", 1)
    cells = ResultsFolder(tmp_path).cells
    (line,) = cells.read().values()
    cells.path.write_text("\n" + json.dumps(line | {name: value}) + "\n")
    with pytest.raises(ValueError, match=r"cells.jsonl\], line 2") as caught:
        cells.read()
    assert name in str(caught.value) and "done again" in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 300


def test_what_is_written_passes(tmp_path):
    writer = SyntheticResults(tmp_path)
    writer.write("tiny", "SASRec", "Base", 1)
    writer.write("tiny", "SASRec", "TSLRec", 2, embeddings_from="GRU4Rec", epochs=None)
    writer.write("tiny", "SASRec", "CI", 3, status="failed")
    assert len(ResultsFolder(tmp_path).cells.read()) == 3
    check_entries({"cell": "1", "status": "failed", "something": object()}, "a later version's")


def test_a_finished_cell_without_its_results_is_named(tmp_path):
    SyntheticResults(tmp_path).write("tiny", "SASRec", "Base", 1)
    cells = ResultsFolder(tmp_path).cells
    (line,) = cells.read().values()
    for name in ("valid", "test"):
        rest = {key: value for key, value in line.items() if key != name}
        cells.path.write_text(json.dumps(rest) + "\n")
        with pytest.raises(ValueError, match=r"cells.jsonl\], line 1: a finished cell without"):
            cells.read()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"cell": "1"}, "here: a line without a status"),
        ({"cell": "1", "status": "begun"}, "here: a line without a status"),
        ({"cell": "1", "format": 2}, r"here: format \[2\]; this program reads \[1\]"),
        ({"trial": "1", "status": "done", "bigger": True}, "here: a finished trial without"),
        ({"trial": "1", "status": "done", "score": "x"}, "here: score: .x. is not a finite number"),
    ],
)
def test_a_line_that_lacks_what_is_read_of_it_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        check_entries(line, "here")


def test_a_line_that_is_nested_without_end_is_named(kept):
    kept.path.write_text("[" * 10**5 + "\n" + WHOLE + "\n")
    with pytest.raises(ValueError, match=r"kept.jsonl\], line 1"):
        kept.read()


@pytest.fixture
def line(tmp_path) -> dict[str, str]:
    cell = SyntheticResults(tmp_path, n_users=9, n_items=30).write("tiny", "SASRec", "Base", 1)
    return {"cell": cell, "dataset": "tiny"}


@pytest.fixture
def ranks(line, tmp_path) -> Path:
    return ResultsFolder(tmp_path).arrays_file("ranks", line["cell"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rank", lambda array: array[:-1]),
        ("item_count", lambda array: array[:0]),
        ("training_length", lambda array: array[:, None]),
        ("user", lambda array: array[0]),
        ("rank", lambda array: array.astype(str)),
        ("rank_masked", lambda array: array + 1j),
        ("rank_masked", lambda array: np.full(len(array), np.nan)),
        ("rank", lambda array: 0 * array),
        ("item_count", lambda array: -1 - array),
        ("item", lambda array: np.arange(len(array))),
        ("user", lambda array: np.array(["u1", *array[:-1]])),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_ranks_of_another_form_are_named(packed, name, change, line, ranks, tmp_path):
    results = ResultsFolder(tmp_path)
    arrays = results.arrays("ranks", line)
    file, where = ranks, ""
    if packed:
        pack(tmp_path)
        file, where = results.arrays_file("ranks", "tiny"), rf"cell \[{line['cell']}\]: "

    def write(changed):
        own = {"rank": f"{line['cell']}/rank"} if packed else {}  # the only array of one cell alone
        np.savez(file, **{own.get(key, key): array for key, array in changed.items()})

    write(arrays | {name: change(arrays[name])})
    said = rf"{file.name}\] is damaged: {where}{name} .*run the grid again"
    with pytest.raises(ValueError, match=said):
        results.arrays("ranks", line)
    del arrays[name]
    write(arrays)
    if packed and name == "rank":  # the cell is not in the file
        assert results.arrays("ranks", line) is None
        return
    with pytest.raises(ValueError, match=rf"{file.name}\] is damaged: {where}it has no {name}"):
        results.arrays("ranks", line)


def test_a_damaged_file_of_ranks_is_named_wherever_bytes_are_missing(line, ranks, tmp_path):
    results = ResultsFolder(tmp_path)
    whole = ranks.read_bytes()
    for start in range(0, len(whole) - 40, 37):
        ranks.write_bytes(whole[:start] + whole[start + 40 :])
        with pytest.raises(ValueError, match=rf"{ranks.name}\] is damaged"):
            results.arrays("ranks", line)
    with open(ranks, "wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(ValueError, match=rf"{ranks.name}\] is damaged"):
        results.arrays("ranks", line)
    ranks.unlink()
    assert results.arrays("ranks", line) is None
