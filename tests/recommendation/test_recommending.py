"""Recommendations are RecBole's own where it has any, and what is wrong is refused by name."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils.case_study import full_sort_topk
from support.letter_models import save_letter_model
from support.ready_made import ready_made_sequences
from trained import KEYS, N_ITEMS, make_toy, write_data

from recbole_tslrec import Recommender, write_page
from recbole_tslrec.recbole_bridge.paradigm import staged_models
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.register import _recbole_models
from recbole_tslrec.recbole_bridge.trained_model import known_model, read_data
from recbole_tslrec.recommendation.search import ProductIndex
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint

# They read embeddings of a knowledge graph from a file of their own.
WITH_FILES = {"GRU4RecKG", "KSR"}
# It reads items that each user did not have, which its own trainer draws.
WITH_DRAWN_ITEMS = {"DIEN"}
# It gives all items but those of the history one score, and ties may stand in any order.
WITH_TIES = {"Repeat"}
# Of the models that rerank one backbone stands for all: which it is makes no difference to them.
RERANKERS = ("LlamaRec", "LLMTRSR", "DELRec")
OTHERS = {
    name for name in staged_models() if name.startswith(RERANKERS) and not name.endswith("_SASRec")
}
# Of the others that have a backbone the paper's stand for all; RecBole's own are all here.
OF_THE_PAPER = ("GRU4Rec", "Caser", "SASRec", "FMLPRec")
OTHERS |= {name for name in staged_models() if "_" in name and not name.endswith(OF_THE_PAPER)}
MODELS = sorted(
    {*_recbole_models(), *staged_models(), "FMLPRec"}
    - WITH_FILES
    - WITH_DRAWN_ITEMS
    - WITH_TIES
    - OTHERS
)
OF_FEATURES = {"GRU4RecF", "SASRecF", "FDSA", "S3Rec"}
RANKED = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
K = 7
# Models that refuse histories of new users, as the guide lists them, by their backbones.
GUIDE = Path(__file__).parents[2] / "docs" / "use.md"
OF_KNOWN_USERS = re.search(r"for each user \(([^)]*)\)", GUIDE.read_text())[1].split(", ")


def keys_of(name: str, language_model_folder) -> dict:
    keys = {}
    if name in OF_FEATURES:
        keys["load_col"] = {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "class"],
        }
        keys |= {
            "selected_features": ["class"],
            "item_attribute": "class",
            "train_stage": "pretrain",
        }
    if name == "TransRec":  # it learns by BPR alone
        keys["train_neg_sample_args"] = {"distribution": "uniform", "sample_num": 1}
    if name in ("DIN", "DIEN"):
        keys["eval_args"] = RANKED
    if name.startswith("TSLRec"):
        keys |= {"enhancement": "random", "enhanced_width": 5, "n_categories": 3}
    if name.startswith("CI"):
        keys["n_categories"] = 3
    if name.endswith("CPR"):  # of more items than there are
        keys |= {"reranker_CAN_NUM": 5}
    if name == "E4SRec":
        keys |= {"llm": language_model_folder("llama"), "lora_r": 2}
    return keys


@pytest.fixture
def keys_of_reranker(language_model_folder, yes_no_model_folder, tmp_path):
    """Those of the models that rerank; none for others."""

    def keys(name: str) -> dict:
        few = {"lora_r": 2, "n_candidates": 5, "item_text": "movie_title", "candidates": "unseen"}
        if name.startswith("LlamaRec"):
            own = {"llamarec_items": "slots", "llamarec_head": "linear", "llamarec_max_history": 3}
            return few | own | {"llm": language_model_folder(), "llamarec_instruction": "predict"}
        if name.startswith("LLMTRSR"):
            return few | {"llm": yes_no_model_folder}
        if name.startswith("DELRec"):
            letters = save_letter_model(tmp_path / "letters", "gpt2")
            own = {"delrec_predictions": 3, "delrec_soft_vectors": 5, "delrec_max_history": 3}
            return few | own | {"llm": letters}
        return {}

    return keys


@pytest.mark.parametrize("name", MODELS)
def test_the_best_items_are_recboles(name, language_model_folder, keys_of_reranker):
    toy = make_toy(name, **keys_of(name, language_model_folder), **keys_of_reranker(name))
    test_data = toy.loaders[2]
    users = sorted(user for user in toy.histories if user != "lone")
    ids = test_data._dataset.token2id("user_id", users)
    test_data._dataset.inter_feat.sort(by="user_id")
    scores, items = full_sort_topk(np.sort(ids), toy.model, test_data, K)
    order = np.argsort(np.argsort(ids))
    recommender = Recommender(toy.checkpoint)
    found = recommender.recommend(users, k=K, seen=True, before="test")
    expected = test_data._dataset.id2token("item_id", items[order]).ravel().tolist()
    assert found["item"].tolist() == expected
    assert found["score"].tolist() == pytest.approx(
        scores[order].ravel().tolist(), rel=1e-4, abs=1e-5
    )
    assert found["user"].tolist() == np.repeat(users, K).tolist()
    given = {user: toy.histories[user] for user in users}
    if name.rpartition("_")[2] in OF_KNOWN_USERS:
        with pytest.raises(ValueError, match="^histories: .* has a vector for each user"):
            recommender.recommend(histories=given)
    else:
        of_histories = recommender.recommend(histories=given, k=K)
        of_users = recommender.recommend(users, k=K)
        assert of_histories["item"].tolist() == of_users["item"].tolist()


@pytest.fixture
def toy():
    return make_toy("SASRec")


def naive(toy, history: list[str], k: int, seen: bool = False) -> list[str]:
    """The best items of one history by RecBole's model alone, in python."""
    dataset = toy.loaders[0]._dataset
    ids = [dataset.token2id("item_id", item) for item in history]
    recent = ids[-6:]
    rows = {
        "user_id": torch.tensor([1]),
        "item_id_list": torch.tensor([recent + [0] * (6 - len(recent))]),
        "item_length": torch.tensor([len(recent)]),
    }
    with torch.no_grad():
        scores = toy.model.full_sort_predict(Interaction(rows)).ravel().tolist()
    out = {0, *(() if seen else ids)}
    best = sorted(
        (item for item in range(len(scores)) if item not in out), key=lambda i: -scores[i]
    )
    return [str(dataset.id2token("item_id", item)) for item in best[:k]]


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize(("before", "cut"), [(None, 0), ("test", 1), ("validation", 2)])
def test_histories_end_where_they_should_and_seen_items_are_out(toy, seen, before, cut):
    users = [user for user in toy.histories if user != "lone"]
    found = Recommender(toy.checkpoint).recommend(users, k=5, seen=seen, before=before)
    for user, rows in found.groupby("user"):
        history = toy.histories[user]
        expected = naive(toy, history[: len(history) - cut], 5, seen)
        assert rows["item"].tolist() == expected and rows["rank"].tolist() == list(
            range(1, len(expected) + 1)
        )


