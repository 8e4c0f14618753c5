"""Runs on a second device: nothing of the CPU's meets what is on a GPU.

Where no test has a GPU, ``support/second_device.py`` stands for one. Left out are backward passes, which
it does not look into, products in bfloat16, and quantised models, whose kernels ask for a real one.
"""

import io
from copy import deepcopy

import numpy as np
import pytest
import torch
from support.letter_models import save_letter_model
from support.second_device import second_device

from recbole_tslrec.language_model import meter
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS
from recbole_tslrec.recbole_bridge.paradigm import variants
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recommendation.recommender import Recommender

CPU_ROW, CPU_NUMBER, PLACES = torch.ones(3), torch.tensor(2.0), torch.tensor([0, 2])

REFUSED = {
    "a sum": lambda there: there + CPU_ROW,
    "a sum, the other way": lambda there: CPU_ROW + there,
    "beside a number there": lambda there: CPU_ROW * there.sum(),
    "a list": lambda there: torch.cat([there, CPU_ROW]),
    "a list of numbers": lambda there: torch.stack([there.sum(), CPU_NUMBER]),
    "a choice": lambda there: torch.where(CPU_ROW > 0, there, there),
    "a layer": lambda there: torch.nn.Linear(3, 2)(there),
    "a keyword": lambda there: torch.add(there, other=CPU_ROW),
    "rows by ids": lambda there: torch.nn.functional.embedding(PLACES, there.view(3, 1)),
    "an index into the CPU's": lambda there: CPU_ROW[PLACES.to(there.device)],
    "a mask of the CPU's": lambda there: CPU_ROW[there > 0],
    "written by an index": lambda there: _written(there, PLACES, CPU_ROW[:2]),
    "written by a list": lambda there: _written(there, [0, 2], CPU_ROW[:2]),
    "written into the CPU's": lambda there: _written(CPU_ROW, PLACES, there[:2]),
    "added in place": lambda there: CPU_NUMBER.clone().add_(there.sum()),
    "the CPU's generator": lambda there: there.clone().normal_(generator=torch.Generator()),
}
TAKEN = {
    "a number of the CPU": lambda there: there + CPU_NUMBER,
    "a number of the CPU, first": lambda there: CPU_NUMBER - there,
    "the CPU's index": lambda there: there[PLACES],
    "a number there, as an index": lambda there: there + CPU_ROW[there.long()[0]],
    "the CPU's mask": lambda there: there[CPU_ROW > 0],
    "a copy": lambda there: there.clone().copy_(CPU_ROW),
    "a slice written": lambda there: _written(there, slice(0, 2), CPU_ROW[:2]),
    "a number written by an index": lambda there: _written(there, PLACES, CPU_NUMBER),
    "a move": lambda there: there + CPU_ROW.to(there),
    "a move with a type": lambda there: there + CPU_ROW.double().to("cuda", torch.float32),
    "a factory": lambda there: there + torch.arange(3, device=there.device),
    "what is like it": lambda there: there + torch.zeros_like(there) + there.new_ones(3),
    "a view": lambda there: there + there.view(1, 3)[0].detach(),
    "a copy of all": lambda there: there + deepcopy(there),
}


def _written(there, place, value):
    there = there.clone()
    there[place] = value
    return there


@pytest.fixture
def cuda():
    with second_device() as device:
        yield device


@pytest.fixture
def there(cuda):
    return torch.ones(3).to("cuda")


@pytest.mark.parametrize("what", REFUSED)
def test_mixing_raises(what, there):
    with pytest.raises(RuntimeError, match="Expected"):
        REFUSED[what](there)


@pytest.mark.parametrize("what", TAKEN)
def test_what_cuda_takes_passes_and_stays_there(what, there):
    assert TAKEN[what](there).device == there.device


