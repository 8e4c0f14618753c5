"""A term that is added to a trained model's scores, and its settings, which validation chooses.

The term is a part of the model, so that its settings lie in the checkpoint. They are chosen once the
model is trained, among those of a small grid, in one pass over the validation rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_tslrec.config.recbole_keys import modes_of
from recbole_tslrec.evaluation.blocks import with_bar
from recbole_tslrec.evaluation.candidates import score_each_user_once
from recbole_tslrec.evaluation.metrics import METRICS_OF_RANKS, of_each
from recbole_tslrec.evaluation.ranks import target_ranks
from recbole_tslrec.evaluation.seen_items import SeenItems

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender


class ScoringTerm(nn.Module, ABC):
    """What is added to the scores of all items, given the items of each row's history.

    Attributes:
        names: of its settings.
        grid: the settings among which validation chooses, "no term" not among them.
        chosen: float64 ``[number of settings]``, those in use. All 0 is no term: the scores then stay
            as they are, bit for bit.
        always_ranked: whether it is chosen with seen items ranked whatever ``valid_protocol`` says.
    """

    always_ranked: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]]
    grid: ClassVar[tuple[tuple[float, ...], ...]]
    chosen: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("chosen", torch.zeros(len(self.names), dtype=torch.float64))

    @property
    def in_use(self) -> bool:
        return bool(self.chosen.any())

    def choose(self, settings: Iterable[float]) -> None:
        """Put settings into use, in the order of ``names``."""
        self.chosen.copy_(torch.tensor(list(settings), dtype=torch.float64))

    def forward(self, scores: Tensor, item_seq: Tensor) -> Tensor:
        """The scores with the term.

        Args:
            scores: ``[B, n_items]``, with a column for padding.
            item_seq: int64 ``[B, L]``, the histories, oldest first, padded with 0 on either side.

        Returns:
            ``[B, n_items]``.
        """
        if not self.in_use:
            return scores
        return self.added(scores, item_seq, *self.chosen.tolist())

    @abstractmethod
    def added(self, scores: Tensor, item_seq: Tensor, *settings: float) -> Tensor:
        """As ``forward``, under these settings."""

    def under_each(self, scores: Tensor, item_seq: Tensor) -> Iterator[Tensor]:
        """The scores under each setting of the grid, in its order."""
        for settings in self.grid:
            yield self.added(scores, item_seq, *settings)


class TermAtScoring:
    """Mixin for a backbone: its scores get a term, wherever all items or some are scored.

    Attributes:
        scoring_term: the term; None for none.
        term_in_training: whether the logits of the loss get it as well, CE alone: a constant, beside
            which the backbone learns the rest.
    """

    scoring_term: ScoringTerm | None
    term_in_training = False
    _in_loss = False

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.scoring_term = None

    def full_sort_predict(self, interaction) -> Tensor:
        """As the backbone's, with the term. ``[B, n_items]``"""
        scores = super().full_sort_predict(interaction)
        if self._in_loss or self.scoring_term is None or not self.scoring_term.in_use:
            return scores
        return self.scoring_term(scores.view(len(interaction), -1), interaction[self.ITEM_SEQ])

    def predict(self, interaction) -> Tensor:
        """As the backbone's, with the term: the scores are those of ``full_sort_predict``. ``[B]``

        A term may depend on the scores of all items.
        """
        if self.scoring_term is None or not self.scoring_term.in_use:
            return super().predict(interaction)
        return score_each_user_once(self, interaction)

    def calculate_loss(self, interaction) -> Tensor:
        """As the backbone's; with the term among the logits if it is there in training."""
        if not self.term_in_training:
            return super().calculate_loss(interaction)

        def with_term(_, logits_and_targets):
            logits, targets = logits_and_targets
            if logits.shape != (len(interaction), self.n_items):
                raise ValueError(
                    f"score_term: [during] needs a backbone whose loss has one row of all items' logits "
                    f"a prediction, and [{type(self).__name__}] has {list(logits.shape)}. Set "
                    f"score_term: after."
                )
            return self.scoring_term(logits, interaction[self.ITEM_SEQ]), targets

        # A backbone may score all items by the method that adds the term: the loss is to have it once.
        with self._without_own_term(), self.loss_fct.register_forward_pre_hook(with_term):
            return super().calculate_loss(interaction)

    @contextmanager
    def _without_own_term(self) -> Iterator[None]:
        self._in_loss = True
        try:
            yield
        finally:
            self._in_loss = False

    def added_logits(self, item_seq: Tensor) -> Tensor:
        """The term of these histories among the logits, ``[B, n_items]``."""
        nothing = torch.zeros(len(item_seq), self.n_items, device=item_seq.device)
        return self.scoring_term(nothing, item_seq)


# ---- choosing the settings ------------------------------------------------------------------------


def check_choice(config: Mapping[str, Any]) -> None:
    """Raise ValueError if a term's settings cannot be chosen on this validation."""
    check_metric(str(config["valid_metric"]))
    mode, _ = modes_of(config)
    if mode != "full":
        raise ValueError(
            f"eval_args: its mode [{mode}] ranks a few items on validation, and a term of the scores is "
            f"chosen by a ranking of all. Set mode: full."
        )


def check_metric(valid_metric: str) -> None:
    """Raise ValueError if settings cannot be chosen by this metric."""
    if valid_metric.partition("@")[0].lower() not in METRICS_OF_RANKS:
        raise ValueError(
            f"valid_metric: [{valid_metric}] is not made of ranks, by which a term of the scores is "
            f"chosen. Give one of {', '.join(METRICS_OF_RANKS)}, such as NDCG@10."
        )


@torch.no_grad()
def choose_settings(
    model: SequentialRecommender, blocks, valid_metric: str, masked: SeenItems | None = None
) -> dict[tuple[float, ...], float]:
    """Put the settings into use that are best on validation; of equal ones the first of the grid.

    Args:
        model: a trained model with a ``scoring_term``.
        blocks: a :class:`.BlockDataLoader` of the validation rows.
        valid_metric: ``NDCG@10`` for one; of one target a row.
        masked: what is not ranked; None: all items are.

    Returns:
        the metric by settings, without a term first.
    """
    term, device = model.scoring_term, next(model.parameters()).device
    every = [(0.0,) * len(term.names), *term.grid]
    term.choose(every[0])
    model.eval()
    totals, n_rows = np.zeros(len(every)), 0
    with parametrize.cached():
        for interaction, _, _, targets in with_bar(blocks, "Term at scoring"):
            seen = _NOTHING if masked is None else masked.pairs(interaction)
            seen = tuple(part.to(device) for part in seen)
            interaction, targets = interaction.to(device), targets.to(device)
            scores = model.full_sort_predict(interaction).view(len(targets), -1)
            with_term = term.under_each(scores, interaction[model.ITEM_SEQ])
            for number, each in enumerate(_one_more(scores.clone(), with_term)):
                ranks = target_ranks(each, targets, seen)[0 if masked is None else 1]
                totals[number] += of_each(valid_metric, ranks.cpu().numpy()).sum()
            n_rows += len(targets)
    means = totals / max(n_rows, 1)
    term.choose(every[int(means.argmax())])
    return dict(zip(every, means.tolist(), strict=True))


_NOTHING = (torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


def _one_more(first: Tensor, others: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from others
