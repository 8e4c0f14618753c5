"""What is kept of the items, on a real run of every stage."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from support.stages import STAGES, categories, stored

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.paradigms.tslrec import item_record as module
from recbole_tslrec.paradigms.tslrec.item_record import item_record, map_of, places
from recbole_tslrec.paradigms.tslrec.models import MODELS
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.pipeline import Pipeline


def finished_run(name, dataset, settings):
    """A pipeline and an (untrained) model that has taken what the pipeline makes."""
    config = Config(name, dataset, config_dict=settings)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    backbone = BACKBONES[name.partition("_")[2]]
    pipeline = Pipeline(config, train_data, valid_data, backbone, show_progress=False)
    model = MODELS[name](config, train_data._dataset).to(config["device"])
    model.prepare(pipeline)
    return pipeline, model


def test_the_record_of_tslrec(small_data, settings, monkeypatch):
    monkeypatch.setattr(module, "MAP_ITEMS", 20)
    pipeline, model = finished_run("TSLRec_SASRec", small_data, settings)
    record = item_record(pipeline, model)
    n_items = len(pipeline.tokens)
    assert record["item"].tolist() == pipeline.tokens
    assert record["training_count"].dtype == np.int32
    assert record["training_count"].sum() == len(pipeline.histories.items)
    assert record["category"].dtype == record["inferred"].dtype == np.int64
    assert np.array_equal(record["category"], categories(pipeline).item_categories())
    distribution = pipeline.stage(STAGES["augmentation"]).category_distributions().numpy()
    assert np.array_equal(record["inferred"], distribution.argmax(axis=1))
    assert np.array_equal(record["place"] == 1, record["inferred"] == record["category"])
    assert record["mean_gate"].shape == (n_items,)
    assert np.allclose(record["mean_gate"], model.mean_gate()[1:].numpy())
    for name in ("map_before", "map_after"):
        assert record[name].shape == (n_items, 2) and record[name].dtype == np.float32
        assert np.isfinite(record[name]).all(axis=1).sum() == 20
    assert np.array_equal(np.isnan(record["map_before"]), np.isnan(record["map_after"]))
    again = item_record(pipeline, model)
    assert all(np.array_equal(record[key], again[key], equal_nan=key[:3] == "map") for key in again)


def test_the_record_of_other_models(small_data, settings):
    pipeline, model = finished_run("TSLRec_SASRec", small_data, settings | {"fusion": "sum"})
    assert "mean_gate" not in item_record(pipeline, model)
    pipeline, model = finished_run("CI_SASRec", small_data, settings)
    assert set(item_record(pipeline, model)) == {"item", "training_count", "category"}
    control = settings | {"enhancement": "backbone_embedding"}
    with pytest.raises(ValueError, match=r"enhancement: \[backbone_embedding\]"):
        item_record(*finished_run("TSLRec_SASRec", small_data, control))


def test_a_map_of_items_that_are_all_alike():
    points = map_of(np.ones((30, 5), dtype=np.float32), np.arange(20))
    assert (points[:20] == 0).all() and np.isnan(points[20:]).all()


@given(arrays(np.float32, (3, 4), elements=st.sampled_from([0.0, 0.25, 0.5])), st.data())
def test_places_against_counting(distributions, data):
    category = np.array([data.draw(st.integers(0, 3)) for _ in range(3)])
    inferred, place = places(distributions, category)
    for row, own, first, at in zip(distributions, category, inferred, place, strict=True):
        before = [k for k in range(4) if row[k] > row[own] or (row[k] == row[own] and k < own)]
        assert at == len(before) + 1
        assert row[first] == max(row) and (at == 1) == (first == own)


def test_no_record_is_of_two_backbones(small_data, settings, monkeypatch):
    """The same settings give another backbone on another machine."""
    pipeline, model = finished_run("TSLRec_SASRec", small_data, settings)
    for stage in (stored(pipeline, "backbone"), stored(pipeline, "categories")):
        shutil.rmtree(stage.folder)
    train = BackboneStage.train
    monkeypatch.setattr(BackboneStage, "train", lambda *given: train(*given) + 0.01)
    again, model = finished_run("TSLRec_SASRec", small_data, settings)
    with pytest.raises(ValueError, match="augmentation: .* was made of other item embeddings"):
        item_record(again, model)
