"""The items' texts as vectors: the frozen language model's, and what they are held against."""

import numpy as np
import pytest
import torch
from conftest import write_atomic
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.utils import get_model
from support.stages import item_vectors, pipeline_of
from support.texts import write_texts
from transformers import AutoModel, AutoTokenizer

from recbole_tslrec.language_model.reader import open_source_for, tokenised_texts
from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre
from recbole_tslrec.paradigms.tslrec.augmentation.controls import CONTROLS, VECTORS
from recbole_tslrec.paradigms.tslrec.augmentation.text_controls import (
    gaussian_like,
    shuffled_rows,
    tfidf_svd,
)
from recbole_tslrec.recbole_bridge.paradigm import controls
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.trained_model import load_trained_model
from recbole_tslrec.stages.text_vectors import TextVectorsStage

OF_TEXT = [kind.name for kind in CONTROLS if kind.reads_text]
UNTUNED = [*OF_TEXT, "shuffled_tfidf", "text_tfidf", "shuffled_text_tfidf"]


@pytest.fixture
def with_text(small_data, settings):
    """Settings of an experiment on the small data set whose items have texts."""
    write_texts()
    return settings | {"item_text": "title"}


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_vector_is_the_mean_over_the_words_of_the_text_alone(
    kind, small_data, settings, language_model_folder
):
    texts, folder = write_texts(), language_model_folder(kind)
    changes = {"item_text": ["title"], "item_text_tokens": 4, "enhancement": "text", "llm": folder}
    pipeline = pipeline_of(settings | changes, small_data)
    vectors = item_vectors(pipeline)
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for token, vector in zip(pipeline.tokens, vectors, strict=True):
        words = tokenizer(texts[token], add_special_tokens=False)["input_ids"][:4]
        whole = tokenizer(texts[token])["input_ids"]
        before = whole.index(words[0])
        after = whole[
            before + len(tokenizer(texts[token], add_special_tokens=False)["input_ids"]) :
        ]
        ids = torch.tensor([whole[:before] + words + after])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0, before : before + len(words)]
        # In bf16 where the processor has it.
        torch.testing.assert_close(vector, states.mean(dim=0), atol=0.05, rtol=0.05)


def test_a_causal_model_reads_no_word_first(small_data, settings, language_model_folder, tmp_path):
    """Behind a token of its own, where its tokenizer puts none: the first state tells of no word."""
    texts, folder = write_texts(), language_model_folder("gpt2")
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)
    model.save_pretrained(tmp_path / "model"), tokenizer.save_pretrained(tmp_path / "model")
    changes = {"item_text": ["title"], "enhancement": "text", "llm": str(tmp_path / "model")}
    pipeline = pipeline_of(settings | changes, small_data)
    assert pipeline.stage(TextVectorsStage).made_from["first"] == [0]
    for token, vector in zip(pipeline.tokens, item_vectors(pipeline), strict=True):
        words = tokenizer(texts[token], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([[0, *words]])).last_hidden_state[0, 1:]
        torch.testing.assert_close(vector, states.mean(dim=0), atol=0.05, rtol=0.05)


def test_no_interaction_enters_and_another_order_of_ids_is_the_same(settings, tmp_path):
    by_name = {}
    for name, order in (("one", 1), ("other", -1)):
        rows = [(f"u{user}", f"i{(user + n) % 30}", n) for user in range(40) for n in range(5)]
        write_atomic(tmp_path / "data", name, rows[::order])
        write_texts(name)
        for kind in UNTUNED:
            changes = {"item_text": "title", "enhancement": kind, "enhanced_dim": 8}
            pipeline = pipeline_of(settings | changes, name)
            rows_of = dict(zip(pipeline.tokens, item_vectors(pipeline), strict=True))
            by_name[name, kind] = torch.stack([rows_of[f"i{item}"] for item in range(30)])
        by_name[name] = pipeline.tokens
    assert by_name["one"] != by_name["other"]
    for kind in UNTUNED:
        torch.testing.assert_close(by_name["one", kind], by_name["other", kind])


def test_the_stage_depends_on_the_texts_not_on_their_columns_name(with_text, small_data):
    def made_from(**changes):
        return pipeline_of(with_text | changes, small_data).stage(TextVectorsStage).made_from

    before = made_from()
    assert made_from(item_text=["title"], n_categories=5, seed=3) == before
    assert made_from(item_text_tokens=2) != before
    assert made_from(llm_quantization="int8") != before
    write_texts(seed=1)
    assert made_from() != before


def test_random_weights_are_those_of_the_seed(with_text, small_data, language_model_folder):
    def stage(llm, seed):
        return pipeline_of(with_text | {"llm": llm, "seed": seed}, small_data).stage(
            TextVectorsStage
        )

    folder = language_model_folder()
    prints = {stage(f"random:{folder}", seed).fingerprint for seed in (1, 2)}
    assert len(prints) == 2 and "seed" not in stage(folder, 1).made_from


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 9))
def test_controls_of_text_vectors(n_items, width, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_items, width, generator=generator)
    tokens = [f"i{item}" for item in range(n_items)]
    shuffled = shuffled_rows(vectors, tokens, seed)
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, vectors.tolist()))
    order = torch.randperm(n_items, generator=generator)
    for control in (shuffled_rows, gaussian_like):
        again = control(vectors[order], [tokens[row] for row in order], seed)
        torch.testing.assert_close(again, control(vectors, tokens, seed)[order])