def test_a_tensor_says_where_it_is(there):
    assert (there.is_cuda, there.is_cpu, there.device.type) == (True, False, "cuda")
    back = there.cpu()
    assert (back.is_cuda, back.is_cpu, back.device.type) == (False, True, "cpu")
    back += 1
    assert torch.as_tensor(there, device="cpu").tolist() == [1, 1, 1]  # they share no memory


def test_numpy_reads_the_cpus_alone(there):
    for read in (np.asarray, torch.Tensor.numpy, lambda x: x.detach().numpy()):
        with pytest.raises(TypeError, match="to numpy"):
            read(there)
    assert there.cpu().numpy().sum() == there.sum().item() == sum(there.tolist()) == 3


def test_a_file_says_where_its_tensors_were(there):
    def read(**how):
        file.seek(0)
        return {name: one.device.type for name, one in torch.load(file, **how).items()}

    torch.save({"there": there, "here": CPU_ROW}, file := io.BytesIO())
    assert read() == {"there": "cuda", "here": "cpu"}
    assert read(map_location="cpu") == {"there": "cpu", "here": "cpu"}
    assert read(map_location=there.device) == {"there": "cuda", "here": "cuda"}


def test_a_layer_is_moved_and_trained_there(there):
    layer = torch.nn.Linear(3, 1).to(there.device)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(there).sum().backward()
    assert layer.weight.grad.device == there.device
    optimizer.step()
    assert optimizer.state[layer.weight]["exp_avg"].device == there.device
    with pytest.raises(RuntimeError, match="same device"):
        layer.cpu()(there)


def _cases() -> dict[str, tuple[str, dict]]:
    """Models and settings: the first row of every model with other vectors or a term; each fusion."""
    cases, seen = {}, set()
    for name, row in variants().items():
        settings = dict(row.settings or {})
        kind = (row.model, settings.get("enhancement"), settings.get("score_term"))
        if kind not in seen:
            seen.add(kind)
            cases[name] = (row.model, settings)
    model, of_text = cases["TextTerm"]
    cases["a mapped term"] = (model, of_text | {"score_map": "contrastive"})
    cases["a term in training"] = (model, of_text | {"score_term": "during"})
    vectors = {"enhancement": "backbone_embedding", "score_term": "after"}
    return cases | {f"fusion: {name}": (model, vectors | {"fusion": name}) for name in FUSIONS}


CASES = _cases()


@pytest.fixture(scope="module")
def letter_model(tmp_path_factory):
    return save_letter_model(tmp_path_factory.mktemp("letters"), "gpt2")


@pytest.fixture
def run(titled, settings, letter_model, yes_no_model_folder):
    """Runs one of the cases, in few steps, with a language model that can answer as it is asked to."""
    settings |= {"gpu_id": "0", "train_neg_sample_args": None, "item_text": "title"}
    settings |= {"sft_epochs": 1, "sft_batch_positions": 512, "max_examples_per_user": 1}
    settings |= {"candidates": "unseen", "trsr_summary_tokens": 5}
    answering = {"DELRec": letter_model, "LLMTRSR": yes_no_model_folder}

    def run(model: str, own: dict):
        llm = answering.get(model.partition("_")[0], settings["llm"])
        config = settings | {"llm": llm} | own
        return run_experiment(model.format(backbone="SASRec"), titled, config_dict=config)

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_on_one_device(case, run, monkeypatch, cuda):
    """Training, its stages, the choice of a term, testing, and the checkpoint read on either device."""
    monkeypatch.setattr(meter, "matrix_rate", lambda device: None)  # measured with huge matrices
    experiment = run(*CASES[case])
    assert 0 <= experiment.test_result["ndcg@10"] <= 1
    assert {one.device for one in experiment.trainer.model.parameters()} <= {cuda}
    best = [
        Recommender(experiment.checkpoint, device=device).recommend(["u1", "u2"], k=3)
        for device in ("cuda", "cpu")
    ]
    assert best[0]["item"].tolist() == best[1]["item"].tolist()
