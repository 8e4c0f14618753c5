"""Kills experiments at random moments, runs each again to its end, and compares it with one unbroken.

    python tests/faults/kill_stages.py --kills 50

The experiment is a whole TSLRec run of a second or two: a small data set, a language model of random
weights, RecBole's trainings kept after every epoch. Every run is a fork of this process, which has
imported everything and computed nothing. Half of the kills (SIGKILL) fall at any moment of the run, half
at any moment of one stage, the stages in turn. After each, whatever lies there under a finished stage's
name must be whole; after the run that goes on from it, every tensor of every stage and every metric must
equal the unbroken run's, bit for bit. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a fork must not inherit half a team of threads

import bitsandbytes  # noqa: F401
import numpy as np
import peft  # noqa: F401
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import CONFIGS, small_tokenizer, write_atomic

import recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning  # noqa: F401
from recbole_tslrec.recbole_bridge import unfinished
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.inventory import stored_stages

torch.set_num_threads(1)
FORK = multiprocessing.get_context("fork")
STAGES = ("backbone", "categories", "fine_tuning", "augmentation")
STORE = Path("saved") / "tslrec"
unfinished.SECONDS_BETWEEN, unfinished.SHARE_OF_WRITING = 0.0, float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        _finish(_start(top, lambda: _prepare(top)))
        start = time.monotonic()
        _finish(_start(top / "unbroken", lambda: _experiment(top)))
        seconds = time.monotonic() - start
        print(f"unbroken: {seconds:.1f} s, {_metrics(top / 'unbroken')}", flush=True)
        fell, wrong = Counter(), []
        for kill in range(args.kills):
            run = top / f"kill-{kill}"
            stage = STAGES[kill // 2 % len(STAGES)] if kill % 2 else None
            fell[_kill(top, run, stage, seconds, generator)] += 1
            damaged = _damaged(run)
            _finish(_start(run, lambda: _experiment(top)))
            wrong += [f"kill {kill}: {line}" for line in damaged + _differences(top, run)]
            print(f"kill {kill + 1} of {args.kills}, so far in: {dict(fell)}", flush=True)
    print(f"{args.kills} kills; {len(wrong)} differences from the unbroken run")
    print("\n".join(wrong))
    return 1 if wrong else 0


def _prepare(top: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for user in range(60):
        items = user % 2 * 15 + generator.integers(0, 15, size=generator.integers(4, 12))
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(items)]
    write_atomic(top / "data", "small", rows)
    torch.manual_seed(0)
    import transformers

    transformers.AutoModel.from_config(CONFIGS["llama"]()).save_pretrained(top / "model")
    small_tokenizer().save_pretrained(top / "model")


def _experiment(top: Path) -> None:
    settings = {
        "data_path": str(top / "data"),
        "gpu_id": "",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": 6,
        "epochs": 3,
        "train_batch_size": 64,
        "valid_metric": "NDCG@10",
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "show_progress": False,
        "llm": str(top / "model"),
        "n_categories": 4,
        "sft_epochs": 4,
        "sft_batch_positions": 64,
        "lora_r": 2,
    }
    result = run_experiment("TSLRec_SASRec", "small", config_dict=settings)
    Path("result.json").write_text(json.dumps(result.test_result | result.best_valid_result))


# ---- processes ------------------------------------------------------------------------------------


def _start(folder: Path, work: Callable[[], None]) -> multiprocessing.Process:
    """Do ``work`` in a fork that stands in ``folder`` and writes into a log there."""

    def run() -> None:
        os.chdir(folder)
        log = os.open("run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["kill_stages"]
        work()

    folder.mkdir(exist_ok=True)
    process = FORK.Process(target=run)
    process.start()
    return process


def _finish(process: multiprocessing.Process) -> None:
    process.join(300)
    if process.exitcode != 0:
        raise RuntimeError(f"The run that was left alone ended with {process.exitcode}.")


def _kill(top: Path, run: Path, stage: str | None, seconds: float, generator) -> str:
    """Start a run and kill it; in which stage, or part of the run, that was."""
    process = _start(run, lambda: _experiment(top))
    if stage is None:
        time.sleep(generator.uniform(0, seconds))
    else:
        made = next(s for s in stored_stages(top / "unbroken" / STORE) if s.name == stage)
        begun = run / STORE / "small" / f"{made.folder.name}.partial"
        while not begun.is_dir() and process.is_alive():
            time.sleep(0.001)
        time.sleep(generator.uniform(0, made.manifest["seconds"]))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode == 0:
        return "the end"
    if not (run / STORE).is_dir():
        return "before the stages"
    stages = stored_stages(run / STORE)
    unfinished = [s.name for s in stages if s.unfinished]
    # A stage asks for others only before its folder is made, so there is one at most.
    return unfinished[0] if unfinished else f"between stages or after {len(stages)} of them"


# ---- comparison -----------------------------------------------------------------------------------


def _metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())


def _damaged(run: Path) -> list[str]:
    """Finished stages that are not whole."""
    if not (run / STORE).is_dir():
        return []
    return [str(s.problem) for s in stored_stages(run / STORE, verify=True) if s.problem]


def _differences(top: Path, run: Path) -> list[str]:
    """What is not as in the unbroken run."""
    found = _damaged(run)
    stages = {s.folder.name: s for s in stored_stages(run / STORE)}
    for stage in stored_stages(top / "unbroken" / STORE):
        other = stages.pop(stage.folder.name, None)
        if other is None or set(stage.manifest["files"]) != set(other.manifest["files"]):
            found.append(f"{stage.name}: missing, or with other files")
            continue
        for path in stage.folder.rglob("*.safetensors"):
            here = load_file(path)
            there = load_file(other.folder / path.relative_to(stage.folder))
            for name, tensor in here.items():
                if not torch.equal(tensor, there[name]):
                    by = (tensor.double() - there[name].double()).abs().max()
                    found.append(f"{stage.name}: {path.name}: {name} differs by up to {by:.1e}")
    found += [f"[{name}] is left over" for name in stages]
    if _metrics(run) != _metrics(top / "unbroken"):
        found.append(f"metrics: {_metrics(run)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
