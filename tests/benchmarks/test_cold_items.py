import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.texts import write_texts

from recbole_tslrec.evaluation.ranks import Ranks

_FILE = Path(__file__).parents[2] / "benchmarks" / "cold_items.py"
_SPEC = importlib.util.spec_from_file_location("cold_items", _FILE)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


@given(st.integers(0, 1000), st.floats(0.05, 0.6))
def test_cold_items_are_last_interactions_alone(seed, share):
    generator = np.random.default_rng(seed)
    rows = [(f"u{u}", f"i{generator.integers(12)}", float(t)) for u in range(9) for t in range(6)]
    order = generator.permutation(len(rows))
    log = pd.DataFrame([rows[row] for row in order], columns=["u", "i", "t"])
    kept, cold = benchmark.with_cold_items(log, share, seed)
    assert cold and cold <= set(log.i)
    for user in log.u.unique():
        own = [item for name, item, _ in rows if name == user]
        expected = [item for item in own[:-1] if item not in cold]
        if own[-1] not in cold or len(expected) >= 3:  # one row each to train on, validate and test
            expected.append(own[-1])
        assert kept[kept.u == user].i.tolist() == expected
    again, same = benchmark.with_cold_items(log.sample(frac=1, random_state=0), share, seed)
    assert same == cold and again.reset_index(drop=True).equals(kept.reset_index(drop=True))


def test_cold_targets_are_measured_apart():
    ranks = Ranks(
        user=np.array(["a", "b", "c"]),
        item=np.array(["x", "y", "z"]),
        rank=np.array([1, 1, 1]),
        rank_masked=np.array([1, 20, 7]),
        training_length=np.array([3, 3, 3]),
        item_count=np.array([0, 4, 0]),
        repeated=np.array([False, False, False]),
    )
    line = benchmark.split(ranks, {"x", "z"})
    assert (
        line["cold"]["hit@5"] == 0.5
        and line["cold"]["hit@10"] == 1
        and line["cold"]["targets"] == 2
    )
    assert line["warm"]["hit@10"] == 0 and line["warm"]["hit@50"] == 1
    with pytest.raises(ValueError, match="cold item has a training interaction"):
        benchmark.split(ranks, {"x", "y"})


def test_the_command_keeps_what_is_done(small_data, settings, monkeypatch, capsys, tmp_path):
    write_texts()
    command = [
        "x",
        f"--dataset={small_data}",
        "--data_path=data",
        "--item_text=title",
        "--share=.3",
    ]
    command += ["--seeds=1", "--epochs=1", f"--llm={settings['llm']}"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    rows = [*benchmark.VARIANTS, benchmark.ALONE]
    n_lines = 2 + len(rows)
    table = capsys.readouterr().out.splitlines()[-n_lines:]
    assert [line.split("|")[1].strip() for line in table[2:]] == rows
    lines = (tmp_path / "cold_items" / "small_cold.jsonl").read_text().splitlines()
    assert all(json.loads(line)["cold"]["targets"] > 0 for line in lines)
    monkeypatch.setattr(benchmark, "run_cell", None)  # nothing is left to run
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    assert table == capsys.readouterr().out.splitlines()[-n_lines:]
    path = tmp_path / "data" / "small" / "small.item"
    path.write_text(path.read_text().replace("history", "other"))
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(TypeError, match="not callable"):  # other texts: all is to be run again
        benchmark.main()
