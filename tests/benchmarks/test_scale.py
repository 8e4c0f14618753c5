import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def test_the_command_measures_every_size(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "scale.py"
    command = [sys.executable, script, "--sizes=200,300", "--categories=3", "--widths=4"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--only=save"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in done.stdout.splitlines()
        if line.startswith("| items")
    ]
    assert [(row[1], row[2]) for row in rows] == [("d=4", "200"), ("d=4", "300")]
    assert all(float(row[5]) >= float(row[4]) > 0 for row in rows)
    assert not list(tmp_path.iterdir())  # the measured files are gone


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import scale

    return scale


def test_every_stage_does_its_work(scale):
    for stage in scale.STAGES.values():
        stage.prepare(60, 4 if stage.varies else None)()


def test_the_rows_give_the_histories_back(scale):
    wanted = scale.random_histories(50)
    found = scale.rebuilding(50, None)()
    for name in ("user_ids", "offsets", "items"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
