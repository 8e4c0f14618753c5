"""The stage of candidates: what it is made from, whose rows it has, and the model it reads."""

import shutil
from pathlib import Path

import pytest
import torch
from support.stages import pipeline_of
from test_pipeline import (
    POPULARITY,
    VALIDATED_BY_POPULARITY,
    histories,
    write_histories,
    write_with_other_held_out,
)

from recbole_tslrec.evaluation.candidates import scores, top_items
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.candidates import CandidatesStage
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.trained_backbone import trained_backbone
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint


@pytest.fixture
def settings(settings):
    return settings | {"n_candidates": 5, "candidates": "all", "hidden_size": 16}


def by_token(pipeline: Pipeline) -> list[tuple]:
    """User, and the candidates' tokens, of every training row."""
    dataset = pipeline.dataset
    users = dataset.field2id_token[dataset.uid_field][dataset.inter_feat[dataset.uid_field].numpy()]
    items = dataset.field2id_token[dataset.iid_field]
    found = pipeline.stage(CandidatesStage).row_candidates()
    rows = [tuple(items[row]) for row in found.numpy()]
    return sorted(zip(users.tolist(), rows, strict=True), key=lambda row: row[0])


@pytest.mark.parametrize("kind", ["all", "unseen"])
@pytest.mark.parametrize(
    ("held_out", "changes"),
    [
        (2, {"epochs": 1}),
        (2, {"epochs": 1} | POPULARITY),
        (1, {"epochs": 4}),
        (1, {"epochs": 4} | VALIDATED_BY_POPULARITY),
    ],
)
def test_nothing_held_out_enters_the_candidates(held_out, changes, kind, tmp_path, settings):
    """Other held-out items at random: the training rows' candidates stay, bit for bit."""
    users = write_with_other_held_out(tmp_path, held_out)
    given = settings | changes | {"candidates": kind}
    one, other = (by_token(pipeline_of(given, name)) for name in ("one", "other"))
    assert len(one) == 30 * 6 and one == other
    before: dict[str, int] = {}
    had = []
    for user, row in one:
        before[user] = before.get(user, 0) + 1
        had.append(not set(row).isdisjoint(users[user][: before[user]]))
    assert any(had) == (kind == "all")


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec", "Caser", "FMLPRec"])
def test_they_are_the_top_of_the_trained_model(backbone, small_data, settings):
    pipeline = pipeline_of(settings, small_data, f"TSLRec_{backbone}")
    model = trained_backbone(pipeline)
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    table = getattr(model, pipeline.backbone.item_table).weight
    assert torch.equal(table[1:], pipeline.stage(BackboneStage).item_embeddings())
    rows = pipeline.dataset.inter_feat
    found = pipeline.stage(CandidatesStage).row_candidates()
    assert found.dtype == torch.int64 and found.min() > 0
    with torch.no_grad():
        assert torch.equal(found, top_items(scores(model, rows), 5))


def test_what_makes_them_anew(small_data, settings):
    stage = pipeline_of(settings, small_data).stage(CandidatesStage)
    first = stage.row_candidates()
    assert stage.stored.notes == {"item_embeddings": stage.backbone.content_hash}
    for change in ({"n_candidates": 4}, {"candidates": "unseen"}, {"seed": 5}):
        other = pipeline_of(settings | change, small_data).stage(CandidatesStage)
        assert other.made_from != stage.made_from, change
        # The keys of candidates leave the backbone as it is.
        same = other.made_from["backbone"] == stage.made_from["backbone"]
        assert same == ("seed" not in change)
    again = pipeline_of(settings | {"n_categories": 5}, small_data).stage(CandidatesStage)
    assert torch.equal(again.row_candidates(), first) and again.stored.reused
    assert again.content_hash == stage.content_hash
    with pytest.raises(ValueError, match=r"n_candidates: \[31\] is more than the 30 items"):
        pipeline_of(settings | {"n_candidates": 31}, small_data).check([CandidatesStage])


def test_fewer_items_than_candidates_are_filled_up_with_padding(small_data, settings):
    given = settings | {"candidates": "unseen", "n_candidates": 30}
    found = pipeline_of(given, small_data).stage(CandidatesStage).row_candidates()
    assert (found[:, -1] == 0).all() and (found[:, 0] > 0).all()


def test_another_order_of_the_file(tmp_path, settings):
    """Internal ids are others; the stages are found, and mean the same users and items."""
    users = histories()
    write_histories(tmp_path, "one", users)
    first = pipeline_of(settings, "one")
    expected = by_token(first)
    write_histories(tmp_path, "one", users, order=list(reversed(users)))
    again = pipeline_of(settings, "one")
    assert again.tokens != first.tokens
    assert by_token(again) == expected
    assert all(stage.reused for stage in again.used)
    shutil.rmtree(again.stage(CandidatesStage).stored.folder)
    made_again = pipeline_of(settings, "one")
    assert by_token(made_again) == expected
    assert [stage.name for stage in made_again.used if not stage.reused] == ["candidates"]


