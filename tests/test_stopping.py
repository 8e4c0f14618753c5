"""Ctrl-C, in a real process."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

import recbole_tslrec

TOP = Path(recbole_tslrec.__file__).parents[1]


def children_seconds() -> float:
    """The processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_ctrl_c_ends_soon_with_a_line_on_how_to_go_on(small_data, settings, tmp_path):
    # Without patience: on a busy machine it could be over before it is interrupted.
    endless = {"sft_epochs": 10_000, "sft_stopping_step": 10_000}
    (tmp_path / "long.yaml").write_text(json.dumps(settings | endless))
    command = "-m recbole_tslrec run --model=TSLRec_SASRec --config_files=long.yaml".split()
    process = subprocess.Popen(
        [sys.executable, *command, f"--dataset={small_data}"],
        env={**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background with the signal ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        store = tmp_path / "saved" / "tslrec" / small_data
        deadline = time.monotonic() + 240
        while not list(store.glob("fine_tuning-*.partial/progress/checkpoints/checkpoint-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        used = sum(psutil.Process(process.pid).cpu_times()[:2])
        process.send_signal(signal.SIGINT)
        start, before = time.monotonic(), children_seconds()
        _, said = process.communicate(timeout=240)
        seconds = time.monotonic() - start
        worked = children_seconds() - before - used
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopped. Finished stages are kept in [saved/tslrec]; the same command goes on" in said
    assert "Traceback" not in said
    assert list(store.glob("fine_tuning-*.partial/progress/checkpoints/checkpoint-*"))
    assert not list(store.glob(".*"))  # the lock is given back
    # What it still computes, which unlike the time on the wall does not count who else is computing.
    assert worked < 3, f"{worked:.1f} s of work, {seconds:.1f} s on the wall"
