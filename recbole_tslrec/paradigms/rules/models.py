"""The rules as models: the user's own history, and a trained backbone with a penalty on seen items."""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from recbole_tslrec.backbones.registry import Backbone
from recbole_tslrec.evaluation.scoring_term import ScoringTerm, TermAtScoring
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.trained_backbone import take_trained_backbone


class Repeat(SequentialRecommender):
    """The items of the user's own history, the latest first; then all others, level.

    Level items rank by their internal ids, and so does every item where seen ones are masked: those
    figures say nothing but how the data's lines are ordered.
    """

    backbone = None
    frozen = True
    scoring_term = None

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.nothing = nn.Parameter(torch.zeros(1))  # RecBole's optimiser wants one

    @staticmethod
    def stages(config) -> tuple:
        return ()

    def prepare(self, pipeline) -> None:
        """Nothing is needed."""

    def calculate_loss(self, interaction) -> Tensor:
        """There is nothing to train."""
        return self.nothing.sum()

    def full_sort_predict(self, interaction) -> Tensor:
        """1 for the oldest item, 2 for the one after it, ...; 0 for what is not there. [B, n_items]"""
        item_seq = interaction[self.ITEM_SEQ]
        places = (item_seq != 0).cumsum(dim=1).to(self.nothing.dtype)
        scores = places.new_zeros(len(item_seq), self.n_items)
        return scores.scatter_reduce_(1, item_seq, places, "amax")

    def predict(self, interaction) -> Tensor:
        """As ``full_sort_predict`` of one item a row. [B]"""
        items = interaction[self.ITEM_ID][:, None]
        return self.full_sort_predict(interaction).gather(1, items)[:, 0]


class SeenPenalty(ScoringTerm):
    """s_i - b · std(s) · [i in the item list]; a large b masks what is in it.

    The penalty b is in units of the standard deviation of the row's scores over the items. RecBole's
    list has the latest MAX_ITEM_LIST_LENGTH items; what was seen before them is not penalised. It shows
    what fewer repeats alone gain with seen items ranked, and is chosen there: masked, nothing would be.
    """

    always_ranked = True
    names = ("penalty",)
    grid = tuple((penalty,) for penalty in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0))

    def added(self, scores: Tensor, item_seq: Tensor, penalty: float) -> Tensor:
        deviation = scores[:, 1:].std(dim=1, correction=0, keepdim=True)
        seen = torch.zeros_like(scores).scatter_(1, item_seq, 1.0)
        return scores - penalty * deviation * seen


class PenalisedBackbone(TermAtScoring):
    """Mixin: the trained backbone, with a penalty on seen items that validation chooses."""

    backbone: Backbone
    frozen = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.scoring_term = SeenPenalty()

    @staticmethod
    def stages(config) -> tuple:
        return (BackboneStage,)

    def prepare(self, pipeline) -> None:
        """Take the weights of the trained backbone; errors as in ``take_trained_backbone``."""
        take_trained_backbone(pipeline, self)


MODELS = BackboneModels(__name__, {"SeenPenalty": PenalisedBackbone}, {"Repeat": Repeat})