def test_a_model_with_rows_for_users_is_refused_in_another_order(tmp_path, settings):
    users = histories()
    write_histories(tmp_path, "one", users)
    pipeline_of(settings, "one", "TSLRec_Caser").stage(BackboneStage).item_embeddings()
    write_histories(tmp_path, "one", users, order=list(reversed(users)))
    with pytest.raises(ValueError, match=r"another order, and \[user_embedding.weight\].*Remove"):
        trained_backbone(pipeline_of(settings, "one", "TSLRec_Caser"))
    # The items come in the same order, and two users change places.
    users |= {"u28": ["i0"] * 9, "u29": ["i1"] * 9}
    write_histories(tmp_path, "two", users)
    one = pipeline_of(settings, "two", "TSLRec_Caser")
    one.stage(BackboneStage).item_embeddings()
    swapped = [*list(users)[:28], "u29", "u28"]
    write_histories(tmp_path, "two", users, order=swapped)
    other = pipeline_of(settings, "two", "TSLRec_Caser")
    assert other.tokens == one.tokens and other.stage(BackboneStage).stored.reused
    with pytest.raises(ValueError, match="another order"):
        trained_backbone(other)


def test_a_given_model_with_rows_for_users_needs_the_users_it_was_trained_on(tmp_path, settings):
    """The items keep their order, and two users change places."""
    users = histories() | {"u28": ["i0"] * 9, "u29": ["i1"] * 9}
    swapped = [*list(users)[:28], "u29", "u28"]
    write_histories(tmp_path, "two", users)
    base = settings | {"train_neg_sample_args": None}
    given = {
        model: settings
        | {"backbone_checkpoint": run_experiment(model, "two", config_dict=base).checkpoint}
        for model in ("Caser", "SASRec")
    }
    one = pipeline_of(given["Caser"], "two", "TSLRec_Caser")
    trained_backbone(one)
    silent = load_checkpoint(given["Caser"]["backbone_checkpoint"])
    del silent["config"]["trained_on"]["users"]
    write_checkpoint(silent, tmp_path / "silent.pth")
    earlier = settings | {"backbone_checkpoint": str(tmp_path / "silent.pth")}
    with pytest.raises(ValueError, match=r"silent.pth\] has a vector a user and does not say of"):
        trained_backbone(pipeline_of(earlier, "two", "TSLRec_Caser"))
    write_histories(tmp_path, "two", users, order=swapped)
    other = pipeline_of(given["Caser"], "two", "TSLRec_Caser")
    assert other.tokens == one.tokens
    with pytest.raises(ValueError, match="a vector a user.*its rows would be other users'"):
        trained_backbone(other)
    trained_backbone(pipeline_of(given["SASRec"], "two", "TSLRec_SASRec"))  # which has none


def test_a_given_backbone_is_read_from_its_file(small_data, settings, tmp_path):
    base = settings | {"train_neg_sample_args": None}
    checkpoint = run_experiment("SASRec", small_data, config_dict=base).checkpoint
    given = settings | {"backbone_checkpoint": checkpoint}
    pipeline = pipeline_of(given, small_data)
    stage = pipeline.stage(CandidatesStage)
    found = stage.row_candidates()
    model = trained_backbone(pipeline)
    state = load_checkpoint(checkpoint)
    assert all(torch.equal(state["state_dict"][name], w) for name, w in model.state_dict().items())
    with torch.no_grad():
        expected = top_items(scores(model, pipeline.dataset.inter_feat), 5)
    assert torch.equal(found, expected)

    # The same item embeddings in another model are another retriever.
    state["state_dict"]["LayerNorm.weight"] *= -1
    write_checkpoint(state, tmp_path / "other.pth")
    other = pipeline_of(given | {"backbone_checkpoint": str(tmp_path / "other.pth")}, small_data)
    assert other.stage(BackboneStage).fingerprint == stage.backbone.fingerprint
    assert not torch.equal(other.stage(CandidatesStage).row_candidates(), found)
    # Where the file lies does not matter.
    shutil.copy(checkpoint, tmp_path / "copy.pth")
    copy = pipeline_of(given | {"backbone_checkpoint": str(tmp_path / "copy.pth")}, small_data)
    assert copy.stage(CandidatesStage).made_from == stage.made_from

    longer = pipeline_of(given | {"MAX_ITEM_LIST_LENGTH": 9}, small_data)
    with pytest.raises(ValueError, match=r"at most \[6\] items.*MAX_ITEM_LIST_LENGTH: 6"):
        trained_backbone(longer)


def test_they_are_not_used_beside_a_backbone_made_again(small_data, settings, monkeypatch):
    first = pipeline_of(settings, small_data)
    stage = first.stage(CandidatesStage)
    stage.row_candidates()
    shutil.rmtree(first.stage(BackboneStage).stored.folder)
    pipeline_of(settings, small_data).stage(CandidatesStage).row_candidates()  # not needed
    monkeypatch.setattr(BackboneStage, "train", lambda *_: torch.randn(len(first.tokens), 16))
    again = pipeline_of(settings, small_data)
    again.stage(BackboneStage).item_embeddings()
    with pytest.raises(ValueError, match="candidates-.*made of other item embeddings.*Remove"):
        again.stage(CandidatesStage).row_candidates()


def test_an_altered_file_is_refused(small_data, settings):
    stage = pipeline_of(settings, small_data).stage(CandidatesStage)
    file = Path(stage.stored.folder) / "candidates.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match="candidates.safetensors.*altered.*Remove"):
        pipeline_of(settings, small_data).stage(CandidatesStage).row_candidates()
