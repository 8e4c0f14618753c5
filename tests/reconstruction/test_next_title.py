"""The second task of fine-tuning: the words of each next item of a history."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from recbole.config import Config
from support.stages import pipeline_of, stored
from support.texts import write_texts
from tiny_fine_tuning import CPU, N_ITEMS, K, settings_of, users_of_one_taste

from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.prompt import items_of, make_prompt, of_histories, with_numbers
from recbole_tslrec.language_model.prompts.segments import TokenTable
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import fine_tune
from recbole_tslrec.paradigms.tslrec.reconstruction.next_title import check_next_title
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import FineTuningStage
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

WEIGHT = 0.25
WORDS = ("given", "the", "user", "history", "response")
HISTORIES = [np.array([3]), np.array([1, 2, 7, 2]), np.array([5, 4])]


def prompt_of(folder: str):
    """A numbered prompt with a text an item, of one to three words by the item's category."""
    tokenizer = open_source(folder).tokenizer
    prompt = make_prompt(tokenizer, "given the user history", "response :", 20, 64, "key")
    texts = ["", *(" ".join([WORDS[row % K]] * (1 + row % 3)) for row in range(1, N_ITEMS + 1))]
    table = TokenTable.of(tokenizer, texts)
    before, items, after = prompt.segments
    items = replace(items, slots=False, texts=table, separator=tuple(tokenizer.encode(":")[-1:]))
    return with_numbers(replace(prompt, segments=(before, items, after), context_length=64))


def model_of(folder: str, with_adapters: bool = True) -> ReconstructionModel:
    torch.manual_seed(0)
    language_model = load_language_model(open_source(folder), "none", CPU, head=True)
    if with_adapters:
        language_model = add_adapters(language_model, 4, 8, 0.0, "all-linear")
    reader = ItemPromptModel(language_model, None, "last")
    return ReconstructionModel(reader, 32, K, WEIGHT)


def test_positions_are_numbered_by_the_items_of_their_history(headed_model_folder):
    prompt = prompt_of(headed_model_folder("llama"))
    batch = prompt.batch(of_histories(HISTORIES))
    texts, separator = items_of(prompt).texts, items_of(prompt).separator
    for row, history in enumerate(HISTORIES):
        expected = [-1] * prompt.n_leading
        for number, item in enumerate(history):
            behind = len(separator) if number < len(history) - 1 else 0
            expected += [number] * (int(texts.lengths[item]) + behind)
        expected += [-1] * (batch["token_ids"].shape[1] - len(expected))
        assert batch["item_numbers"][row].tolist() == expected
    unnumbered = replace(items_of(prompt), numbered=False)
    plain = replace(prompt, segments=(prompt.segments[0], unnumbered, prompt.segments[2]))
    assert plain.batch(of_histories(HISTORIES)).keys() == batch.keys() - {"item_numbers"}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "cohere", "granite"])
@pytest.mark.parametrize("shared", [False, True])
def test_it_is_the_language_models_own_loss_on_the_later_items(kind, shared, headed_model_folder):
    folder = headed_model_folder(kind)
    whole = prompt_of(folder)
    prompt = replace(whole, shared_prefix=shared)
    model = model_of(folder, with_adapters=False).eval()
    own = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    preference = torch.full((len(HISTORIES), K), 1 / K)
    with torch.no_grad():
        found = model(**prompt.batch(of_histories(HISTORIES)), preference=preference)
        for row, history in enumerate(HISTORIES):
            one = whole.batch(of_histories([history]))
            labels = one["token_ids"].masked_fill(one["item_numbers"] < 1, -100)
            expected = (
                own(input_ids=one["token_ids"], labels=labels).loss if len(history) > 1 else 0
            )
            assert float(found["next_title"][row]) == pytest.approx(float(expected), rel=1e-4)
    plain = ReconstructionModel(model.reader, 32, K)
    plain.preference_head = model.preference_head
    with torch.no_grad():
        batch = whole.batch(of_histories(HISTORIES))
        eq_3 = plain(**batch, preference=preference)["error"]
    torch.testing.assert_close(found["reconstruction"], eq_3, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["error"], eq_3 + WEIGHT * found["next_title"])


