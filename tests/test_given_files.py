"""What a user gives in place of a stage: taken only if nothing held out here can be in it."""

import pytest
import torch
from conftest import write_atomic
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer
from support.stages import STAGES, item_embeddings, item_vectors, pipeline_of, stored
from support.texts import write_texts
from test_pipeline import (
    POPULARITY,
    VALIDATED_BY_POPULARITY,
    histories,
    write_histories,
)

from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.trained_on import validation_fingerprint
from recbole_tslrec.store.files import fingerprint


def test_a_given_backbone_checkpoint(small_data, settings):
    """RecBole's own checkpoint serves as the backbone."""
    base = settings | {"train_neg_sample_args": None}
    checkpoint = run_experiment("SASRec", small_data, config_dict=base).checkpoint
    pipeline = pipeline_of(settings | {"backbone_checkpoint": checkpoint}, small_data)
    stored(pipeline, "augmentation")
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]["item_embedding.weight"][1:]
    assert torch.equal(item_embeddings(pipeline), trained)


def test_a_backbone_checkpoint_that_does_not_fit_is_refused(small_data, settings, tmp_path):
    base = settings | {"train_neg_sample_args": None}
    checkpoint = run_experiment("SASRec", small_data, config_dict=base).checkpoint
    given = settings | {"backbone_checkpoint": checkpoint}
    with pytest.raises(ValueError, match=r"model \[SASRec\], this experiment needs \[GRU4Rec\]"):
        stored(pipeline_of(given, small_data, "TSLRec_GRU4Rec"), "categories")
    write_histories(tmp_path, "one", histories())
    with pytest.raises(ValueError, match=r"dataset \[small\], this experiment needs \[one\]"):
        stored(pipeline_of(given, "one"), "categories")
    for other_data in (
        {"eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "group_by": "user"}},
        {"item_inter_num_interval": "[8,inf)"},
        {"user_inter_num_interval": "[8,inf)"},
    ):
        with pytest.raises(ValueError, match="trained on other.*held out here"):
            stored(pipeline_of(given | other_data, small_data), "categories")
    content = torch.load(checkpoint, weights_only=True)
    del content["config"].final_config_dict["trained_on"]
    torch.save(content, tmp_path / "silent.pth", pickle_protocol=2)
    with pytest.raises(ValueError, match="does not say on which items"):
        stored(
            pipeline_of(
                settings | {"backbone_checkpoint": str(tmp_path / "silent.pth")}, small_data
            ),
            "categories",
        )
    file = tmp_path / "data" / "small" / "small.inter"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    with pytest.raises(ValueError, match="trained on other items.*order of the file"):
        stored(pipeline_of(given, small_data), "categories")
    file.write_text("\n".join([header, *lines]) + "\n")
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["item_embedding.weight"][3, 0] = float("nan")
    torch.save(content, tmp_path / "nan.pth", pickle_protocol=2)
    with pytest.raises(ValueError, match="NaN or infinity for 1 items"):
        stored(
            pipeline_of(settings | {"backbone_checkpoint": str(tmp_path / "nan.pth")}, small_data),
            "categories",
        )
    (tmp_path / "cut.pth").write_bytes((tmp_path / "nan.pth").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut.pth"):
        stored(
            pipeline_of(settings | {"backbone_checkpoint": str(tmp_path / "cut.pth")}, small_data),
            "categories",
        )


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "SASRec", "E4SRec"])
def test_a_model_of_items_in_another_order_is_refused_wherever_it_is_read(
    model, small_data, settings, tmp_path
):
    """RecBole numbers items as they come in the file, and would take its rows for other items'."""
    given = settings | {"enhancement": "random", "train_neg_sample_args": None, "sft_epochs": 1}
    experiment = run_experiment(model, small_data, config_dict=given)
    checkpoint = experiment.checkpoint
    load_data_and_model(checkpoint)
    file = tmp_path / "data" / "small" / "small.inter"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    message = r"the items in another order.*\[small\].*its rows would be other items'"
    with pytest.raises(ValueError, match=message):
        load_data_and_model(checkpoint)
    config = Config(model, small_data, config_dict=given)
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(test_data, model_file=checkpoint)
    if model != "E4SRec":  # which resumes no checkpoint of RecBole's
        trainer.resume_checkpoint(checkpoint)
        with pytest.raises(ValueError, match=message):
            trainer.fit(train_data, valid_data)
    if model == "TSLRec_SASRec":
        with pytest.raises(ValueError, match=message):
            fold_checkpoint(checkpoint, tmp_path / "folded.pth")


