"""Items that came after training are known by their words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.texts import write_texts
from trained import make_toy

from recbole_tslrec import Recommender
from recbole_tslrec.paradigms.tslrec.augmentation.columns import reduce_columns, standardise
from recbole_tslrec.paradigms.tslrec.augmentation.controls import vectors_of
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recommendation import new_items
from recbole_tslrec.recommendation.new_items import as_known, read_new_items
from recbole_tslrec.recommendation.similar import kept_stages
from recbole_tslrec.stages.text_vectors import TextVectorsStage


@pytest.mark.parametrize(
    "way",
    [
        {"enhancement": "text", "item_norm": "l2"},
        {"enhancement": "tuned_text"},
        {"item_prompt": "text"},
    ],
)
def test_a_new_item_is_an_item_that_nobody_has_had(way, small_data, settings):
    texts = write_texts()
    changes = way | {"item_text": "title", "sft_epochs": 1, "enhanced_dim": 8, "llm_max_history": 3}
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    recommender = Recommender(experiment.checkpoint)
    model = recommender._trained.model
    before = recommender.recommend(k=30, seen=True)
    items = list(recommender.items)
    twin = items.index("i4") + 1
    recommender.add_items({"new": texts["i4"]})
    recommender.add_items({"other": "history of the user"})
    assert recommender.items == [*items, "new", "other"]
    row = model.item_table.weight[len(items) + 1].detach()
    # The twin as if nobody had had it: its words, and the ids of the items most like it, itself first.
    alike = model.fusion.alike[len(items) + 1]
    assert alike[0] == twin and len(set(alike.tolist())) == 3
    model.fusion.alike[twin] = alike
    expected = model.item_table.weight[twin].detach().clone()
    model.fusion.alike[twin] = 0
    torch.testing.assert_close(row, expected, rtol=0.02, atol=0.01 * expected.abs().max().item())
    found = recommender.recommend(k=32, seen=True)
    assert set(found["item"]) == {*items, "new", "other"}
    known = found[~found["item"].isin(["new", "other"])].reset_index(drop=True)
    assert known["item"].tolist() == before["item"].tolist()
    assert np.allclose(known["score"], before["score"], atol=1e-6)
    assert found[found["item"] == "new"]["title"].iloc[0] == texts["i4"]
    assert len(recommender.recommend(histories={"a": ["new", "i3"]}, k=5)) == 5
    assert len(recommender.similar("new", k=31)) == 31
    with pytest.raises(ValueError, match=r"^items: one is new, and has no vector under \[h_v\]"):
        recommender.similar("new", under="h_v")
    with pytest.raises(ValueError, match="^new_items: 'new' is known already"):
        recommender.add_items({"new": "again"})
    for wrong, message in (
        ({"newer": " "}, "'newer' is without a text"),
        ({"newer": None, 7: 3}, "'newer', 7 are without a text"),
        ([("newer", "words")], r"\[list\] is no dictionary"),
        ({7: "words", "7": "words"}, "two tokens are written alike"),
    ):
        with pytest.raises(ValueError, match=f"^new_items: {message}"):
            recommender.add_items(wrong)
    recommender.add_items({7: "words"})
    assert recommender.items[-1] == "7" and len(recommender.similar(7, k=3)) == 3


def test_what_else_is_new_changes_no_row(small_data, settings, monkeypatch):
    def read(trained, texts, show_progress):
        known = vectors_of(trained.config).make(kept_stages(trained, (TextVectorsStage,)))
        return torch.stack([known[len(text)] + 9 * text.count("x") for text in texts.values()])

    write_texts()
    changes = {"enhancement": "text", "item_text": "title", "enhanced_dim": 8, "epochs": 1}
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    monkeypatch.setattr(new_items, "_read", read)
    apart, together = Recommender(experiment.checkpoint), Recommender(experiment.checkpoint)
    texts = {"new": "words", **{f"other{number}": "x" * number for number in range(1, 12)}}
    for token, text in texts.items():
        apart.add_items({token: text})
    together.add_items(texts)
    one, other = (each._trained.model.fusion for each in (apart, together))
    assert torch.equal(one.alike, other.alike) and torch.equal(one.enhanced, other.enhanced)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.booleans())
def test_new_vectors_are_scaled_and_turned_as_known_ones(seed, n_columns, with_constant):
    random = torch.Generator().manual_seed(seed)
    known = torch.randn(40, 12, generator=random) * torch.rand(12, generator=random).add(0.1)
    if with_constant:
        known[:, 3] = 1.5
    made = reduce_columns(standardise(known), n_columns)
    found = as_known(known[7:12], known, made.half())
    torch.testing.assert_close(found, made[7:12], rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ["SASRec", "TSLRec_SASRec"])
def test_a_model_that_knows_no_words_takes_none(name):
    toy = make_toy(name, enhancement="random", enhanced_width=5, n_categories=3)
    with pytest.raises(ValueError, match=rf"^new_items: \[{name}\] knows items by more than"):
        Recommender(toy.checkpoint).add_items({"new": "red comb"})


@pytest.mark.parametrize(
    ("backbone", "more", "reason"),
    [
        ("LRURec", {}, "has a bias of each known item"),
        ("SASRec", {"score_term": "during"}, "has a vector of each known item"),
    ],
)
def test_a_model_with_more_by_item_than_its_table_takes_none(
    backbone, more, reason, small_data, settings
):
    write_texts()
    changes = {"enhancement": "text", "item_text": "title", "enhanced_dim": 8, "epochs": 1}
    experiment = run_experiment(
        f"TSLRec_{backbone}", small_data, config_dict=settings | changes | more, test=False
    )
    with pytest.raises(ValueError, match=f"new_items: .*{reason}"):
        Recommender(experiment.checkpoint).add_items({"new": "history"})


def test_a_file_of_new_items():
    path = Path("new.tsv")
    path.write_text("a\tred  comb\nb\tblue\n")
    assert read_new_items(path) == {"a": "red comb", "b": "blue"}
    path.write_text("a\tB00\tred\tcomb\nb\tB01\tblue\n")
    assert read_new_items(path) == {"a": "red comb", "b": "blue"}
    path.write_text("title:token_seq\titem_id:token\tclass:token\nred  comb\ta\ttool\nblue\tb\t\n")
    assert read_new_items(path, ["class", "title"]) == {"a": "tool, red comb", "b": "blue"}
    assert read_new_items(path, "title") == {"a": "red comb", "b": "blue"}
    with pytest.raises(ValueError, match=r"new_items: .* has no column \['genres'\]"):
        read_new_items(path, ["title", "genres"])
    path.write_text("item_id:token\tclass:token_seq\ttitle:token\na\tNA\tA|B\nb\tx|y\tNaN\n")
    assert read_new_items(path, between_words="|") == {"a": "A|B", "b": "x y"}  # as in training
    path.write_text("sku:token\ttitle:token_seq\na\tred comb\n")
    assert read_new_items(path, "title", "sku") == {"a": "red comb"}
    with pytest.raises(ValueError, match=r"new_items: .* has no column \[code\], .* Rename one"):
        read_new_items(path, "title", "code")
    for text, message in (
        ("a\tred\nb\tnull\n", r"line 2: \[b\] has no text"),
        ("a\tred\nb\n", r"line 2: \[b\] is not"),
        ("a\tx\na\ty\n", "line 2: .* 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_new_items(path)