@pytest.mark.parametrize("beside", ["text", "shuffled_text"])
def test_beside_tfidf_the_cosine_is_the_mean_of_both(beside, with_text, small_data, tmp_path):
    path = tmp_path / "data" / "small" / "small.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("i3\t")) + "\n")
    with_text |= {"item_text_missing": "unknown", "enhanced_dim": 5}

    def of_items(kind):
        pipeline = pipeline_of(with_text | {"enhancement": kind}, small_data)
        vectors = VECTORS[kind].for_similarity(item_vectors(pipeline), pipeline)
        assert VECTORS[kind].kept_width(pipeline.config, 8) == (10 if "_tfidf" in kind else 5)
        return pipeline.tokens.index("i3"), vectors

    def cosines(vectors):
        directions = torch.linalg.svd(centre(vectors)).Vh[:5]
        rows = torch.nn.functional.normalize(centre(vectors) @ directions.T, dim=1)
        return rows @ rows.T

    missing, joined = of_items(f"{beside}_tfidf")
    parts = [cosines(of_items(kind)[1]) for kind in (beside, "tfidf")]
    torch.testing.assert_close(joined @ joined.T, sum(parts), atol=1e-4, rtol=1e-4)
    assert not joined[missing, 5:].any() and bool(joined[missing, :5].any()) == (beside != "text")


def test_shuffled_tfidf_is_tfidf_of_other_items(with_text, small_data):
    words, shuffled = (
        item_vectors(pipeline_of(with_text | {"enhancement": kind}, small_data))
        for kind in ("tfidf", "shuffled_tfidf")
    )
    assert sorted(map(tuple, words.tolist())) == sorted(map(tuple, shuffled.tolist()))
    assert not torch.equal(words, shuffled)


def test_gaussian_rows_have_the_vectors_mean_and_covariance():
    mixed = torch.randn(20_000, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0]]) + 3
    drawn = gaussian_like(mixed, [str(row) for row in range(len(mixed))], 0)
    torch.testing.assert_close(drawn.mean(dim=0), mixed.mean(dim=0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), mixed.T.cov(), atol=0.2, rtol=0.05)
    assert not torch.isclose(drawn[:, 0], mixed[:, 0]).all()


def test_tfidf_against_its_formula():
    texts = ["red nail polish", "red red shoes", "Nail file", "file of the shoes", "red"]
    words = sorted({word for text in texts for word in text.lower().split()})
    counts = np.array([[text.lower().split().count(word) for word in words] for text in texts])
    frequency = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    weights = frequency * (np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(weights, full_matrices=False)
    expected = (left[:, :3] * values[:3]) @ (left[:, :3] * values[:3]).T
    vectors = tfidf_svd(texts, 3, seed=0)
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)
    wide = tfidf_svd(texts, 20, seed=0)
    np.testing.assert_allclose(wide @ wide.T, weights @ weights.T, atol=1e-5)
    assert wide.shape == (5, 20) and not wide[:, len(words) :].any()
    with pytest.raises(ValueError, match="item_text: the texts have no words to count"):
        tfidf_svd(["", "!"], 2, seed=0)
    of_one_word = tfidf_svd(["Same", "", "same same"], 2, seed=0)
    np.testing.assert_array_equal(of_one_word, [[1, 0], [0, 0], [1, 0]])
    assert tfidf_svd(["a lone text"], 2, seed=0).abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"item_text": None},
            ValueError,
            r"enhancement=text: reads the items' texts.*Set item_text=",
        ),
        (
            {"item_text": "titel"},
            ValueError,
            r"item_text: the column \[titel\] is not there.*'title'",
        ),
        ({"item_text": "title"}, FileNotFoundError, r"item_text: there is no file .*small.item"),
    ],
)
def test_refused_before_any_training(changes, error, message, small_data, settings, tmp_path):
    if error is ValueError:
        write_texts()
    wrong = settings | {"enhancement": "text"} | changes
    with pytest.raises(error, match=message):
        run_experiment("TSLRec_SASRec", small_data, config_dict=wrong)
    assert not (tmp_path / "saved" / "tslrec").exists()


def test_texts_without_a_word_are_named(with_text, small_data):
    config = Config("TSLRec_SASRec", small_data, config_dict=with_text)
    source = open_source_for(config)
    with pytest.raises(
        ValueError, match=r"finds no word in the texts of 1 items, among them 'b' \(' '\)"
    ):
        tokenised_texts(config, source, {"a": "given", "b": " "})


