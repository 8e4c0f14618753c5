"""The same seed on the same machine gives the same bits, from the backbone to the metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from determinism import made


def made_in_a_fresh_process(folder: str, dataset: str, settings: dict) -> dict:
    """What tests/determinism.py notes; two threads would add up in another order than one."""
    script = Path(__file__).with_name("determinism.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    command = [sys.executable, script, "TSLRec_SASRec", dataset, folder, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(Path(folder, "made.json").read_text())


def made_here(folder: str, dataset: str, settings: dict) -> dict:
    """The same in this process, which has run other things before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return json.loads(json.dumps(made("TSLRec_SASRec", dataset, folder, settings)))
    finally:
        torch.set_num_threads(threads)


def test_two_processes_make_the_same_bits(small_data, settings):
    one = made_here("one", small_data, settings)
    other = made_in_a_fresh_process("other", small_data, settings)

    files = [name for name in one if name.endswith(".safetensors")]
    stages = {name.split("/")[0] for name in files}
    assert stages == {"backbone", "categories", "fine_tuning", "augmentation"}
    assert any("adapter" in name for name in files)
    assert {"validation", "test"} <= set(one) and one["test"]["ndcg@10"] > 0
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    assert different == []