def test_who_has_seen_all_items_gets_none_and_who_has_one_item_is_no_exception(toy):
    recommender = Recommender(toy.checkpoint)
    everybody = recommender.recommend(k=4)
    assert set(everybody["user"]) == set(toy.histories) - {"all"}
    lone = everybody[everybody["user"] == "lone"]["item"].tolist()
    assert lone == naive(toy, ["i3"], 4) == recommender.recommend(["lone"], k=4)["item"].tolist()
    few = recommender.recommend(["u1"], k=N_ITEMS)
    assert len(few) == N_ITEMS - len(set(toy.histories["u1"]))


def test_a_history_given_as_tokens_is_as_good_as_a_user(toy):
    recommender = Recommender(toy.checkpoint)
    of_users = recommender.recommend(["u2", "u5"], k=3)
    pd.testing.assert_frame_equal(recommender.recommend("u2", k=np.int64(3)), of_users[:3])
    given = {user: toy.histories[user] for user in ("u2", "u5")}
    pd.testing.assert_frame_equal(recommender.recommend(histories=given, k=3), of_users)


@pytest.mark.parametrize(("candidates", "seen"), [("all", False), ("unseen", True)])
def test_what_is_left_out_is_no_candidate_of_a_reranker(candidates, seen, keys_of_reranker):
    keys = keys_of_reranker("LlamaRec_SASRec") | {"candidates": candidates}
    several = {"split": {"RS": [4, 2, 4]}, "order": "TO", "group_by": "user", "mode": "full"}
    toy = make_toy("LlamaRec_SASRec", **keys, eval_args=several, MAX_ITEM_LIST_LENGTH=2)
    recommender = Recommender(toy.checkpoint)
    model, asked = recommender._trained.model, []
    model.rerank = lambda rows, candidates: asked.append((rows, candidates)) or candidates.float()
    users = [user for user in toy.histories if user != "all"]
    recommender.recommend(users, k=3, seen=seen)
    ((rows, found),) = asked
    tokens = recommender._trained.dataset.field2id_token
    for user, items in zip(rows["user_id"].tolist(), found.tolist(), strict=True):
        history = toy.histories[tokens["user_id"][user]]
        assert len(items) == 5 and not {*tokens["item_id"][items]} & {*history}