def test_users_of_one_item_alone_have_no_next_title(headed_model_folder):
    model, prompt = (make(headed_model_folder("llama")) for make in (model_of, prompt_of))
    batch = prompt.batch(of_histories([np.array([3]), np.array([5])]))
    found = model(**batch, preference=torch.full((2, K), 1 / K))
    assert found["next_title"].tolist() == [0, 0]
    found["error"].sum().backward()
    assert torch.isfinite(model.preference_head.weight.grad).all()


def test_both_tasks_are_learned(tmp_path, headed_model_folder):
    folder = headed_model_folder("llama")
    histories, preferences = users_of_one_taste()
    settings = settings_of(batch_positions=256, epochs=8)
    model = model_of(folder)
    report = fine_tune(
        model, prompt_of(folder), histories, preferences, settings, tmp_path, CPU, False
    )
    first, last = report.epochs[0].metrics, report.epochs[-1].metrics
    assert last["reconstruction"] < 0.7 * report.constant_loss
    assert last["next_title"] < 0.95 * first["next_title"]  # the head is frozen, its rows random
    combined = last["reconstruction"] + WEIGHT * last["next_title"]
    assert last["error"] == pytest.approx(combined, rel=1e-5)


@pytest.fixture
def with_words(small_data, settings, headed_model_folder):
    """An experiment whose prompts hold the items' words, read by a causal model with its head."""
    write_texts()
    return settings | {
        "llm": headed_model_folder("llama"),
        "item_text": "title",
        "item_prompt": "text",
        "sft_epochs": 1,
        "sft_next_title": 0.5,
    }


def test_an_experiment_learns_it_and_keeps_it_apart(with_words, small_data):
    run = run_experiment("TSLRec_SASRec", small_data, config_dict=with_words)
    assert "fine_tuning" in [stage.name for stage in run.stages]
    again = pipeline_of(with_words, small_data)
    assert stored(again, "augmentation") and all(stage.reused for stage in again.used)
    (epoch,) = stored(again, "fine_tuning").notes["epochs"]
    assert epoch["metrics"]["next_title"] > 0
    other = pipeline_of(with_words | {"sft_next_title": 0.25}, small_data)
    last = [FineTuningStage]
    assert other.made_from(last) != again.made_from(last)
    none = pipeline_of(with_words | {"sft_next_title": 0.0}, small_data)
    plain = {key: value for key, value in with_words.items() if key != "sft_next_title"}
    assert none.made_from(last) == pipeline_of(plain, small_data).made_from(last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_prompt": "slot"}, "an item has no words in the prompt. Set item_prompt=text"),
        ({"item_prompt": "both"}, "the slot before an item's words tells them"),
        ({"llm": "bert"}, "is no causal model.*Set llm to a causal model"),
        ({"llm": "llama"}, "hold no language-model head.*saved with it"),
    ],
)
def test_what_cannot_be_predicted_is_refused_before_any_training(
    changes, message, with_words, small_data, language_model_folder
):
    if "llm" in changes:  # saved without a head
        changes = {"llm": language_model_folder(changes["llm"])}
    with pytest.raises(ValueError, match=f"sft_next_title=0.5: .*{message}"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=with_words | changes)
    assert not Path("saved/tslrec").exists()


def test_a_head_that_is_renamed_as_it_is_loaded_is_one(with_words, small_data, headed_model_folder):
    llm = {"llm": headed_model_folder("gpt_neox")}
    check_next_title(with_words | llm, open_source(llm["llm"]))


@pytest.mark.parametrize("value", [-1, True, "much"])
def test_its_weight_is_a_number_from_0_on(value, with_words, small_data):
    with pytest.raises(ValueError, match="sft_next_title: .* is not a number, 0 or larger"):
        Config("TSLRec_SASRec", small_data, config_dict=with_words | {"sft_next_title": value})
