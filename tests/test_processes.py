"""Two processes over gloo: the stages of one process, made together."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from support.stages import pipeline_of, stored
from support.two_processes import in_two_processes
from test_pipeline import stage_tensors
from tiny_fine_tuning import CPU, model_and_prompt, settings_of, users_of_one_taste

from recbole_tslrec.language_model import training
from recbole_tslrec.language_model.item_states import read_items
from recbole_tslrec.paradigms.tslrec.reconstruction import fine_tuning
from recbole_tslrec.store import processes

TOKENS = [f"item {number}" for number in range(20)]
SCRIPT = Path(__file__).parents[1] / "run_recbole_tslrec.py"


def torchrun(folder: Path, *command: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launcher += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes_make_what_one_makes(small_data, settings, tmp_path):
    # Dropout draws from each process's own random state.
    settings |= {"lora_dropout": 0.0, "sft_valid_ratio": 0.2, "state": "INFO"}
    one = stage_tensors(pipeline_of(settings | {"tslrec_dir": "alone"}, small_data))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings | {"tslrec_dir": "together"}))
    done = torchrun(
        tmp_path,
        str(SCRIPT),
        "--model=TSLRec_SASRec",
        f"--dataset={small_data}",
        "--config_files=settings.yaml",
    )
    assert done.stderr.count("test result") + done.stdout.count("test result") == 1
    pipeline = pipeline_of(settings | {"tslrec_dir": "together"}, small_data)
    assert stored(pipeline, "augmentation").reused and stored(pipeline, "fine_tuning").reused
    together = stage_tensors(pipeline)
    for name, tensor in one.items():
        # bf16, where the CPU has it, rounds the sums of other batches otherwise; see the test below.
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=0.02, msg=name)


def share(folder: str) -> None:
    model, prompt = model_and_prompt(folder)
    read = []
    model.reader.register_forward_pre_hook(
        lambda module, args, batch: read.append(len(batch["token_ids"])), with_kwargs=True
    )
    states = read_items(model.reader, prompt, TOKENS, Path("."), "Items", False, items_a_shard=3)
    Path(f"read-{processes.number()}").write_text(str(sum(read)))
    assert (states is not None) == processes.is_first()
    tune(model, prompt, Path("checkpoints"))
    if processes.is_first():
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        torch.save({"states": states, "trained": trained}, "results.pt")
    processes.part()


def tune(model, prompt, checkpoints: Path) -> None:
    histories, preferences = users_of_one_taste()
    settings = settings_of(epochs=2)
    fine_tuning.fine_tune(model, prompt, histories, preferences, settings, checkpoints, CPU, False)


def test_items_and_users_are_shared_out(tmp_path, language_model_folder, monkeypatch):
    """Each process reads its shards and its part of every batch; in full precision, as one would."""
    monkeypatch.setattr(training, "bf16_is_fast", lambda device: False)
    folder = language_model_folder()
    in_two_processes(share, folder)
    together = torch.load(tmp_path / "results.pt")
    assert [(tmp_path / f"read-{process}").read_text() for process in (0, 1)] == ["11", "9"]
    model, prompt = model_and_prompt(folder)
    (tmp_path / "alone").mkdir()
    alone = read_items(model.reader, prompt, TOKENS, tmp_path / "alone", "Items", False)
    torch.testing.assert_close(together["states"], alone)
    tune(model, prompt, tmp_path / "c")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = together["trained"][name]
            torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_without_torchrun_there_is_one_process():
    assert (processes.count(), processes.number(), processes.is_first()) == (1, 0, True)
    assert processes.agree(True) and not processes.agree(False)
    processes.tell("nobody listens")
    processes.wait_for_all()
    processes.part()
