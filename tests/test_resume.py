"""The language model's stages after SIGKILL: the next run goes on, and ends as an unbroken one does."""

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_fine_tuning import CPU, model_and_prompt, settings_of, users_of_one_taste

from recbole_tslrec.language_model import item_states, training
from recbole_tslrec.language_model.item_states import read_items
from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import fine_tune

TOKENS = [f"item {number}" for number in range(20)]


def killed(work, *args) -> None:
    """Run ``work`` in a forked process that is expected to kill itself."""
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def tuned(folder: str, checkpoints: Path, kill_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)  # a forked process has no other threads
    model, prompt = model_and_prompt(folder)
    if kill_at is not None:
        take_step = training._Watch.on_step_end

        def step_or_die(self, args, state, control, **kwargs):
            take_step(self, args, state, control, **kwargs)
            if state.global_step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        training._Watch.on_step_end = step_or_die
    histories, preferences = users_of_one_taste()
    fine_tune(model, prompt, histories, preferences, settings_of(epochs=2), checkpoints, CPU, False)
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kill_at", [3, 8, 12])
def test_fine_tuning_goes_on_within_an_epoch(kill_at, tmp_path, language_model_folder, monkeypatch):
    """A checkpoint a step: killed before the step's own checkpoint, so one step is lost."""
    monkeypatch.setattr(training, "_SECONDS_A_CHECKPOINT", -1)
    folder = language_model_folder()
    unbroken = tuned(folder, tmp_path / "unbroken")
    killed(tuned, folder, tmp_path / "killed", kill_at)
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "killed").iterdir()]
    assert max(steps) == kill_at - 1
    torch.testing.assert_close(tuned(folder, tmp_path / "killed"), unbroken, rtol=0, atol=0)


def read(folder: str, shards: Path, kill_at: int | None = None) -> torch.Tensor:
    torch.set_num_threads(1)
    model, prompt = model_and_prompt(folder)
    shards.mkdir(exist_ok=True)
    if kill_at is not None:
        save = item_states.ItemTensors.save

        def save_or_die(self, path):
            if path.name == f"shard-{kill_at:06d}.safetensors":
                os.kill(os.getpid(), signal.SIGKILL)
            save(self, path)

        item_states.ItemTensors.save = save_or_die
    return read_items(model.reader, prompt, TOKENS, shards, "Items", False, items_a_shard=3)


def test_augmentation_goes_on_from_the_last_shard(tmp_path, language_model_folder, monkeypatch):
    folder = language_model_folder()
    unbroken = read(folder, tmp_path / "unbroken")
    assert unbroken.shape == (20, 32)
    killed(read, folder, tmp_path / "killed", 4)
    finished = sorted((tmp_path / "killed").glob("*.safetensors"))
    assert len(finished) == 4
    times = [path.stat().st_mtime_ns for path in finished]
    assert torch.equal(read(folder, tmp_path / "killed"), unbroken)
    assert [path.stat().st_mtime_ns for path in finished] == times


def test_shards_of_items_in_another_order_are_made_again(tmp_path, language_model_folder):
    """The same data may give the items other numbers when the run is started again."""
    folder = language_model_folder()
    read(folder, tmp_path)
    model, prompt = model_and_prompt(folder)
    order = [3, 1, 2, *range(4, 21)]
    model.reader.item_embeddings = model.reader.item_embeddings[[0, *order]]
    tokens = [TOKENS[row - 1] for row in order]
    (tmp_path / "alone").mkdir()
    states = partial(read_items, model.reader, prompt, tokens, doing="Items", items_a_shard=3)
    expected, again = states(tmp_path / "alone"), states(tmp_path)
    assert torch.equal(again, expected)


def test_states_that_are_not_finite_are_named(tmp_path, language_model_folder):
    model, prompt = model_and_prompt(language_model_folder())
    model.reader.item_embeddings[5] = float("inf")
    with pytest.raises(ValueError, match="hidden_state holds NaN .* 1 items.*'item 4'"):
        read_items(model.reader, prompt, TOKENS, tmp_path, "Items", False)


def test_a_shard_that_was_altered_is_made_again(tmp_path, language_model_folder, caplog):
    folder = language_model_folder()
    unbroken = read(folder, tmp_path)
    shard = tmp_path / "shard-000002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert torch.equal(read(folder, tmp_path), unbroken)
    assert "shard-000002.safetensors] is truncated or altered" in caplog.text


def test_augmentation_halves_its_batches_when_memory_is_short(
    tmp_path, language_model_folder, caplog
):
    model, prompt = model_and_prompt(language_model_folder())
    expected = read_items(model.reader, prompt, TOKENS, tmp_path, "Items", False)
    sizes = []

    def short_of_memory(module, args, batch):
        sizes.append(len(batch["token_ids"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    model.reader.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    (tmp_path / "again").mkdir()
    states = read_items(model.reader, prompt, TOKENS, tmp_path / "again", "Items", False)
    torch.testing.assert_close(states, expected)
    assert max(size for size in sizes[-4:]) <= 5
    assert "out of memory; going on with" in caplog.text
    assert sizes[:3] == [20, 10, 5]  # no size is tried twice in vain


def test_an_item_that_does_not_fit_says_what_to_do(tmp_path, language_model_folder):
    model, prompt = model_and_prompt(language_model_folder())

    def short_of_memory(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    model.reader.register_forward_pre_hook(short_of_memory)
    with pytest.raises(RuntimeError, match="not even one item.*llm_quantization: nf4"):
        read_items(model.reader, prompt, TOKENS, tmp_path, "Items", False)
