"""A model is used on the data that it was trained with, unless its user says that they are new."""

from pathlib import Path

import pytest
import torch
from conftest import write_atomic
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer
from support.stages import pipeline_of, stored

from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.backbone import BackboneStage

FILE = Path("data/small/small.inter")
ALLOWED = {"allow_new_data": True}


def histories() -> dict[str, list[list[str]]]:
    by_user: dict[str, list[list[str]]] = {}
    for line in FILE.read_text().splitlines()[1:]:
        row = line.split("\t")
        by_user.setdefault(row[0], []).append(row)
    return by_user


def write(by_user: dict[str, list[list[str]]]) -> None:
    """With the items numbered as ever: all of them come first, as one user's history."""
    header = FILE.read_text().splitlines()[0]
    rows = [row for rows in by_user.values() for row in rows]
    FILE.write_text("\n".join([header, *map("\t".join, rows)]) + "\n")


@pytest.fixture
def data(small_data):
    """The small data set, with a user who has seen every item."""
    everything = {"all": [["all", f"i{item}", str(item)] for item in range(30)]}
    write(everything | histories())
    return small_data


def other_test_rows() -> None:
    by_user = histories()
    for rows in by_user.values():
        rows[-1][1] = "i0" if rows[-1][1] != "i0" else "i1"
    write(by_user)


def held_out_rows_taken_off() -> None:
    by_user = histories()
    write({u: rows[:-2] if u != "all" and len(rows) > 4 else rows for u, rows in by_user.items()})


def one_row_more_of_training() -> None:
    by_user = histories()
    by_user["u1"].insert(0, ["u1", "i3", "-1"])
    write(by_user)


CHANGES = {
    other_test_rows: "other test interactions than",
    held_out_rows_taken_off: "other training interactions and validation interactions and test",
    one_row_more_of_training: "other training interactions than",
}


def trained(model: str, data: str, settings: dict, **changes) -> str:
    given = settings | {"train_neg_sample_args": None, "enhancement": "random"} | changes
    return run_experiment(model, data, config_dict=given).checkpoint


def trainer_of(model: str, data: str, settings: dict):
    config = Config(model, data, config_dict=settings | {"train_neg_sample_args": None})
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
    return trainer, train_data, valid_data, test_data


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model", ["SASRec", "TSLRec_GRU4Rec", "NARM"])
def test_a_data_file_that_changed_is_refused(model, change, data, settings, capsys):
    checkpoint = trained(model, data, settings)
    load_data_and_model(checkpoint)
    change()
    with pytest.raises(ValueError, match=rf"{checkpoint}.*{CHANGES[change]}.*allow_new_data=True"):
        load_data_and_model(checkpoint)
    capsys.readouterr()
    load_data_and_model(checkpoint, allow_new_data=True)
    assert "Metrics say something only of held-out interactions that are newer" in (
        capsys.readouterr().err
    )


def test_a_folded_model_is_refused_too(data, settings):
    fold_checkpoint(Path(trained("CI_SASRec", data, settings)), Path("folded.pth"))
    load_data_and_model("folded.pth")
    held_out_rows_taken_off()
    with pytest.raises(ValueError, match="folded.pth.*other training"):
        load_data_and_model("folded.pth")


def test_an_evaluation_of_other_targets_is_refused(data, settings):
    checkpoint = trained("SASRec", data, settings)
    one_row_more_of_training()
    trainer, _, _, test_data = trainer_of("SASRec", data, settings)
    trainer.evaluate(test_data, model_file=checkpoint)  # the same targets, none of them trained on
    other_test_rows()
    trainer, _, valid_data, test_data = trainer_of("SASRec", data, settings)
    for held_out in (valid_data, test_data):
        with pytest.raises(ValueError, match="other test interactions.*allow_new_data"):
            trainer.evaluate(held_out, model_file=checkpoint)
    trainer, _, _, test_data = trainer_of("SASRec", data, settings | ALLOWED)
    trainer.evaluate(test_data, model_file=checkpoint)


def test_a_training_that_goes_on_with_other_data_says_so_ever_after(data, settings):
    checkpoint = trained("SASRec", data, settings)
    one_row_more_of_training()
    more = settings | {"epochs": 2}
    trainer, train_data, valid_data, _ = trainer_of("SASRec", data, more)
    trainer.resume_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="other training interactions.*allow_new_data"):
        trainer.fit(train_data, valid_data)
    trainer, train_data, valid_data, _ = trainer_of("SASRec", data, more | ALLOWED)
    trainer.resume_checkpoint(checkpoint)
    trainer._save_checkpoint(0)
    trainer.fit(train_data, valid_data)
    trainer._save_checkpoint(1)
    load_data_and_model(trainer.saved_model_file)  # the data of now
    given = settings | {"backbone_checkpoint": trainer.saved_model_file}
    with pytest.raises(ValueError, match="has more in it than the data it names"):
        stored(pipeline_of(given, data), "categories")


