import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_measures_every_cell(small_data, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "recommender.py"
    command = [sys.executable, script, f"--dataset={small_data}", "--data_path=data"]
    command += ["--backbones=GRU4Rec,FMLPRec", "--steps=1", "--turns=1", "--hidden_size=8"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("|")[2:8] for line in done.stdout.splitlines() if line.startswith("| small")]
    names = [(row[0].strip(), row[1].strip()) for row in rows]
    assert names == [
        ("GRU4Rec", "prefix"),
        ("GRU4Rec", "sequence"),
        ("TSLRec_GRU4Rec", "prefix"),
        ("TSLRec_GRU4Rec", "sequence"),
        ("FMLPRec", "prefix"),
        ("TSLRec_FMLPRec", "prefix"),
    ]
    assert all(float(row[column]) > 0 for row in rows for column in (3, 4, 5))
