import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_goes_through_every_row(small_data, settings, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "backbones.py"
    command = [sys.executable, script, f"--dataset={small_data}", "--data_path=data"]
    command += ["--backbones=STAMP", "--users=[0,inf)", f"--llm={settings['llm']}"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = (line.split("|")[2:-1] for line in done.stdout.splitlines() if "| STAMP" in line)
    assert all(float(cell) >= 0 for cell in row) and len(row) == 4