def test_a_text_beyond_the_context_is_refused_before_any_training(with_text, small_data, tmp_path):
    path = tmp_path / "data" / "small" / "small.item"
    path.write_text(path.read_text() + f"i30\t{'n1 ' * 70}\n")  # of no item that anybody had
    changes = {"enhancement": "text", "item_text_tokens": 100}
    changes |= {"fusion": "none", "score_term": "after"}
    pipeline_of(with_text | changes, small_data).check([TextVectorsStage])
    path.write_text(path.read_text().replace("i30\t", "i3\t").replace("i3\t", "i31\t", 1))
    with pytest.raises(
        ValueError, match=r"item_text_tokens: .*context of 64.*Set item_text_tokens"
    ):
        run_experiment("TSLRec_SASRec", small_data, config_dict=with_text | changes)
    assert not (tmp_path / "saved" / "tslrec").exists()


@pytest.mark.parametrize("enhancement", ["text", "tfidf"])
def test_an_item_without_a_text_is_refused_before_any_training(
    enhancement, with_text, small_data, tmp_path
):
    path = tmp_path / "data" / "small" / "small.item"
    path.write_text(path.read_text().replace("i3\t", "i31\t", 1))
    changes = {"enhancement": enhancement, "fusion": "none", "score_term": "after"}
    with pytest.raises(ValueError, match=r"item_text: .*no text in \['title'\] for 1 of 30 items"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=with_text | changes)
    assert not (tmp_path / "saved" / "tslrec").exists()


@pytest.mark.parametrize("enhancement", ["text", "tfidf", "text_tfidf"])
def test_a_model_with_text_trains(enhancement, with_text, small_data):
    run = run_experiment(
        "TSLRec_SASRec", small_data, config_dict=with_text | {"enhancement": enhancement}
    )
    assert run.trainer.model.fusion.enhanced[1:].any(dim=1).all()


def test_columns_beyond_the_rank_make_tfidf_start_no_smaller(with_text, small_data):
    changes = {"enhancement": "tfidf", "enhanced_dim": 64}  # of 30 items
    pipeline = pipeline_of(with_text | changes, small_data)
    model = get_model("TSLRec_SASRec")(pipeline.config, pipeline.dataset)
    before = model.fusion.projection.weight.detach().clone()
    model.prepare(pipeline)
    filled = int(model.fusion.enhanced.any(dim=0).sum())
    assert filled < 64
    torch.testing.assert_close(model.fusion.projection.weight, before * (64 / filled) ** 0.5)


def test_a_term_of_tuned_words_beside_tfidf_trains_and_loads(with_text, small_data):
    """By the file that gives what gained the most."""
    files, changes = ["properties/words.yaml"], {"epochs": 2, "enhanced_dim": 9}
    run = run_experiment("TSLRec_SASRec", small_data, files, with_text | changes)
    vectors = run.trainer.model.scoring_term.vectors
    assert vectors.shape[1] == 18 and vectors[1:, 9:].any()
    loaded = load_trained_model(run.trainer.saved_model_file).model
    assert torch.equal(loaded.scoring_term.vectors, vectors.cpu())


def test_controls_of_texts_are_added_where_there_are_texts():
    without = {"mean_preference", "backbone_embedding", "random", "frozen_lm"}
    without |= {"repeat", "seen_penalty"}  # which stand beside all
    of = ["TSLRec"]
    assert set(controls({}, of)) == without and set(controls(None, of)) == without | set(OF_TEXT)
    assert set(controls({"item_text": None}, of)) == without
    assert set(controls({"item_text": "title"}, of)) == without | set(OF_TEXT)
    of_llamarec = set(controls({}, ["LlamaRec"])) - {"repeat", "seen_penalty"}
    assert of_llamarec == {"llamarec_retriever_order", "llamarec_shuffled"}
    of_delrec = set(controls({}, ["DELRec"])) - {"repeat", "seen_penalty"}
    assert of_delrec == {"delrec_random_prompts", "delrec_retriever_order", "delrec_shuffled"}
    of_term = {"tfidf_term", "shuffled_text_term", "shuffled_tfidf_term"}
    assert of_term <= set(controls({"item_text": "title"}, ["TextTerm"]))
    assert not of_term & set(controls({}, ["TextTerm"]))
    of_tuned = {"shuffled_tuned_text_term"}
    assert of_tuned <= set(controls({"item_text": "title"}, ["TunedTextTerm"]))
    of_joined = {"shuffled_text_tfidf_term"}
    assert of_joined <= set(controls({"item_text": "title"}, ["TextTfidfTerm"]))
    of_trsr = {"llmtrsr_retriever_order", "llmtrsr_no_summary", "llmtrsr_shuffled_summaries"}
    assert of_trsr <= set(controls({"item_text": "title"}, ["LLMTRSR"]))
    assert set(controls()) == {
        *controls(of=of),
        *of_llamarec,
        *of_delrec,
        *of_trsr,
        *of_term,
        *of_tuned,
        *of_joined,
    }
