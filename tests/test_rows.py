"""A paradigm's rows of a comparison: what each is given, and what tells its results apart."""

from dataclasses import replace

import pytest

from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.paradigms.tslrec.augmentation.stages import (
    AugmentationStage,
    FrozenAugmentationStage,
)
from recbole_tslrec.recbole_bridge import paradigm
from recbole_tslrec.recbole_bridge.register import register_paradigm
from recbole_tslrec.recbole_bridge.trainers import TwoStageTrainer

GIVEN = {"item_norm": "l2", "fusion": "gate", "learning_rate": 0.001, "model": "GRU4Rec"}


@pytest.fixture
def row_with(monkeypatch):
    """Registers a row that sets keys; it is forgotten after the test."""

    def register(**settings) -> paradigm.Variant:
        monkeypatch.setattr(paradigm, "PARADIGMS", {**known})
        tslrec = paradigm.variants()["TSLRec"]
        row = replace(tslrec, name="Mine", settings={**(tslrec.settings or {}), **settings})
        register_paradigm(paradigm.Paradigm("Mine", "Mine.", {}, TwoStageTrainer, (), (row,)))
        return row

    known = dict(paradigm.PARADIGMS)
    return register


def cell_of(row) -> Cell:
    return Cell("tiny", "SASRec", row.name, 1, row.choose(GIVEN), "data")


def test_a_cell_is_told_by_what_its_row_sets(row_with):
    assert cell_of(row_with(fusion="sum")).id != cell_of(row_with(fusion="concat")).id
    assert cell_of(row_with(fusion="sum")).id == cell_of(row_with(fusion="sum")).id
    assert cell_of(row_with(hidden_size=32)).id != cell_of(row_with(hidden_size=64)).id


def test_a_rows_keys_stay_the_users_in_the_other_rows(row_with):
    mine = row_with(fusion="sum")
    assert "fusion" not in mine.choose(GIVEN)
    others = paradigm.variants()["TSLRec"].choose(GIVEN)
    assert others == {key: value for key, value in GIVEN.items() if key != "model"}
    assert "fusion" in paradigm.set_by_all([mine])
    assert "fusion" not in paradigm.set_by_all(paradigm.variants().values())


def test_a_model_of_recboles_is_not_hidden():
    for name in ("SASRec", "FMLPRec", "NARM"):
        one = paradigm.Paradigm("Hiding", "Hides.", {name: object}, TwoStageTrainer, ())
        with pytest.raises(ValueError, match=f"would hide RecBole's own {name}"):
            register_paradigm(one)


def test_what_trains_nothing_is_not_refused_for_what_training_needs(monkeypatch):
    checked = []
    monkeypatch.setattr(
        "recbole_tslrec.paradigms.tslrec.augmentation.stages.check_prompt", checked.append
    )
    FrozenAugmentationStage.check("config", None)  # a text has no keys that could be looked at
    AugmentationStage.check("config", None)  # the stage of fine-tuning before it looks at all
    assert checked == ["config"]
