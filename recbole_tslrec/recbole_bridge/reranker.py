"""A trained backbone retrieves, a language model puts the best items in a new order (LlamaRec).

Whole-catalogue scores come about by ``evaluation.candidates.merged_scores``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from logging import getLogger
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from recbole_tslrec.backbones.registry import Backbone
from recbole_tslrec.data.negatives import random_order
from recbole_tslrec.evaluation.candidates import (
    merged_scores,
    padded,
    score_each_user_once,
    scores,
    top_items,
)
from recbole_tslrec.evaluation.seen_items import SeenItems, repeated_targets
from recbole_tslrec.recbole_bridge.language_model_recommender import LanguageModelRecommender
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.trained_backbone import take_trained_backbone

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_tslrec.language_model.learner import TrainedParts
    from recbole_tslrec.language_model.task import Task
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


# The column of items that are no candidates of a row, in the place of those that the key ``candidates``
# leaves out: int64 [B, any], padded with 0.
NO_CANDIDATES = "no_candidates"


class Reranker(LanguageModelRecommender, ABC):
    """A model that gives a trained backbone's candidates a new order; all other items keep theirs.

    A subclass says how in ``rerank``. The retriever, small beside a language model, is in the state
    dict.

    Attributes:
        backbone: the retriever's line in the table of backbones.
        n_candidates, candidates, control: the keys of these names, and ``rerank_control``.
        retriever: the trained backbone, frozen; untrained before ``prepare``.
        validates_masked: whether validation ranks no seen items.
        ranker: what is trained, a subclass makes it.
        settings: the values on which the trained weights depend, by key; so does a subclass.
    """

    backbone: ClassVar[Backbone]
    ranker: TrainedParts
    settings: Mapping[str, Any]
    kept = ("retriever.",)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.n_candidates = config["n_candidates"]
        self.candidates = config["candidates"]
        self.control = config["rerank_control"]
        if self.n_candidates >= self.n_items:
            raise ValueError(
                f"n_candidates: [{self.n_candidates}] is more than the {self.n_items - 1} items of the "
                f"data set [{config['dataset']}]. Give fewer."
            )
        self.retriever = self.backbone.model_class(config, dataset).requires_grad_(False)
        protocol = config["valid_protocol"]
        self.validates_masked = protocol != "ranked"
        if self.candidates == "all" and self.validates_masked:
            raise ValueError(
                f"candidates: [all] has seen items among them, which valid_protocol: [{protocol}] does "
                f"not rank: they would take up places. Set candidates: unseen."
            )
        self._seen = SeenItems(dataset) if self.candidates == "unseen" else None

    @abstractmethod
    def rerank(self, interaction: Interaction, candidates: Tensor) -> Tensor:
        """New scores of the candidates; called without gradients.

        Args:
            interaction: RecBole's rows, with the histories.
            candidates: int64 [B, k], in the order in which the language model is to see them; 0, which
                is none, stands behind all others.

        Returns:
            float [B, k]; whatever where there is no candidate, but not NaN.
        """

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        return (BackboneStage,)

    def prepare(self, pipeline: Pipeline) -> None:
        """Take the trained backbone.

        Raises:
            ValueError: a given ``backbone_checkpoint`` has settings of its model other than this
                experiment's.
        """
        take_trained_backbone(pipeline, self.retriever)
        getLogger(__name__).info(self.said_beside_figures())

    @property
    def retriever_embeddings(self) -> Tensor:
        """The retriever's item embeddings e_v, without padding: [n_items - 1, d]."""
        return getattr(self.retriever, self.backbone.item_table).weight[1 : self.n_items]

    def said_beside_figures(self) -> str:
        """What must stand beside figures: which items the language model ranked, and in what control."""
        seen = "seen items among them" if self.candidates == "all" else "seen items left out before"
        control = "" if self.control == "none" else f"; control in tests: {self.control}"
        return (
            f"{type(self).__name__} ranks {self.n_candidates} candidates of {self.backbone.name}, "
            f"candidates: {self.candidates} ({seen}){control}"
        )

    def made_from(self, task: Task) -> dict[str, Any]:
        """What training and validation depend on, for a fingerprint; after ``prepare``."""
        return {
            "retriever": _weights_hash(self.retriever),
            "settings": self.settings,
            "language_model": self.source.identity,
            "texts": self.texts_fingerprint,
            "examples": task.examples.content_hash(),
        }

    def learner(self) -> TrainedParts:
        """What the training loop trains."""
        return self.ranker

    def train(self, mode: bool = True) -> Reranker:
        """As torch's; the retriever stays in evaluation mode."""
        super().train(mode)
        self.retriever.eval()
        return self

    # ---- RecBole's interface --------------------------------------------------------------------

    @torch.no_grad()
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """The scores of all items: the retriever's, and its candidates above them in their new order.

        With ``candidates: unseen`` what the user had is no candidate, and keeps its score; so does what
        rows have in a column :data:`NO_CANDIDATES`. Under ``targets_alone`` candidates without the row's
        target stay in the retriever's order. So do all items, in validation with seen items masked, if
        the target is one that the user had before: it has the rank that ``protocol_scores`` gives it in
        the test.

        Returns:
            [B, n_items] float32, finite.
        """
        retrieved = scores(self.retriever, interaction)
        candidates = self._candidates(interaction, retrieved)
        if self.targets_alone:
            targets = interaction[self.ITEM_ID]
            found, _ = self._with_targets(interaction, retrieved, candidates, targets)
        else:
            found = merged_scores(retrieved, candidates, self._reranked(interaction, candidates))
        if self.validates_masked and not self.is_tested:
            seen = self._seen.pairs(interaction)
            again = repeated_targets(interaction[self.ITEM_ID].cpu(), seen).to(found.device)
            found[again] = retrieved[again].to(found)
        return found

    @torch.no_grad()
    def protocol_scores(
        self, interaction: Interaction, seen: tuple[Tensor, Tensor], targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores by which the targets have their ranks, seen items ranked and seen items masked.

        For the second, seen items are left out before the candidates are chosen: otherwise they would
        use up places. A target that the user had before keeps the retriever's rank there: as the one
        seen item among the candidates it would give itself away.

        Args:
            seen: the items that will be masked, as ``SeenItems.pairs`` gives them.
            targets: int64 [B].

        Returns:
            [B, n_items] float32 each.
        """
        retrieved = scores(self.retriever, interaction)
        candidates = self._candidates(interaction, retrieved)
        unseen_ones = _unseen(retrieved, self.n_candidates, seen)
        ranked, rows = self._with_targets(interaction, retrieved, candidates, targets)
        unseen = ranked
        if not torch.equal(candidates, unseen_ones):  # else the same prompts are read once
            unseen, rows = self._with_targets(interaction, retrieved, unseen_ones, targets)
        masked = retrieved.to(unseen, copy=True)
        masked[rows] = unseen[rows]
        return ranked, masked

    def _with_targets(
        self, interaction: Interaction, retrieved: Tensor, candidates: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whole-catalogue scores, [B, n_items], and the rows whose target is a candidate, int64 [any].

        The rank of another target does not hang on the candidates' order, and the language model is
        not asked for it: so the authors of LlamaRec evaluate as well.
        """
        found = _as_they_stand(candidates)
        (rows,) = (candidates == targets[:, None]).any(dim=1).nonzero(as_tuple=True)
        if len(rows):
            found[rows] = self._reranked(interaction[rows], candidates[rows])
        return merged_scores(retrieved, candidates, found), rows

    @torch.no_grad()
    def predict(self, interaction: Interaction) -> Tensor:
        """The score of each row's own item, as of ``full_sort_predict``. [B]"""
        return score_each_user_once(self, interaction)

    def _candidates(self, interaction: Interaction, retrieved: Tensor) -> Tensor:
        """int64 [B, k], by the rows' own column or the key ``candidates``."""
        if NO_CANDIDATES in interaction:
            return top_items(retrieved, self.n_candidates, interaction[NO_CANDIDATES])
        if self._seen is None:
            return top_items(retrieved, self.n_candidates)
        if self.USER_ID in interaction:
            return _unseen(retrieved, self.n_candidates, self._seen.pairs(interaction))
        return top_items(retrieved, self.n_candidates, interaction[self.ITEM_SEQ])

    def _reranked(self, interaction: Interaction, candidates: Tensor) -> Tensor:
        """The candidates' new scores, [B, k], in the order that they have."""
        control = self.control if self.is_tested else "none"
        if control == "retriever":
            return _as_they_stand(candidates)
        if control == "none":
            return self.rerank(interaction, candidates)
        order = _shuffled(self, interaction, candidates, self._seed)
        found = self.rerank(interaction, candidates.gather(1, order))
        return torch.empty_like(found).scatter_(1, order, found)


def _weights_hash(model: nn.Module) -> str:
    # Of copies: safetensors refuses weights that have two names, and such as lie in another order.
    form = torch.contiguous_format
    weights = {
        name: tensor.cpu().clone(memory_format=form) for name, tensor in model.state_dict().items()
    }
    return hashlib.sha256(save(weights)).hexdigest()


def _shuffled(model: Reranker, interaction: Interaction, candidates: Tensor, seed: int) -> Tensor:
    """A random order of each row's candidates, the same every time. int64 [B, k]

    It is drawn by the user; of a given history, which has none in the data set, by its items.
    """
    if model.USER_ID in interaction:
        drawn_by = interaction[model.USER_ID][:, None].tolist()
    else:
        lists = interaction[model.ITEM_SEQ].tolist()
        drawn_by = [[item for item in items if item] for items in lists]
    k = candidates.shape[1]
    draws = [np.random.default_rng((seed, *own)).random(k) for own in drawn_by]
    order = random_order(candidates.cpu().numpy(), np.stack(draws))
    return torch.from_numpy(order).to(candidates.device)


def _unseen(retrieved: Tensor, k: int, seen: tuple[Tensor, Tensor]) -> Tensor:
    """The k best items without seen ones, as ``SeenItems.pairs`` gives them. int64 [B, k]"""
    return top_items(retrieved, k, padded(*seen, len(retrieved)).to(retrieved.device))


def _as_they_stand(candidates: Tensor) -> Tensor:
    """Scores that leave candidates in their order. float32 [B, k]"""
    places = torch.arange(candidates.shape[1], device=candidates.device)
    return -places.float().repeat(len(candidates), 1)
