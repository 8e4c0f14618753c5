"""Ctrl-C, in a real process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import recbole_tslrec

TOP = Path(recbole_tslrec.__file__).parents[1]


def test_ctrl_c_ends_soon_with_a_line_on_how_to_go_on(small_data, settings, tmp_path):
    (tmp_path / "long.yaml").write_text(json.dumps(settings | {"sft_epochs": 10_000}))
    command = "-m recbole_tslrec run --model=TSLRec_SASRec --config_files=long.yaml".split()
    process = subprocess.Popen(
        [sys.executable, *command, f"--dataset={small_data}"],
        env={**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        store = tmp_path / "saved" / "tslrec" / small_data
        deadline = time.monotonic() + 240
        while not list(store.glob("fine_tuning-*.partial/checkpoints/checkpoint-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - start
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped. Finished stages are kept in [saved/tslrec]; the same command goes on" in said
    assert "Traceback" not in said
    assert list(store.glob("fine_tuning-*.partial/checkpoints/checkpoint-*"))
    assert not list(store.glob(".*"))  # the lock is given back
    assert seconds < 10  # a second or two on a machine that does nothing else
