"""Short ways to the stages of an experiment."""

from __future__ import annotations

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from torch import Tensor

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.paradigms.tslrec.augmentation.controls import vectors_of
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import FineTuningStage
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.store.store import StoredResult

STAGES = {
    stage.name: stage
    for stage in (BackboneStage, CategoriesStage, FineTuningStage, AugmentationStage)
}


def pipeline_of(settings: dict, dataset: str, model: str = "TSLRec_SASRec") -> Pipeline:
    """The pipeline of an experiment; no stage is made yet."""
    config = Config(model, dataset, config_dict=settings)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    backbone = BACKBONES[model.partition("_")[2]]
    return Pipeline(config, train_data, valid_data, backbone, show_progress=False)


def stored(pipeline: Pipeline, name: str) -> StoredResult:
    """A stage's result, found or made."""
    return pipeline.stage(STAGES[name]).stored


def categories(pipeline: Pipeline) -> CategoriesStage:
    return pipeline.stage(CategoriesStage)


def item_embeddings(pipeline: Pipeline) -> Tensor:
    """e_v."""
    return pipeline.stage(BackboneStage).item_embeddings()


def item_vectors(pipeline: Pipeline) -> Tensor:
    """h^v, or what stands in its place."""
    return vectors_of(pipeline.config).make(pipeline)
