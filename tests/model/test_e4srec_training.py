"""E4SRec and LlamaRec in the loop for language models: killed and gone on with, stopped, divided."""

import gc
import json
import logging
import multiprocessing
import os
import signal
import weakref
from pathlib import Path

import pytest
import torch
from support.letter_models import save_letter_model
from support.texts import write_texts
from support.two_processes import in_two_processes

from recbole_tslrec.language_model import generation, training
from recbole_tslrec.paradigms.llmtrsr import stages as trsr_stages
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.inventory import stored_stages
from recbole_tslrec.store import processes
from recbole_tslrec.store.checkpoints import load_checkpoint

WITHOUT_TRACE = {"tslrec_dir": "unbroken", "checkpoint_dir": "unbroken"}


def weights_of(checkpoint: str) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoint)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def die_at(model: str, step: int, dataset: str, settings: dict) -> None:
    """Run, and kill this process after a step, before its checkpoint is written."""
    torch.set_num_threads(1)  # a forked process has no other threads
    take_step = training._Watch.on_step_end

    def step_or_die(self, args, state, control, **kwargs):
        take_step(self, args, state, control, **kwargs)
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    training._Watch.on_step_end = step_or_die
    run_experiment(model, dataset, config_dict=settings)


@pytest.mark.parametrize(
    ("model", "kill_at"), [("E4SRec", 2), ("E4SRec", 30), ("LlamaRec_SASRec", 2)]
)
def test_killed_it_goes_on_to_the_same_bits(model, kill_at, small_data, settings, monkeypatch):
    """Within the first epoch and a later one; the metrics of validation and test, too."""
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "_SECONDS_A_CHECKPOINT", -1)
    sampled = {"valid": "uni10", "test": "uni10"}  # which draws items
    settings |= {"eval_args": {"mode": sampled, "order": "TO"}, "sft_epochs": 3}
    settings |= {} if model == "E4SRec" else {"sft_batch_positions": 512, "sft_epochs": 2}
    unbroken = run_experiment(model, small_data, config_dict=settings | WITHOUT_TRACE)
    process = multiprocessing.get_context("fork").Process(
        target=die_at, args=(model, kill_at, small_data, settings)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    (partial,) = Path("saved/tslrec/small").glob(f"{model.lower()}-*.partial")
    steps = [int(path.name[11:]) for path in partial.glob("progress/checkpoints/checkpoint-*")]
    assert max(steps) == kill_at - 1
    begun = []
    monkeypatch.setattr(
        training._Watch, "on_step_begin", lambda *args, **_: begun.append(args[2].global_step)
    )
    resumed = run_experiment(model, small_data, config_dict=settings)
    assert begun[0] == kill_at - 1
    assert not partial.exists()
    whole = weights_of(unbroken.checkpoint)
    torch.testing.assert_close(weights_of(resumed.checkpoint), whole, rtol=0, atol=0)
    assert resumed.best_valid_result == unbroken.best_valid_result
    assert resumed.test_result == unbroken.test_result


def test_trained_weights_are_a_stage_and_serve_again(small_data, settings):
    """A run that was killed in its test does not train again; another setting does."""
    first = run_experiment("E4SRec", small_data, config_dict=settings)
    again = run_experiment("E4SRec", small_data, config_dict=settings | {"seed": 2020})
    assert [stage.reused for stage in again.stages] == [True, True]
    assert again.test_result == first.test_result
    assert again.best_valid_result == first.best_valid_result
    assert again.seconds > first.stages[1].seconds  # as long as it took when it was made
    names = {stage.name for stage in stored_stages(Path("saved/tslrec"))}
    assert names == {"backbone", "e4srec"}
    changes = {"e4srec_learning_rate": 1e-4}
    other = run_experiment("E4SRec", small_data, config_dict=settings | changes)
    assert [stage.reused for stage in other.stages] == [True, False]


def test_that_eval_step_is_for_backbones_is_told(small_data, settings, monkeypatch):
    told = []
    monkeypatch.setattr(logging.Logger, "warning", lambda _, text, *__: told.append(text))
    changes = {"eval_step": 2, "sft_epochs": 2}
    found = run_experiment("E4SRec", small_data, config_dict=settings | changes, test=False)
    assert any("eval_step: [2] is for backbones; [E4SRec] validates" in text for text in told)
    assert found.best_valid_result is not None


@pytest.mark.parametrize("eval_step", [0, 1])
def test_recboles_metric_stops_it_and_chooses_the_epoch(
    eval_step, small_data, settings, monkeypatch
):
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    monkeypatch.setattr(
        LanguageModelTrainer,
        "_valid_epoch",
        lambda *_, **__: (score := next(scores), {"ndcg@10": score, "hit@10": 2 * score}),
    )
    changes = {"sft_epochs": 5, "sft_stopping_step": 2, "eval_step": eval_step}
    found = run_experiment("E4SRec", small_data, config_dict=settings | changes, test=False)
    epoch = load_checkpoint(found.checkpoint)["epoch"]
    if eval_step == 0:
        assert (len(found.trainer.train_loss_dict), epoch) == (5, 4)
        assert found.best_valid_result is None
        return
    assert (len(found.trainer.train_loss_dict), epoch) == (4, 1)
    assert (found.best_valid_score, found.best_valid_result["hit@10"]) == (0.3, 0.6)


def test_the_test_finds_nothing_of_the_loop_in_memory(small_data, settings, monkeypatch):
    run, evaluate = training._run, LanguageModelTrainer.evaluate
    of_the_loop, left = weakref.WeakSet(), []

    def noting(loop, *args):
        run(loop, *args)
        of_the_loop.update([loop, loop.optimizer])

    def looking(self, *args, **kwargs):
        left.append(len(of_the_loop))
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(training, "_run", noting)
    monkeypatch.setattr(LanguageModelTrainer, "evaluate", looking)
    gc.disable()  # Python looks when it likes
    try:
        run_experiment("E4SRec", small_data, config_dict=settings | {"sft_epochs": 1})
    finally:
        gc.enable()
    assert left[-1] == 0  # the others are of validation, within the loop


def test_what_goes_wrong_names_its_own_key(small_data, settings, monkeypatch):
    from recbole_tslrec.paradigms.e4srec.model import E4SRec

    with pytest.raises(ValueError, match=r"the loss is .* smaller e4srec_learning_rate"):
        wild = {"e4srec_learning_rate": 1e30}
        run_experiment("E4SRec", small_data, config_dict=settings | wild)
    scores = E4SRec.full_sort_predict
    monkeypatch.setattr(E4SRec, "full_sort_predict", lambda *args: scores(*args) * float("nan"))
    with pytest.raises(ValueError, match=r"\[E4SRec\] epoch 0, evaluation.* e4srec_learning_rate"):
        run_experiment("E4SRec", small_data, config_dict=settings)


def test_a_checkpoint_of_recboles_is_not_resumed(small_data, settings):
    experiment = run_experiment("E4SRec", small_data, config_dict=settings)
    with pytest.raises(ValueError, match="resume_checkpoint.*goes on by itself.*saved/tslrec"):
        experiment.trainer.resume_checkpoint(experiment.checkpoint)


def train_together(model: str, dataset: str, settings: dict) -> None:
    assert processes.count() == 2
    found = run_experiment(model, dataset, config_dict=settings)  # in which the second one ends
    Path(f"{model}.json").write_text(json.dumps([found.checkpoint, found.best_valid_result]))


@pytest.fixture
def settings_of(settings, yes_no_model_folder, tmp_path):
    """By model: with the words and the language models that they take."""
    settings |= {"lora_dropout": 0.0}  # it draws from each process's own random state
    read_words = {
        "llm": yes_no_model_folder,
        "item_text": "title",
        "trsr_block_items": 2,
        "trsr_summary_tokens": 5,
        "trsr_summary_instruction": "predict preferences",
        "trsr_merge_instruction": "predict distribution among preferences",
        "trsr_instruction": "predict yes",
        "sft_batch_positions": 2048,
    }
    letters = {"llm": save_letter_model(tmp_path / "letters", "llama"), "sft_batch_positions": 1024}
    codes = {"llm": "scratch", "sft_batch_positions": 512, "code_leaf_items": 6}
    return {
        "POD": settings | codes | {"sft_epochs": 1, "sft_optimizer": "adamw_torch"},
        "E4SRec": settings | {"e4srec_learning_rate": 1e-4},
        "LlamaRec_SASRec": settings | {"sft_batch_positions": 512},
        "DELRec_SASRec": settings | letters | {"delrec_soft_epochs": 2},
        "LLMTRSR_SASRec": settings | read_words,
    }


MODELS = ["E4SRec", "LlamaRec_SASRec", "DELRec_SASRec", "LLMTRSR_SASRec", "POD"]


@pytest.mark.parametrize("model", MODELS)
def test_two_processes_train_what_one_trains(model, small_data, settings_of, monkeypatch):
    """And make what is made before: a checkpoint holds DELRec's vectors and LLM-TRSR's summaries."""
    settings = settings_of[model]
    write_texts()
    for module in (generation, training):
        monkeypatch.setattr(module, "bf16_is_fast", lambda device: False)
    monkeypatch.setattr(trsr_stages, "USERS_A_SHARD", 8)
    in_two_processes(train_together, model, small_data, settings | {"tslrec_dir": "together"})
    checkpoint, valid = json.loads(Path(f"{model}.json").read_text())
    alone = run_experiment(model, small_data, config_dict=settings)
    state = weights_of(checkpoint)
    # T5's own dropout, of no LoRA, draws from each process's own random state as well.
    atol = 0.05 if model == "POD" else 1e-4
    for name, weight in weights_of(alone.checkpoint).items():
        if weight.is_floating_point():
            torch.testing.assert_close(state[name], weight, rtol=1e-3, atol=atol, msg=name)
        else:
            assert torch.equal(state[name], weight), name
    if model != "POD":
        assert valid == pytest.approx(alone.best_valid_result, abs=0.05)