def test_parts_and_blocks_change_nothing(toy, monkeypatch):
    whole = Recommender(toy.checkpoint).recommend(k=3)
    monkeypatch.setattr("recbole_tslrec.recommendation.recommender._USERS_AT_ONCE", 5)
    monkeypatch.setattr("recbole_tslrec.evaluation.blocks._ROWS_ON_CPU", 2)
    recommender = Recommender(toy.checkpoint)
    parts = list(recommender.tables(recommender.requests(), k=3))
    assert len(parts) == 3
    pd.testing.assert_frame_equal(
        pd.concat(parts, ignore_index=True), whole, check_exact=False, rtol=1e-5
    )


@pytest.mark.parametrize(
    "content",
    [
        "item_id:token\ttitle:token_seq\ni1\tone\ni1\ttwo\n",
        "item_id,title\ni1,one\n",
        "iid:token\ttitle:token_seq\ni1\tone\n",
    ],
)
def test_titles_that_cannot_be_read_are_an_error_only_if_asked_for(toy, content, caplog):
    Path("data/toy/toy.item").write_text(content)
    assert "title" not in Recommender(toy.checkpoint).recommend(["u1"], k=2)
    assert "titles: " in caplog.text and "Items are shown without titles." in caplog.text
    with pytest.raises(ValueError, match="^titles: "):
        Recommender(toy.checkpoint, titles="title")
    with pytest.raises(FileNotFoundError, match=r"^titles: there is no file \[data/toy/toy.item\]"):
        Path("data/toy/toy.item").unlink()
        Recommender(toy.checkpoint, titles="title")


def test_titles_that_may_not_be_read_are_an_error_only_if_asked_for(toy, caplog, monkeypatch):
    def refused(*given, **named):
        raise PermissionError(13, "Permission denied", "data/toy/toy.item")

    monkeypatch.setattr("recbole_tslrec.recommendation.titles.read_catalogue", refused)
    assert Recommender(toy.checkpoint).titles is None and "Permission denied" in caplog.text
    with pytest.raises(ValueError, match=r"^titles: .*Permission denied: 'data/toy/toy.item'"):
        Recommender(toy.checkpoint, titles="movie_title")


def test_titles_are_found_by_name_or_given(toy):
    found = Recommender(toy.checkpoint).recommend(["u1"], k=2)
    assert found["title"].tolist() == [titles()[item] for item in found["item"]]
    other = Recommender(toy.checkpoint, titles=["class", "movie_title"]).titles
    assert other["i7"] == "blue, " + titles()["i7"]
    Path("data/toy/toy.item").unlink()
    assert "title" not in Recommender(toy.checkpoint).recommend(["u1"], k=2)


