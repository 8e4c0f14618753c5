import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_measures_codes_and_what_counting_hits(small_data, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "item_codes.py"
    command = [sys.executable, script, f"--dataset={small_data}", "--codes=file_order"]
    command += ["--data_path=data", "--sft_epochs=1", "--eval_step=0", "--results=rows.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert row["epochs"] == 1 and row["nodes"] == 1 and row["tokens"] == 30
    assert 0 <= row["counting HR@1"] <= 1
    assert row["HR@10 masked"] >= row["HR@10 ranked"] >= row["HR@1 ranked"]
    assert "| file_order" in done.stdout
