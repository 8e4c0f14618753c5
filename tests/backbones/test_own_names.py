"""A user's backbone may have attributes of any name; one that a mixin of ours has, too, is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recbole.config import Config
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from support.small_backbones import model_of
from torch import nn

from recbole_tslrec.backbones.registry import BACKBONES, Backbone, backbone_of
from recbole_tslrec.paradigms.rules.models import PenalisedBackbone
from recbole_tslrec.paradigms.tslrec.models.norm import NormalisedItemTable
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels

pytestmark = pytest.mark.unit
KINDS = {"Norm": NormalisedItemTable, "SeenPenalty": PenalisedBackbone, "TSLRec": EnhancedItemTable}


class Mine(GRU4Rec):
    """A user's model with one attribute more, which a test gives."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.give()

    def give(self):
        self.head = nn.Linear(8, 8)


class WithMethod(Mine):
    def prepare(self):
        """Ours would stand in its place."""


def made(variant: str, backbone: Backbone):
    models = BackboneModels(__name__, KINDS)
    models.add_backbone(backbone)
    settings = {"embedding_size": 8, "hidden_size": 8, "gpu_id": "", "train_neg_sample_args": None}
    config = Config("Norm_GRU4Rec", "ml-100k", config_dict=settings)
    return models[f"{variant}_{backbone.name}"](config, SimpleNamespace(num=lambda field: 30))


def layer(name: str):
    return lambda self: setattr(self, name, nn.Linear(8, 8))


def table_that_is_read(self):
    self.item_table = nn.Embedding(30, 8)
    nn.init.ones_(self.item_table.weight)


def layer_that_is_read(self):
    self.backbone = nn.Linear(8, 8)
    nn.init.ones_(self.backbone.weight)


@pytest.mark.parametrize(
    ("variant", "name", "give"),
    [
        ("Norm", "fusion", layer("fusion")),
        ("Norm", "fusion", lambda self: setattr(self, "fusion", "sum")),
        ("Norm", "frozen", lambda self: setattr(self, "frozen", True)),
        ("Norm", "scoring_term", layer("scoring_term")),
        ("Norm", "backbone", layer_that_is_read),
        ("Norm", "item_table", table_that_is_read),
        ("TSLRec", "id_embeddings", lambda self: setattr(self, "id_embeddings", nn.Parameter())),
        ("TSLRec", "mean_gate", lambda self: self.register_buffer("mean_gate", torch.ones(1))),
        ("SeenPenalty", "backbone", layer("backbone")),
    ],
)
def test_an_attribute_with_a_name_of_ours_is_refused(variant, name, give, monkeypatch):
    monkeypatch.setattr(Mine, "give", give)
    table = "item_table" if name == "item_table" else "item_embedding"
    wanted = rf"^model: \[{variant}_Mine\] has \[{name}\] .* \[Mine\]. Rename it in Mine."
    with pytest.raises(ValueError, match=wanted):
        made(variant, Backbone("Mine", __name__, table))


def test_so_is_a_method_and_other_errors_stay(monkeypatch):
    with pytest.raises(ValueError, match=r"has \[prepare\] of its own"):
        made("Norm", Backbone("WithMethod", __name__))
    made("SeenPenalty", Backbone("Mine", __name__))
    monkeypatch.setattr(Mine, "give", lambda self: self.not_there)
    with pytest.raises(AttributeError, match="not_there"):
        made("Norm", Backbone("Mine", __name__))


def test_a_layer_of_the_plain_model_may_be_called_backbone():
    model = model_of("GRU4Rec", train_neg_sample_args=None)
    model.backbone = nn.Linear(8, 8)
    assert backbone_of(model) is BACKBONES["GRU4Rec"]


def test_an_item_table_under_a_second_name_would_stay_unfused(monkeypatch):
    def tied(self):
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.item_embedding.weight

    monkeypatch.setattr(Mine, "give", tied)
    with pytest.raises(
        ValueError, match=r"\[head.weight\] of \[Mine\].*functional.linear\(states, "
    ):
        made("Norm", Backbone("Mine", __name__))
    made("SeenPenalty", Backbone("Mine", __name__))  # which fuses nothing
    # The layer itself under two names is fused under both.
    monkeypatch.setattr(Mine, "give", lambda self: setattr(self, "out", self.item_embedding))
    assert made("Norm", Backbone("Mine", __name__)).out.parametrizations
