"""Items alike, under each of the vectors that there are of an item."""

import numpy as np
import pytest
from support.texts import write_texts
from trained import N_ITEMS, make_toy

from recbole_tslrec import Recommender
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.backbone import BackboneStage


def naive(vectors: np.ndarray, tokens: list[str], item: str, k: int) -> list[str]:
    at = tokens.index(item)
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[at] / lengths / lengths[at]
    order = [row for row in np.argsort(-cosines) if row != at]
    return [tokens[row] for row in order[:k]]


@pytest.mark.parametrize("name", ["SASRec", "CI_SASRec", "BERT4Rec", "STAMP"])
def test_neighbours_under_the_item_table(name):
    toy = make_toy(name, n_categories=3)
    recommender = Recommender(toy.checkpoint)
    table = toy.model.item_embedding.weight[1 : N_ITEMS + 1].detach().numpy()
    found = recommender.similar(["i1", "i7"], k=4)
    for item in ("i1", "i7"):
        rows = found[found["item"] == item]
        assert rows["neighbour"].tolist() == naive(table, recommender.items, item, 4)
        assert rows["title"].tolist() == [recommender.titles[one] for one in rows["neighbour"]]


def test_neighbours_are_those_of_the_table_that_scores():
    toy = make_toy("HGN")
    recommender = Recommender(toy.checkpoint)
    table = toy.model.item_embedding_for_prediction.weight[1:].detach().numpy()
    found = recommender.similar("i7", k=4)["neighbour"].tolist()
    assert found == naive(table, recommender.items, "i7", 4)


def test_before_and_after_the_language_model(small_data, settings):
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    pipeline = experiment.trainer.pipeline
    recommender = Recommender(experiment.checkpoint)
    for under, vectors in (
        ("e_v", pipeline.stage(BackboneStage).item_embeddings()),
        ("h_v", pipeline.stage(AugmentationStage).enhanced_embeddings()),
    ):
        found = recommender.similar("i3", k=5, under=under)["neighbour"].tolist()
        assert found == naive(vectors.numpy(), recommender.items, "i3", 5)
    pipeline.stage(AugmentationStage).stored.folder.rename("elsewhere")
    with pytest.raises(ValueError, match=r"^The stage augmentation of .* is not kept"):
        recommender.similar("i3", under="h_v")
    assert len(recommender.similar("i3", under="e_v")) == 10


def test_rare_words_in_common_make_titles_alike():
    recommender = Recommender(make_toy("SASRec").checkpoint)
    recommender.titles |= {
        "i4": "The shampoo",
        "i5": "The small comb",
        "i6": "A shampoo for dry hair",
    }
    found = recommender.similar("i4", k=1, under="text")
    assert found["neighbour"].tolist() == ["i6"] and 0 < found["score"][0] < 1


def test_items_without_a_word_in_common_are_not_alike():
    recommender = Recommender(make_toy("SASRec").checkpoint)
    recommender.titles = {item: f"红色的小汽车{item}" for item in recommender.items}
    recommender.titles["i5"] = recommender.titles["i4"]
    assert recommender.similar("i4", k=5, under="text")["neighbour"].tolist() == ["i5"]
    recommender.titles = dict.fromkeys(recommender.items, "A")
    with pytest.raises(ValueError, match=r"^under: \[text\] finds no word of two letters"):
        recommender.similar("i4", under="text")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"items": []}, "items: none is given"),
        ({"items": "i99"}, r"items: 'i99' is not in the data set \[toy\]"),
        (
            {"items": "i1", "under": "taste"},
            r"under: \[taste\] is none of item_table, e_v, h_v, text",
        ),
        ({"items": "i1", "under": "h_v"}, r"under: \[SASRec\] has no \[h_v\]"),
        ({"items": "i1", "under": "e_v"}, r"under: \[SASRec\] has no \[e_v\]"),
        ({"items": "i1", "k": N_ITEMS}, r"k: .*1 to 19, the number of other items"),
    ],
)
def test_what_is_not_there_is_refused(choices, message):
    recommender = Recommender(make_toy("SASRec").checkpoint)
    with pytest.raises(ValueError, match=f"^{message}"):
        recommender.similar(**choices)


def test_no_titles_no_words():
    recommender = Recommender(make_toy("SASRec").checkpoint)
    recommender.titles = None
    with pytest.raises(ValueError, match=r"^under: \[text\] needs the items' texts"):
        recommender.similar("i1", under="text")


def test_vectors_of_words_are_of_the_words_of_training(small_data, settings):
    write_texts()
    changes = {"enhancement": "tfidf", "item_text": ["title"]}
    recommender = Recommender(
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes).checkpoint
    )
    assert len(recommender.similar("i3", k=5, under="h_v")) == 5
    write_texts(seed=1)
    with pytest.raises(ValueError, match="^under: the .item file has other texts than those that"):
        recommender.similar("i3", under="h_v")
