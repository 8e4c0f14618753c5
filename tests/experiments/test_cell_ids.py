"""What makes another cell: all that can change its result, and nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.experiments.report.results import Results
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid, _EarlyChecks
from recbole_tslrec.paradigms.rules.models import SeenPenalty
from recbole_tslrec.paradigms.tslrec.augmentation.late_fusion import HistorySimilarity
from recbole_tslrec.paradigms.tslrec.augmentation.tuned_texts import TextTuningStage
from recbole_tslrec.recbole_bridge.config_files import own_value
from recbole_tslrec.recbole_bridge.paradigm import variants
from recbole_tslrec.store.files import fingerprint

TERMS = {
    *("TextTerm", "tfidf_term", "shuffled_text_term", "shuffled_tfidf_term"),
    *("TunedTextTerm", "shuffled_tuned_text_term"),
    *("TextTfidfTerm", "shuffled_text_tfidf_term", "TunedTextTfidfTerm"),
}


def cell(variant: str, texts: str = "", **settings) -> Cell:
    chosen = variants()[variant].choose(settings)
    return Cell("small", "SASRec", variant, 1, chosen, "0", texts)


@pytest.mark.parametrize(
    ("variant", "settings", "unread"),
    [
        ("TSLRec", {}, {"item_text": "title", "item_text_tokens": 8, "item_text_missing": "no"}),
        ("frozen_lm", {}, {"item_text": "title", "item_text_tokens": 8}),
        ("E4SRec", {}, {"item_text": "title", "item_text_tokens": 8}),
        ("DELRec", {"delrec_items": "slots"}, {"item_text": "title"}),
        ("LlamaRec", {"llamarec_items": "slots"}, {"item_text": "title", "item_text_tokens": 8}),
        ("TSLRec", {"score_term": "after"}, {"score_weight": 2.0, "score_decay": 0.5}),
        ("TSLRec", {}, {"score_weight": 2.0, "score_map": "contrastive"}),
        ("TSLRec", {"fusion": "none", "score_term": "after"}, {"enhanced_scale": 2.0}),
        ("tfidf", {"item_text": "title"}, {"item_text_tokens": 8}),
        ("tfidf_term", {"item_text": "title"}, {"item_text_tokens": 8}),
    ],
)
def test_a_key_that_is_not_read_makes_no_other_cell(variant, settings, unread):
    without = cell(variant, texts="", **settings)
    for key, value in unread.items():
        given = cell(variant, texts="", **settings, **{key: value})
        assert given.id == without.id and given.configuration == without.configuration, key
    if "item_text" in unread:
        assert cell(variant, texts="of the .item file", **settings, **unread).id == without.id


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("TSLRec", {"item_slots": "text"}),
        ("TSLRec", {"item_prompt": "text"}),
        ("frozen_lm", {"item_slots": "both"}),
        ("E4SRec", {"item_prompt": "both"}),
        ("DELRec", {"delrec_items": "text"}),
        ("LlamaRec", {"llamarec_items": "text"}),
        ("TextTerm", {}),
        ("text", {}),
    ],
)
def test_texts_count_where_they_are_read(variant, settings):
    given = settings | {"item_text": "title"}
    ids = {cell(variant, texts, **given).id for texts in ("one file", "another")}
    ids.add(cell(variant, "one file", **given, item_text_tokens=8).id)
    ids.add(cell(variant, "one file", **given | {"item_text": "brand"}).id)
    assert len(ids) == 4


def test_a_term_is_of_the_grid_among_which_validation_chooses(monkeypatch):
    rows = [name for name, row in variants().items() if row.model.startswith("TSLRec_")]
    after = {"item_text": "title", "score_term": "after"}

    def ids(**settings) -> dict[str, str]:
        return {name: cell(name, **settings).id for name in rows}

    with_term, without = ids(**after), ids(item_text="title")
    monkeypatch.setattr(HistorySimilarity, "grid", HistorySimilarity.grid[:-1])
    assert not with_term.items() & ids(**after).items()
    changed = {name for name, id in ids(item_text="title").items() if id != without[name]}
    assert changed == TERMS


def test_who_changes_the_penalties_gives_their_row_another_results_of():
    assert fingerprint(SeenPenalty.grid)[:8] == "0408a8b3"


def test_a_fusion_that_was_changed_is_told_by_the_version():
    changed = {
        fusion: variants()["random"].results_of({"fusion": fusion, "score_term": "none"})
        for fusion in ("gate", "sum", "alone", "none", "start", "null_space")
    }
    kept = {fusion for fusion, version in changed.items() if version == "0.1.0"}
    assert kept == {"gate", "sum", "alone", "none"}


def test_words_in_the_prompts_are_told_by_the_version():
    for variant in ("TSLRec", "frozen_lm"):
        read = {"item_prompt": "slot", "fusion": "gate", "score_term": "none"}
        version = variants()[variant].results_of
        assert version(read | {"item_slots": "embedding"}) == "0.1.0"
        assert version(read | {"item_slots": "text"}) == "0.1.0, cold items like others"
        assert version(read | {"item_slots": "both"}) == "0.1.0, cold items with words like others"


def test_a_rule_that_trains_nothing_is_not_asked_how(small_data, settings, capsys):
    ways = {"train_batching": "sequence", "sampled_loss": "softmax", "sampled_negatives": 4}
    grid = Grid((small_data,), ("GRU4Rec",), ("Base", "repeat"), settings=settings | ways)
    assert not {*ways} & grid.groups()[1].settings.keys()
    assert "will fail" not in capsys.readouterr().out
    assert cell("repeat", **ways).id == cell("repeat").id


def test_the_id_is_of_the_files_that_the_cells_own_model_loads(settings):
    given = {key: value for key, value in settings.items() if key not in ("data_path", "load_col")}
    grid = Grid(("ml-100k",), ("SASRec", "SASRecF"), ("Base", "CI"), settings=given)
    found, turned = grid.groups(), replace(grid, backbones=("SASRecF", "SASRec")).groups()
    assert [one.id for one in found] == [one.id for one in turned[2:] + turned[:2]]
    plain, with_items = found[1], found[3]
    assert plain.data == plain.files["inter"] == with_items.files["inter"] != with_items.data
    assert [*with_items.files] == ["inter", "item"]
    assert found[2].id == with_items.base().id


def test_a_backbone_whose_own_loss_takes_negatives_is_given_them(small_data, settings):
    for backbone, drawn in (("TransRec", True), ("SASRec", False)):
        for variant in ("Base", "CI", "repeat"):
            of_loader = {}
            for worker in (0, 2):
                chosen = variants()[variant].choose(settings | {"worker": worker})
                one = Cell(small_data, backbone, variant, 1, chosen, "0")
                of_loader[one.id] = one.config()["train_neg_sample_args"]["distribution"]
            draws = drawn and variant != "repeat"
            assert len(of_loader) == (2 if draws else 1), (backbone, variant)
            assert {*of_loader.values()} == {"uniform" if draws else "none"}


@pytest.mark.parametrize("key", ["worker", "eval_batch_size"])
def test_who_draws_once_a_batch_draws_otherwise_in_others(key):
    """BERT4Rec's masks, whose transform its own yaml has."""
    for backbone, n_ids in (("BERT4Rec", 2), ("SASRec", 1)):
        cells = [Cell("small", backbone, "Base", 1, {key: value}, "0") for value in (2, 16)]
        assert len({cell.id for cell in cells}) == n_ids


