"""A packed results folder says the same as before, in one file a data set."""

import sys

import numpy as np
import pandas as pd
import pytest
from synthetic import SyntheticResults

from recbole_tslrec.__main__ import main
from recbole_tslrec.experiments.report.report import write_report
from recbole_tslrec.experiments.run.kept_cells import ResultsFolder
from recbole_tslrec.experiments.run.packing import pack


@pytest.fixture
def writer(tmp_path):
    writer = SyntheticResults(tmp_path / "results", n_users=60, n_items=40)
    for dataset in ("tiny", "other/set"):
        for variant in ("Base", "CI", "TSLRec"):
            for seed in (1, 2):
                writer.write(dataset, "SASRec", variant, seed)
    writer.write("tiny", "Caser", "Base", 1, status="failed")
    return writer


def files(folder, pattern="*.npz"):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(pattern))


def numbers(folder):
    return {name: pd.read_csv(folder / name) for name in files(folder, "*.csv")}


def test_the_report_of_a_packed_folder_has_the_same_numbers(writer, tmp_path, monkeypatch):
    write_report([writer.folder], tmp_path / "before")
    argv = ["x", "pack", f"--results={writer.folder}"]
    monkeypatch.setattr(sys, "argv", argv)
    main()
    packed = ["items/other_set.npz", "items/tiny.npz", "ranks/other_set.npz", "ranks/tiny.npz"]
    assert files(writer.folder) == packed
    write_report([writer.folder], tmp_path / "after")
    before, after = numbers(tmp_path / "before"), numbers(tmp_path / "after")
    assert before.keys() == after.keys() and len(before) > 10
    for name, frame in before.items():
        pd.testing.assert_frame_equal(after[name], frame)


def test_packed_again_nothing_changes_and_what_came_since_is_taken_in(writer):
    pack(writer.folder)
    once = {name: (writer.folder / name).read_bytes() for name in files(writer.folder)}
    size = pack(writer.folder)
    assert {name: (writer.folder / name).read_bytes() for name in files(writer.folder)} == once
    cell = writer.write("tiny", "SASRec", "random", 1)
    results = ResultsFolder(writer.folder)
    before = results.arrays("ranks", {"cell": cell, "dataset": "tiny"})
    assert pack(writer.folder) > size and len(files(writer.folder)) == 4
    after = results.arrays("ranks", {"cell": cell, "dataset": "tiny"})
    for column in ("rank", "rank_masked"):
        assert np.array_equal(np.minimum(before[column], 11), after[column])
        assert after[column].dtype == np.int32
    for line in results.cells.read().values():
        if line["status"] == "done":
            results.check_metrics(line)


def test_a_cell_that_is_not_in_the_packed_file_has_no_arrays(writer):
    pack(writer.folder)
    results = ResultsFolder(writer.folder)
    assert results.arrays("ranks", {"cell": "0" * 16, "dataset": "tiny"}) is None
    assert results.arrays("items", {"cell": "0" * 16, "dataset": "new"}) is None


def test_a_damaged_packed_file_is_named(writer):
    pack(writer.folder)
    path = writer.folder / "ranks" / "tiny.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"tiny.npz\] is damaged"):
        pack(writer.folder)


def test_a_folder_without_cells_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no cells.jsonl"):
        pack(tmp_path)


def test_two_data_sets_of_one_file_are_refused_and_keep_their_ranks(writer):
    writer.write("other_set", "SASRec", "Base", 1)
    before = files(writer.folder)
    with pytest.raises(ValueError, match="two differ by a / alone"):
        pack(writer.folder)
    assert files(writer.folder) == before
