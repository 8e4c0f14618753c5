"""The contract: what holds for every model of every paradigm, the toy's among them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model, run_recbole
from support.letter_models import save_letter_model
from support.texts import write_texts
from test_pipeline import histories, write_histories
from toy.model import TOY as TOY_KEYS
from toy.paradigm import PARADIGM as TOY
from toy.paradigm import __file__ as TOY_MODULE

from recbole_tslrec.__main__ import main
from recbole_tslrec.config.key import KEYS
from recbole_tslrec.recbole_bridge.paradigm import PARADIGMS, paradigm_of, staged_models, variants
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.register import register_paradigm
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store.checkpoints import load_checkpoint

# One backbone stands for all: what a paradigm adds does not depend on it.
MODELS = [*(name for name in staged_models() if name.partition("_")[2] in ("", "SASRec")), "Toy"]


@pytest.fixture(autouse=True)
def toy():
    """The toy and its key are known while a test lasts, as of a paradigm that a script registers."""
    KEYS.update({key.name: key for key in TOY_KEYS.keys})
    register_paradigm(TOY)
    yield
    PARADIGMS.pop("Toy")
    _forget_keys()


def _forget_keys() -> None:
    for key in TOY_KEYS.keys:
        KEYS.pop(key.name)


_forget_keys()  # the import has declared them, for all tests of this process


@pytest.fixture(scope="module")
def letter_model(tmp_path_factory):
    return save_letter_model(tmp_path_factory.mktemp("letters"), "gpt2")


@pytest.fixture
def settings(settings, request, letter_model, yes_no_model_folder):
    """Those of all tests; with what answers in a model's own words, none for a model from scratch."""
    model = getattr(request.node, "callspec", None) and request.node.callspec.params.get("model")
    from_scratch = (
        model in staged_models() and paradigm_of(model).defaults().get("llm") == "scratch"
    )
    few_steps = settings | {"sft_batch_positions": 512}  # also of long prompts
    if str(model).startswith("DELRec"):
        few_steps |= {"llm": letter_model}
    if str(model).startswith("LLMTRSR"):
        few_steps |= {"llm": yes_no_model_folder, "item_text": "title", "trsr_summary_tokens": 5}
    return few_steps | {"llm": "scratch"} if from_scratch else few_steps


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path, "one", histories())
    return "one"


def write_data(folder: Path, name: str, users: dict[str, list[str]]) -> None:
    """Histories, and titles of the items for models that read them."""
    write_histories(folder, name, users)
    write_texts(name, n_items=12)


def state_of(experiment) -> dict[str, torch.Tensor]:
    state = load_checkpoint(experiment.checkpoint)["state_dict"]
    return {name: value for name, value in state.items() if torch.is_tensor(value)}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("model", MODELS)
def test_trains_saves_loads_and_scores_all_items(model, data, settings):
    experiment = run_experiment(model, data, config_dict=settings)
    assert {"hit@10", "ndcg@10"} <= experiment.test_result.keys()
    _, loaded, _, _, _, test_data = load_data_and_model(experiment.checkpoint)
    interaction = next(iter(test_data))[0]
    loaded.eval(), experiment.trainer.model.eval()
    with torch.no_grad():
        scores = loaded.full_sort_predict(interaction)
        expected = experiment.trainer.model.full_sort_predict(interaction)
    assert scores.numel() == len(interaction) * loaded.n_items and scores.isfinite().all()
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_bits_also_of_a_run_that_was_stopped(
    model, data, settings, monkeypatch
):
    kinds = staged_models()[model].stages(Config(model, data, config_dict=settings))
    one = run_experiment(model, data, config_dict=settings | {"tslrec_dir": "unbroken"})

    def stopped(self, folder):
        raise KeyboardInterrupt

    if kinds:
        with monkeypatch.context() as first:
            first.setattr(kinds[-1], "make", stopped)
            with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
                run_experiment(model, data, config_dict=settings)
    again = run_experiment(model, data, config_dict=settings)
    third = run_experiment(model, data, config_dict=settings)
    assert all(stage.reused for stage in third.stages)
    state = state_of(one)
    for other in (again, third):
        assert_same(state, state_of(other))
        assert other.test_result == one.test_result
    if model == "Repeat":  # in which nothing is drawn
        return
    other = run_experiment(model, data, config_dict=settings | {"seed": 2})
    pairs = zip(state.values(), state_of(other).values(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("model", MODELS)
def test_a_share_of_the_users_is_learned_from(model, data, settings):
    if model in ("CI_SASRec", "Norm_SASRec") or "sft_users" not in paradigm_of(model).defaults():
        pytest.skip("it fine-tunes no language model")
    shares = (1.0, 0.5)
    runs = [
        run_experiment(model, data, config_dict=settings | {"sft_users": one}) for one in shares
    ]
    tuned = [[one for one in run.stages if "examples" in one.notes.get("cost", {})] for run in runs]
    of_all, of_half = (
        {one.name: one.notes["cost"]["examples"] for one in stages} for stages in tuned
    )
    less = {
        name for name, count in of_all.items() if of_half[name] <= 0.8 * count
    }  # validated on all
    assert less and less >= of_all.keys() & {"fine_tuning", "soft_prompts", model.lower()}


@pytest.mark.parametrize("model", MODELS)
def test_wrong_values_and_misspelt_keys_are_refused(model, data, settings):
    for group in paradigm_of(model).keys:
        for key in group.keys:
            with pytest.raises(ValueError, match=f"^{key.name}: "):
                Config(model, data, config_dict=settings | {key.name: {"no": "value"}})
            misspelt = key.name[:-1] + key.name[-1] * 2
            with pytest.raises(ValueError, match=rf"\[{re.escape(misspelt)}\].*\[{key.name}\]"):
                Config(model, data, config_dict=settings | {misspelt: key.default})


@pytest.mark.parametrize("model", MODELS)
def test_nothing_that_is_tested_enters_training(model, tmp_path, settings):
    """Other test items at random: the trained model stays, bit for bit."""
    users = histories()
    generator = np.random.default_rng(1)
    states = []
    for name in ("one", "other"):
        write_data(tmp_path, name, users)
        experiment = run_experiment(model, name, config_dict=settings | {"epochs": 1})
        states.append(state_of(experiment))
        for items in users.values():
            items[-1] = f"i{generator.integers(0, 12)}"
    assert_same(*states)


def test_the_toy_is_small():
    folder = Path(TOY_MODULE).parent
    assert sum(len(file.read_text().splitlines()) for file in folder.glob("*.py")) <= 80


def test_every_stage_of_a_paradigm_is_a_class_with_a_name():
    for row in variants().values():
        for stage in row.stages:
            assert issubclass(stage, Stage) and re.fullmatch(r"[a-z][a-z0-9_]*", stage.name)


def test_the_toy_runs_through_every_command(data, settings, monkeypatch, capsys):
    """Without a line changed elsewhere: run_recbole, compare, report, stages."""
    keys = [f"--{key}={value!r}" for key, value in settings.items()]

    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["recbole_tslrec", *words])
        main()
        return capsys.readouterr().out

    printed = command(
        "compare", f"--dataset={data}", "--variants=Base,Toy", *keys, "--results=my own"
    )
    assert "Toy" in printed and "report --results='my own' " in printed
    command("report", "--results=my own", "--output=report")
    result = run_recbole(model="Toy", dataset=data, config_dict=settings)
    assert result["test_result"]["hit@10"] >= 0
    printed = command("stages", "--model=Toy", f"--dataset={data}", *keys)
    assert "toy_counts" in printed