def test_every_backbone_has_a_loss_of_its_own_in_a_yaml():
    found = {
        name: own_value(name, "loss_type") for name, one in BACKBONES.items() if one.code is None
    }
    assert found == {name: "BPR" if name == "TransRec" else "CE" for name in found}


@pytest.mark.parametrize("column", ["title", "item_text"])
def test_two_ways_to_write_a_value_make_one_cell(column):
    def ids(**given) -> set[str]:
        return {cell(variant, "a file", **given).id for variant in ("TextTerm", "tfidf")}

    assert ids(item_text=column) == ids(item_text=[column]) == ids(item_text=(column,))
    assert not ids(item_text=column) & ids(item_text=[column, "brand"])
    spelt = [{"valid_metric": f"{name}@10"} for name in ("NDCG", "ndcg", "Ndcg")]
    assert ids(**spelt[0]) == ids(**spelt[1]) == ids(**spelt[2]) != ids(valid_metric="NDCG@5")


def test_an_early_check_is_remembered_with_all_that_it_looks_at(language_model_folder, monkeypatch):
    checked = []
    look = classmethod(lambda cls, config, n_items: checked.append(config["llm"]))
    monkeypatch.setattr(TextTuningStage, "check", look)
    models = [language_model_folder(kind) for kind in ("llama", "gpt2")]
    cells = [cell("TunedTextTerm", llm=llm, item_text="title") for llm in (*models, models[0])]
    checks = _EarlyChecks(())
    for one in cells:
        checks.check(one, one.config())
    assert checked == models
    searched = _EarlyChecks({"llm"})  # which one it will be is not known yet
    searched.check(cells[0], cells[0].config())
    assert checked == models


def test_another_backbone_than_the_base_of_the_table_is_said(small_data, settings, capsys):
    grid = Grid((small_data,), ("GRU4Rec",), ("Base",), (2020,), settings=settings)
    compare(grid, "results")
    shutil.rmtree("results/checkpoints")  # as of a packed folder
    compare(replace(grid, variants=("Base", "CI")), "results")
    said = "CI_GRU4Rec, seed 2020: Base is finished, and its trained model is not in"
    told = capsys.readouterr().out
    assert said in told and "and all lines with that cell as backbone_from" in told
    (note,) = Results(Path("results")).notes
    assert "CI: the backbone of seed 2020 is another training than the Base of this report" in note
