import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_measures_every_way(small_data, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "evaluation.py"
    command = [sys.executable, script, f"--datasets={small_data}", "--data_path=data", "--turns=1"]
    command += ["--backbones=GRU4Rec", "--hidden_size=8"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if "| small" in line]
    assert [(row[1].strip(), row[2].strip()) for row in rows] == [
        ("GRU4Rec", way) for way in ("RecBole", "blocks", "both protocols")
    ]
    assert all(float(row[3]) > 0 and float(row[6]) < 1e-6 and float(row[7]) > 0 for row in rows)