def test_a_checkpoint_of_before_is_taken_with_a_warning(data, settings, capsys):
    content = torch.load(trained("SASRec", data, settings), weights_only=True)
    del content["config"].final_config_dict["trained_on"]["test"]
    torch.save(content, "earlier.pth", pickle_protocol=2)
    capsys.readouterr()
    load_data_and_model("earlier.pth")
    assert "does not say what was held out for the test" in capsys.readouterr().err
    held_out_rows_taken_off()
    with pytest.raises(ValueError, match="other training interactions and validation"):
        load_data_and_model("earlier.pth")


def test_more_items_are_named_with_the_file(data, settings):
    checkpoint = trained("SASRec", data, settings)
    write({"new": [["new", f"j{item}", str(item)] for item in range(5)]} | histories())
    with pytest.raises(ValueError, match=rf"{checkpoint}.*the data that it was trained on"):
        load_data_and_model(checkpoint)


def test_rows_in_another_order_are_the_same_data(data, settings):
    checkpoint = trained("SASRec", data, settings)
    by_user = histories()
    last = by_user.pop("u3")
    write(by_user | {"u3": last})
    load_data_and_model(checkpoint)


def test_a_model_with_a_vector_a_user_needs_the_users_in_their_order(data, settings):
    checkpoint = trained("Caser", data, settings)
    load_data_and_model(checkpoint)
    by_user = histories()
    last = by_user.pop("u3")
    write(by_user | {"u3": last})
    with pytest.raises(ValueError, match=rf"{checkpoint}.*a vector a user.*other users'"):
        load_data_and_model(checkpoint)
    trainer, _, _, test_data = trainer_of("Caser", data, settings)
    with pytest.raises(ValueError, match="a vector a user"):
        trainer.evaluate(test_data, model_file=checkpoint)


def test_as_many_users_as_items_are_no_vectors_of_users(tmp_path, settings):
    rows = [(f"u{user}", f"i{(user + time) % 20}", time) for user in range(20) for time in range(6)]
    write_atomic(tmp_path / "data", "equal", rows)
    checkpoint = trained("SASRec", "equal", settings)
    write_atomic(tmp_path / "data", "equal", rows[:108] + rows[114:] + rows[108:114])
    load_data_and_model(checkpoint)


def test_p5_knows_users_by_number(data, settings):
    small = {"llm": "scratch", "sft_batch_positions": 2048, "sft_epochs": 1, "item_code": "random"}
    checkpoint = trained("P5", data, settings, **small)
    load_data_and_model(checkpoint)
    write(histories() | {"a_new": [["a_new", f"i{item}", str(item)] for item in range(1, 6)]})
    with pytest.raises(ValueError, match="a vector a user, a number or a summary.*other users'"):
        load_data_and_model(checkpoint, allow_new_data=True)


def write_classes(order, n_classes: int) -> None:
    lines = [f"i{item}\tc{item % n_classes}" for item in order]
    FILE.with_suffix(".item").write_text("\n".join(["item_id:token\tclass:token", *lines]) + "\n")


OF_FEATURES = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
    "selected_features": ["class"],
}


def test_values_of_features_in_another_order_are_refused(data, settings):
    write_classes(range(30), 7)
    checkpoint = trained("SASRecF", data, settings, **OF_FEATURES)
    load_data_and_model(checkpoint)
    write_classes(range(29, -1, -1), 7)
    with pytest.raises(ValueError, match="values of features in another order"):
        load_data_and_model(checkpoint)


def test_other_features_make_another_backbone(data, settings):
    def made_from(order, n_classes, **changes):
        write_classes(order, n_classes)
        pipeline = pipeline_of(settings | changes, data)
        return pipeline.stage(BackboneStage).made_from["data"]

    first = made_from(range(30), 7, **OF_FEATURES)
    assert first == made_from(range(29, -1, -1), 7, **OF_FEATURES)
    assert first != made_from(range(30), 6, **OF_FEATURES)
    assert "features" in first and "features" not in made_from(range(30), 7)


def test_nothing_but_true_and_false_allows(data, settings):
    with pytest.raises(ValueError, match=r"allow_new_data: \['yes'\] is not True or False"):
        Config("SASRec", data, config_dict=settings | {"allow_new_data": "yes"})
