import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_measures_every_cell(small_data, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "recommender.py"
    command = [sys.executable, script, f"--datasets={small_data}", "--data_path=data"]
    command += ["--backbones=GRU4Rec", "--steps=1", "--turns=1", "--users=15"]
    command += ["--hidden_size=8"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("| small")]
    rows = [[entry.strip() for entry in line.split("|")[2:-1]] for line in lines]
    assert [tuple(row[:3]) for row in rows] == [
        (model, way, batching)
        for model in ("GRU4Rec", "TSLRec_GRU4Rec")
        for way, batching in (("RecBole", "prefix"), ("ours", "sequence"))
    ]
    assert all(float(row[column]) > 0 for row in rows for column in (3, 5, 6, 7, 9, 10))