def test_a_column_of_ids_that_is_called_a_name_holds_no_titles():
    columns = {"inter": ["user_id", "title_id", "timestamp"]}
    toy = make_toy("SASRec", {"item_id": "title_id"}, ITEM_ID_FIELD="title_id", load_col=columns)
    assert Recommender(toy.checkpoint).titles["i7"] == titles()["i7"]


def titles() -> dict[str, str]:
    lines = Path("data/toy/toy.item").read_text().splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[1] for line in lines}


# ---- an index ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "FMLPRec", "TSLRec_SASRec"])
@pytest.mark.parametrize("seen", [False, True])
def test_an_exact_index_finds_what_all_scores_do(name, seen, language_model_folder):
    toy = make_toy(name, **keys_of(name, language_model_folder))
    full, by_index = (
        Recommender(toy.checkpoint, index=index).recommend(k=6, seen=seen)
        for index in ("none", "exact")
    )
    pd.testing.assert_frame_equal(by_index, full, check_exact=False, rtol=1e-4)


def test_a_term_at_scoring_has_no_index_whatever_it_is_for_the_first_rows():
    keys = {"enhanced_width": 5, "score_weight": 2.0, "score_decay": 0.7}
    toy = make_toy("TSLRec_SASRec", score_term="during", **keys)
    recommender = Recommender(toy.checkpoint, index="exact")
    term = recommender._trained.model.scoring_term
    rows = torch.randn(N_ITEMS, 5)
    rows[[recommender.items.index(item) for item in ("i1", "i2")]] = 0  # without words
    term.set_rows(rows)
    with pytest.raises(ValueError, match="^index: .exact. finds items by a product"):
        recommender.recommend(histories={"new": ["i1", "i2"]}, k=4)


def test_an_index_leaves_out_what_each_row_has_seen():
    toy = make_toy("SASRec")
    users = toy.loaders[0]._dataset.inter_feat[:8]
    table = toy.model.item_embedding.weight
    random = torch.Generator().manual_seed(0)
    seen = torch.randint(0, N_ITEMS + 1, (8, 9), generator=random)
    with torch.no_grad():
        found, _ = ProductIndex(toy.model, table, approximate=False).best(users, N_ITEMS, seen)
    for own, left_out in zip(found.tolist(), seen.tolist(), strict=True):
        assert sorted(filter(None, own)) == sorted(set(range(1, N_ITEMS + 1)) - set(left_out))


def test_an_approximate_index_says_what_it_finds(toy, monkeypatch):
    monkeypatch.setattr("recbole_tslrec.recommendation.search._POINTS_A_LIST", 2)
    recommender = Recommender(toy.checkpoint, index="approximate")
    found = recommender.recommend(k=3)
    exact = Recommender(toy.checkpoint, index="none").recommend(k=3)
    both = found.merge(exact, on=["user", "item"])
    assert recommender.recall == pytest.approx(len(both) / len(exact))
    assert 0 < recommender.recall < 1


@pytest.mark.parametrize("name", ["Caser", "CORE", "NPE"])
def test_a_score_that_is_no_product_has_no_index(name):
    toy = make_toy(name)
    with pytest.raises(ValueError, match=rf"^index: .*\[{name}\] is none. Set index=none"):
        Recommender(toy.checkpoint, index="exact").recommend(["u1"])