def test_a_folded_model_is_no_backbone(small_data, settings, tmp_path):
    """What its enhanced embeddings were made from it does not say."""
    control = settings | {"enhancement": "random"}
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=control)
    fold_checkpoint(experiment.checkpoint, tmp_path / "folded.pth")
    load_data_and_model(str(tmp_path / "folded.pth"))
    given = settings | {"backbone_checkpoint": str(tmp_path / "folded.pth")}
    with pytest.raises(ValueError, match="folded.pth.* it is folded"):
        stored(pipeline_of(given, small_data), "categories")


def split(*ratios: float) -> dict:
    return {"eval_args": {"split": {"RS": list(ratios)}, "group_by": "user", "order": "TO"}}


def test_a_backbone_whose_epoch_was_chosen_by_what_is_tested_here_is_refused(tmp_path, settings):
    """Of a user's eight rows both train on the first four; the seventh is validated or tested."""
    write_histories(tmp_path, "one", histories())
    chosen_by_more = settings | {"train_neg_sample_args": None} | split(0.5, 0.375, 0.125)
    checkpoint = run_experiment("SASRec", "one", config_dict=chosen_by_more).checkpoint
    given = settings | split(0.5, 0.25, 0.25) | {"backbone_checkpoint": checkpoint}
    with pytest.raises(ValueError, match="trained on other validation interactions"):
        stored(pipeline_of(given, "one"), "categories")


@pytest.mark.parametrize("changes", [POPULARITY, VALIDATED_BY_POPULARITY])
def test_a_backbone_for_which_recbole_counted_test_interactions_is_refused(
    changes, small_data, settings
):
    given = settings | {"train_neg_sample_args": None} | changes
    checkpoint = run_experiment("SASRec", small_data, config_dict=given).checkpoint
    with pytest.raises(ValueError, match="by popularity, for which RecBole counts the test"):
        stored(pipeline_of(given | {"backbone_checkpoint": checkpoint}, small_data), "categories")


def test_enhanced_items_of_such_a_backbone_are_taken_if_asked_for(tmp_path, settings, caplog):
    write_histories(tmp_path, "one", histories())
    file = (
        pipeline_of(settings | split(0.5, 0.375, 0.125), "one").stage(STAGES["augmentation"]).file()
    )
    given = settings | split(0.5, 0.25, 0.25) | {"enhanced_items": str(file)}
    with pytest.raises(
        ValueError, match="other validation interactions.* set allow_new_data: True"
    ):
        item_vectors(pipeline_of(given, "one"))
    given = pipeline_of(given | {"allow_new_data": True}, "one")
    with caplog.at_level("WARNING"):
        item_vectors(given)
    assert "made from other validation interactions" in caplog.text


def test_enhanced_items_are_looked_at_before_a_backbone_is_trained(tmp_path, settings, small_data):
    given = settings | {"sft_epochs": 1, "tslrec_dir": "theirs"}
    file = str(pipeline_of(given, small_data).stage(STAGES["augmentation"]).file())
    write_histories(tmp_path, "one", histories())
    of_a_term = settings | {"enhanced_items": file, "fusion": "none", "score_term": "after"}
    with pytest.raises(ValueError, match=r"enhanced_items: .*was made for the data set \[small\]"):
        run_experiment("TSLRec_SASRec", "one", config_dict=of_a_term)
    write_texts()
    other = of_a_term | {"item_slots": "both", "item_text": "title"}
    with pytest.raises(ValueError, match=r"item_slots: \[both\].* Set item_slots: embedding"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=other)
    assert not (tmp_path / "saved" / "tslrec").exists()


def test_a_backbone_that_does_not_say_what_chose_its_epoch_is_taken_with_a_warning(
    small_data, settings, tmp_path, capsys
):
    base = settings | {"train_neg_sample_args": None}
    content = torch.load(
        run_experiment("SASRec", small_data, config_dict=base).checkpoint, weights_only=True
    )
    del content["config"].final_config_dict["trained_on"]["validation"]
    torch.save(content, tmp_path / "earlier.pth", pickle_protocol=2)
    given = settings | {"backbone_checkpoint": str(tmp_path / "earlier.pth")}
    stored(pipeline_of(given, small_data), "categories")
    assert "does not say what it was validated on" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["xyz", "longer"])
def test_the_only_validated_user_counts_as_a_token_and_not_letter_by_letter(
    item, tmp_path, settings
):
    rows = [(f"u{user}", f"i{user + place}", place) for user in range(19) for place in range(2)]
    rows += [("abc", token, place) for place, token in enumerate(("i0", "i1", item, "i2"))]
    write_atomic(tmp_path / "data", "alone", rows)
    config = Config("TSLRec_SASRec", "alone", config_dict=settings)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    assert len(valid_data._dataset) == 1
    found = validation_fingerprint(train_data._dataset, valid_data)
    assert found == fingerprint([["abc", item]])
    run_experiment("TSLRec_SASRec", "alone", config_dict=settings | {"n_categories": 2})
