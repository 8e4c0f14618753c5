"""Items' words in the language model's prompts and in its slots."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model
from support.letter_models import save_letter_model
from support.stages import STAGES, item_vectors, pipeline_of
from support.texts import write_texts, write_titles_of_two_words
from transformers import AutoTokenizer

from recbole_tslrec.language_model.item_inputs import slot_inputs, within_a_sentence
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.language_model.prompts.segments import TokenTable
from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.paradigms.tslrec.augmentation.controls import FrozenEmbedding
from recbole_tslrec.paradigms.tslrec.prompt import make_prompt
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

WAYS = [("slot", "text"), ("slot", "both"), ("text", "embedding"), ("both", "both")]


@pytest.fixture
def with_text(small_data, settings):
    """Settings of an experiment on the small data set whose items have texts."""
    write_texts()
    return settings | {"item_text": "title", "sft_epochs": 1}


def test_a_prompt_holds_the_words_of_its_items(with_text, small_data):
    texts = write_texts()
    changes = {"item_prompt": "both", "item_text_tokens": 3, "llm_instruction": "given history"}
    pipeline = pipeline_of(with_text | changes, small_data)
    config, by_item = pipeline.config, pipeline.catalogue.of(pipeline.tokens)
    prompt = make_prompt(config, open_source_for(config), texts=by_item)
    tokenizer = AutoTokenizer.from_pretrained(config["llm"])

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    histories = [np.array([3]), np.array([1, 2, 7])]
    expected = []
    for history in histories:
        items = [[0, *ids(texts[pipeline.tokens[row - 1]])[:3]] for row in history]
        within = [token for item in items for token in [*ids(";"), *item]][len(ids(";")) :]
        expected.append([*prompt.segments[0].ids, *within, *prompt.segments[-1].ids])
    batch = prompt.batch(of_histories(histories))
    for row, tokens in enumerate(expected):
        mask = batch["attention_mask"][row].bool()
        assert batch["token_ids"][row][mask].tolist() == tokens
        assert [item for item in batch["item_rows"][row].tolist() if item >= 0] == list(
            histories[row]
        )
    assert prompt.lengths(of_histories(histories)).tolist() == [len(tokens) for tokens in expected]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_words_have_the_tokens_that_they_have_within_a_sentence(
    kind, with_text, small_data, tmp_path
):
    write_titles_of_two_words("Ab", "Cd")
    llm = save_letter_model(tmp_path / kind, kind)
    pipeline = pipeline_of(with_text | {"item_prompt": "text", "llm": llm}, small_data)
    source = open_source_for(pipeline.config)
    by_item = pipeline.catalogue.of(pipeline.tokens)
    prompt = make_prompt(pipeline.config, source, texts=by_item)
    table, tokenizer = prompt.segments[1].texts, source.tokenizer
    words = tokenizer.convert_ids_to_tokens(table.tokens[: table.lengths[1]].tolist())
    # A Llama 2's tokenizer puts a word's start before whatever it reads: by itself there are two.
    assert words[:2] == (["▁A", "b"] if kind == "llama" else ["ĠA", "b"])
    noted = {"words": "within a sentence"} if kind == "llama" else {}
    assert within_a_sentence(tokenizer) == noted


@pytest.mark.parametrize("llm", ["embedded", "gpt2"])
def test_most_tokenizers_read_a_text_as_within_a_sentence(llm, language_model_folder):
    tokenizer = open_source(llm if llm == "embedded" else language_model_folder(llm)).tokenizer
    assert within_a_sentence(tokenizer) == {}
    texts = ["", " Nail file", " 'Til (500) days", " ;) …", " Émile, 東京", " 2001: A"]
    alone, within = TokenTable.of(tokenizer, texts), TokenTable.behind(tokenizer, ";", texts)
    assert np.array_equal(alone.tokens, within.tokens)
    assert np.array_equal(alone.lengths, within.lengths)


def test_the_oldest_items_go_where_words_do_not_fit(with_text, small_data, caplog):
    changes = {"item_prompt": "text", "llm_max_history": 50}
    pipeline = pipeline_of(with_text | changes, small_data)
    config, by_item = pipeline.config, pipeline.catalogue.of(pipeline.tokens)
    source = open_source_for(config)
    prompt = make_prompt(config, source, texts=by_item)
    assert "items with their words as few as" in caplog.text
    batch = prompt.batch(of_histories([np.arange(1, 31)]))
    assert batch["token_ids"].shape[1] <= source.context_length
    last = prompt.batch(of_histories([np.array([30])]))["token_ids"][0]
    own = last[prompt.n_leading :]
    assert batch["token_ids"][0, -len(own) :].tolist() == own.tolist()


@pytest.mark.parametrize("enhancement", ["tslrec", "frozen_lm"])
def test_a_text_without_a_word_is_refused_before_the_backbone(enhancement, with_text, small_data):
    path = Path("data/small/small.item")
    rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([rows[0], "i0\t\u200b", *rows[2:]]) + "\n", encoding="utf-8")
    given = with_text | {"item_prompt": "text", "enhancement": enhancement, "llm": "embedded"}
    with pytest.raises(ValueError, match="finds no word in the texts of 1 items, among them 'i0' "):
        run_experiment("TSLRec_GRU4Rec", small_data, config_dict=given, test=False)
    assert not list(Path("saved").rglob("backbone*"))


def test_slots_hold_embedding_and_text_at_one_size():
    embeddings, texts = torch.randn(50, 4) * 0.02, torch.randn(50, 6) * 9 + 100
    assert slot_inputs({"item_slots": "embedding"}, embeddings, None) is embeddings
    both = slot_inputs({"item_slots": "both"}, embeddings, texts)
    own = slot_inputs({"item_slots": "text"}, embeddings, texts)
    assert both.shape == (50, 10) and torch.equal(both[:, 4:], own)
    for part in (both[:, :4], own):
        torch.testing.assert_close(part.pow(2).mean().sqrt(), torch.tensor(1.0))
    torch.testing.assert_close(own.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    same = torch.ones(5, 3)  # all items have one text
    assert not slot_inputs({"item_slots": "text"}, same, same).any()


@pytest.mark.parametrize(("prompt", "slots"), WAYS)
def test_both_stages_read_texts(prompt, slots, with_text, small_data):
    changes = {"item_prompt": prompt, "item_slots": slots}
    run = run_experiment("TSLRec_SASRec", small_data, config_dict=with_text | changes)
    names = [stage.name for stage in run.stages]
    expected = ["backbone", "categories", "fine_tuning", "augmentation"]
    reads_vectors = prompt != "text" and slots != "embedding"
    assert sorted(names) == sorted(["text_vectors"] * reads_vectors + expected)
    again = pipeline_of(with_text | changes, small_data)
    vectors = item_vectors(again)
    assert all(stage.reused for stage in again.used)
    write_texts(seed=1)
    other = pipeline_of(with_text | changes, small_data)
    assert not torch.equal(item_vectors(other), vectors)
    made = [stage.name for stage in other.used if not stage.reused]
    assert sorted(made) == sorted(["text_vectors"] * reads_vectors + expected[2:])


@pytest.mark.parametrize(("prompt", "slots"), WAYS)
def test_the_frozen_model_reads_texts_too(prompt, slots, with_text, small_data):
    changes = {"item_prompt": prompt, "item_slots": slots, "enhancement": "frozen_lm"}
    pipeline = pipeline_of(with_text | changes, small_data)
    one = item_vectors(pipeline)
    vectors, embeddings = prompt != "text" and slots != "embedding", slots == "both"
    made = ["text_vectors"] * vectors + ["backbone"] * embeddings + ["augmentation"]
    assert [stage.name for stage in pipeline.used] == made
    other = pipeline_of(with_text | changes | {"learning_rate": 1e-4}, small_data)
    (kind,) = FrozenEmbedding.stages
    same = other.stage(kind).fingerprint == pipeline.stage(kind).fingerprint
    assert same == (not embeddings)
    plain = item_vectors(pipeline_of(with_text | {"enhancement": "frozen_lm"}, small_data))
    assert one.shape == plain.shape and not torch.allclose(one, plain)


def test_k_changes_the_frozen_stage_where_the_instruction_names_it(settings, small_data):
    (kind,) = FrozenEmbedding.stages

    def print_of(**changes):
        return pipeline_of(settings | changes, small_data).stage(kind).fingerprint

    for words, named in (("history", False), ("history of {n_categories}", True), (None, True)):
        few, default = (print_of(llm_instruction=words, n_categories=k) for k in (4, 50))
        assert (few != default) == named, words


def test_texts_that_are_not_read_change_no_stage(settings, small_data):
    write_texts()
    last = [STAGES["augmentation"]]
    before = pipeline_of(settings, small_data).made_from(last)
    given = settings | {"item_text": "title", "item_text_tokens": 5, "item_text_missing": "none"}
    assert pipeline_of(given, small_data).made_from(last) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_slots": "both"}, r"item_slots=both: reads the items' texts.*Set item_text="),
        ({"item_prompt": "text"}, r"item_prompt=text: reads the items' texts.*Set item_text="),
    ],
)
@pytest.mark.parametrize("model", ["TSLRec_SASRec", "E4SRec"])
def test_without_texts_it_is_refused(model, changes, message, small_data, settings):
    if (model, changes) == ("E4SRec", {"item_prompt": "text"}):
        message = "item_prompt=text: E4SRec's items have slots. Set item_prompt=both, or slot"
    with pytest.raises(ValueError, match=message):
        Config(model, small_data, config_dict=settings | changes)


def test_texts_that_leave_no_room_are_refused_before_any_training(with_text, small_data):
    changes = {"item_prompt": "text", "item_text_tokens": 64}
    with pytest.raises(ValueError, match="item_text_tokens: an item takes up to 64 positions"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=with_text | changes)
    assert not Path("saved/tslrec").exists()


@pytest.mark.parametrize(
    ("prompt", "slots"), [("slot", "text"), ("slot", "both"), ("both", "both")]
)
def test_e4srec_reads_texts_and_is_loaded_again(prompt, slots, with_text, small_data):
    changes = {"item_prompt": prompt, "item_slots": slots}
    run = run_experiment("E4SRec", small_data, config_dict=with_text | changes)
    width = {"text": 32, "both": 96}[slots]
    assert run.trainer.model.reader.item_embeddings.shape[1] == width
    _, loaded, _, _, _, test_data = load_data_and_model(str(run.checkpoint))
    batch = next(iter(test_data))[0]
    scores = [model.eval().full_sort_predict(batch) for model in (run.trainer.model, loaded)]
    torch.testing.assert_close(*scores)
