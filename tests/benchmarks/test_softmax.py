import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_measures_every_way():
    script = Path(__file__).parents[2] / "benchmarks" / "softmax.py"
    command = [sys.executable, script, "--targets=20", "--items=50", "--turns=1"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| plain" in done.stdout and "| ours" in done.stdout