# ---- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"users": ["u1", "nobody", "[PAD]"]}, r"users: 'nobody', '\[PAD\]' are not in .*\[toy\]"),
        ({"users": []}, "users: none is given"),
        ({"users": ["lone"], "before": "tomorrow"}, r"before: \[tomorrow\] is none of validation"),
        ({"users": ["u1"], "k": 0}, r"k: \[0\] is not a whole number from 1 to 20"),
        ({"users": ["u1"], "k": 21}, r"k: \[21\] is not a whole number from 1 to 20"),
        ({"users": ["u1"], "k": True}, r"k: \[True\]"),
        ({"users": ["u1"], "k": np.int64(21)}, r"k: \[21\] is not"),
        ({"histories": {"new": []}}, "histories: 'new' is empty"),
        ({"histories": {}}, "users: none is given"),
        ({"histories": {"new": "12"}}, "histories: 'new' is not a list of items"),
        ({"histories": {"new": 12}}, "histories: 'new' is not a list of items"),
        ({"histories": [["12"]]}, r"histories: \[list\] has no names. Give a dictionary"),
        ({"histories": {"1": ["i1"], 1: ["i2"]}}, "histories: two names are written alike"),
        ({"histories": {"new": ["i1", "i99"]}}, "histories: item 'i99' is not in"),
        (
            {"histories": {"new": ["i98", "i99"]}, "unknown_items": "skip"},
            "histories: 'new' is without any item",
        ),
        ({"histories": {"new": ["i1"]}, "unknown_items": "drop"}, r"unknown_items: \[drop\]"),
        ({"histories": {"new": ["i1"]}, "users": ["u1"]}, "histories: users or before are given"),
    ],
)
def test_bad_input_is_refused_by_name(toy, choices, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Recommender(toy.checkpoint).recommend(**choices)


def test_a_backbone_that_nobody_registered_is_named():
    with pytest.raises(
        ValueError, match=r"m.pth\] is of the model \[TSLRec_Mine\].*register_backbone"
    ):
        known_model("TSLRec_Mine", "m.pth")


def test_a_user_of_the_user_file_alone_has_no_history():
    lines = [f"{user}\t1" for user in (*write_data(), "stranger")]
    Path("data/toy/toy.user").write_text("\n".join(["user_id:token\tage:token", *lines]))
    columns = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age"]}
    recommender = Recommender(make_toy("SASRec", load_col=columns).checkpoint)
    for before, where in ((None, r"\."), ("test", " before the test rows")):
        with pytest.raises(
            ValueError, match=f"^users: 'stranger' is without an interaction{where}"
        ):
            recommender.recommend(["u1", "stranger"], before=before)


def test_of_a_user_whom_a_filter_took_out_the_filter_is_told():
    recommender = Recommender(make_toy("SASRec", user_inter_num_interval="[2,inf)").checkpoint)
    left = r"\[toy\] as its filters leave it \(user_inter_num_interval: \[2,inf\)\)\. "
    with pytest.raises(
        ValueError, match=f"^users: 'lone' is not in the data set {left}Give tokens"
    ):
        recommender.recommend(["lone"])
    with pytest.raises(ValueError, match=f"^histories: item 'i99' is not in the data set {left}"):
        recommender.recommend(histories={"new": ["i99"]})


def test_unknown_items_are_skipped_and_said_if_that_is_asked_for(toy, caplog):
    recommender = Recommender(toy.checkpoint)
    found = recommender.recommend(histories={"new": ["i1", "i99", "i2"]}, k=3, unknown_items="skip")
    assert found["item"].tolist() == naive(toy, ["i1", "i2"], 3)
    assert "item 'i99' is not in the data set [toy]: skipped" in caplog.text


@pytest.mark.parametrize("name", ["HGN", "FPMC"])
def test_a_model_of_known_users_knows_no_others(name):
    toy = make_toy(name)
    with pytest.raises(ValueError, match=rf"^histories: \[{name}\] has a vector for each user"):
        Recommender(toy.checkpoint).recommend(histories={"new": ["i1"]})


def test_a_model_that_reads_more_than_histories_is_refused():
    toy = make_toy("DIEN", eval_args=RANKED)
    with pytest.raises(ValueError, match=r"\[DIEN\] reads \[neg_item_id_list\]"):
        Recommender(toy.checkpoint).recommend(["u1"])


def test_a_checkpoint_of_another_data_set_is_refused(toy):
    write_data(seed=1)
    with pytest.raises(ValueError, match="was trained on the items in another order, or on others"):
        Recommender(toy.checkpoint)


def test_a_checkpoint_that_does_not_say_on_which_items_is_warned_of(toy, caplog):
    content = load_checkpoint(toy.checkpoint)
    content["config"]["trained_on"] = None
    write_checkpoint(content, "silent.pth")
    Recommender("silent.pth")
    assert "[silent.pth] does not say on which items it was trained" in caplog.text


def test_data_that_are_elsewhere_are_asked_for_by_data_path(toy, monkeypatch):
    monkeypatch.setattr("recbole.data.dataset.Dataset._download", pytest.fail)
    there = Recommender(toy.checkpoint).recommend(k=3)
    Path("data").rename("elsewhere")
    with pytest.raises(FileNotFoundError, match=r"^data_path: there is no \[data/toy/toy.inter\]"):
        Recommender(toy.checkpoint)
    found = Recommender(toy.checkpoint, data_path="elsewhere").recommend(k=3)
    pd.testing.assert_frame_equal(found, there)


def test_recboles_own_data_are_where_recbole_is(settings):
    config = Config("SASRec", "ml-100k", config_dict=settings | {"train_neg_sample_args": None})
    where = config["data_path"]
    config["data_path"] = "/on/another/machine/ml-100k"
    read_data(config, "saved.pth", data_path="anywhere")
    assert Path(config["data_path"]).samefile(where)


def test_saved_data_of_the_training_stay(toy):
    toy = make_toy("SASRec", save_dataset=True, save_dataloaders=True, checkpoint_dir="kept")
    files = {file: file.stat().st_mtime_ns for file in Path("kept").iterdir()}
    assert len(files) == 3
    Recommender(toy.checkpoint)
    assert {file: file.stat().st_mtime_ns for file in Path("kept").iterdir()} == files


def test_other_words_than_in_training_are_refused(keys_of_reranker, caplog):
    toy = make_toy("LLMTRSR_SASRec", **keys_of_reranker("LLMTRSR_SASRec"))
    Recommender(toy.checkpoint)
    content = load_checkpoint(toy.checkpoint)
    del content["state_dict"]["_extra_state"]["texts of the items"]
    write_checkpoint(content, "earlier.pth")
    file = Path("data/toy/toy.item")
    file.write_text(file.read_text().replace("large", "huge"))
    with pytest.raises(ValueError, match="item_text: the items' texts are not those that"):
        Recommender(toy.checkpoint)
    assert "item_text" not in caplog.text
    Recommender("earlier.pth")
    assert "item_text: these weights are of an earlier version" in caplog.text


def test_ready_made_sequences_are_refused_before_the_texts_are_read(settings):
    keys = ready_made_sequences() | {"enhancement": "text", "item_text": ["title"]}
    with pytest.raises(ValueError, match="benchmark_filename=.*not supported"):
        run_experiment("TSLRec_SASRec", "sess", config_dict=settings | keys)
    assert not list(Path("saved/tslrec").glob("*/text_vectors-*"))


def test_of_ready_made_sequences_histories_are_given():
    keys = ready_made_sequences()
    checkpoint = run_experiment("GRU4Rec", "sess", config_dict=KEYS | keys).checkpoint
    recommender = Recommender(checkpoint)
    assert len(recommender.recommend(histories={"new": ["i1", "i2"]}, k=3)) == 3
    for users in (None, ["s00"]):
        with pytest.raises(ValueError, match="^users: .*ready-made sequences .*Give histories"):
            recommender.recommend(users)
    with pytest.raises(ValueError, match="^explore: .*ready-made sequences"):
        write_page(checkpoint, "page.html")


def test_a_checkpoint_of_no_sequential_model_is_refused(small_data, settings):
    checkpoint = run_experiment("BPR", small_data, config_dict=settings).checkpoint
    with pytest.raises(ValueError, match=r"\[BPR\], which reads no histories"):
        Recommender(checkpoint)


def test_a_device_that_is_not_there_is_refused(toy):
    with pytest.raises(ValueError, match=r"^device: \[nowhere\] cannot be used here"):
        Recommender(toy.checkpoint, device="nowhere")
