"""What is trained of LLM-TRSR: a prompt with one candidate in, yes or no out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.language_model.learner import TrainedParts
from recbole_tslrec.language_model.reader import load_for_prompts
from recbole_tslrec.recbole_bridge.language_model_recommender import without_wrapper

if TYPE_CHECKING:
    from recbole_tslrec.language_model.readout import Head
    from recbole_tslrec.language_model.source import LanguageModelSource


class YesNoRanker(TrainedParts):
    """A language model that says of a candidate whether it comes next.

    Args:
        reader: the language model, loaded with its head.
        answers: the tokens of yes and of no behind the prompt.
        of_text: whether the loss is over the prompt's tokens as well.
    """

    def __init__(self, reader: nn.Module, answers: tuple[int, int], of_text: bool):
        super().__init__(reader)
        self.answers, self.of_text = answers, of_text

    def _head(self) -> Head:
        from recbole_tslrec.language_model.readout import head_of

        return head_of(self.reader.language_model)

    def scores(self, **prompts: Tensor) -> Tensor:
        """logit(yes) - logit(no) behind each prompt, which orders as P(yes) among the two does.

        Args:
            prompts: as ``Template.batch`` or ``Template.continued`` makes them, without an answer.

        Returns:
            [B] float32.
        """
        from recbole_tslrec.language_model.readout import pooled

        hidden = pooled(self.reader(**prompts), "last")
        yes, no = self._head().rows(self.answers)(hidden).unbind(dim=-1)
        return yes - no

    def forward(
        self, is_positive: Tensor, example_of: Tensor, **prompts: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            is_positive: whether a prompt's candidate came next, bool [N].
            example_of: of which example a prompt is, int64 [N].
            prompts: as ``prompts_of`` makes them; whole and without a shared prefix for the loss over
                the text.

        Returns:
            ``error`` [B], the mean over each example's prompts: -log p(answer | prompt) over the whole
            vocabulary; or the mean of the same over all tokens of the prompt, each after those before
            it, and the answer.
        """
        from recbole_tslrec.language_model.readout import pooled

        yes, no = self.answers
        answers = torch.where(is_positive, yes, no)
        if self.of_text:
            errors = self._over_text(*_with_answers(answers, **prompts))
        else:
            logits = self._head()(pooled(self.reader(**prompts), "last"))
            errors = F.cross_entropy(logits, answers, reduction="none")
        counts = torch.bincount(example_of)
        return {"error": errors.new_zeros(len(counts)).index_add(0, example_of, errors) / counts}

    def _over_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The mean of -log p(token | those before) over each prompt's tokens but the first. [N]"""
        hidden = self.reader(token_ids=token_ids, attention_mask=attention_mask).hidden[:, :-1]
        tokens, there = token_ids[:, 1:], attention_mask[:, 1:].bool()
        errors = F.cross_entropy(self._head()(hidden[there]), tokens[there], reduction="none")
        rows = there.nonzero()[:, 0]
        sums = errors.new_zeros(len(tokens)).index_add(0, rows, errors)
        return sums / there.sum(dim=1)


def _with_answers(
    answers: Tensor, token_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Prompts [N, T] and their mask with the answers behind them, [N, T + 1] each."""
    end = attention_mask.sum(dim=1, keepdim=True)
    token_ids = F.pad(token_ids, (0, 1)).scatter(1, end, answers[:, None])
    return token_ids, F.pad(attention_mask, (0, 1)).scatter(1, end, 1)


def make_ranker(config, source: LanguageModelSource, answers: tuple[int, int]) -> YesNoRanker:
    """The ranker as it is before training, on the experiment's device.

    Raises:
        ValueError: the language model has no head, or takes no adapters there.
    """
    from recbole_tslrec.language_model.encoder import ItemEncoder

    model = without_wrapper(load_for_prompts(config, source, with_adapters=True, head=True))
    ranker = YesNoRanker(ItemEncoder(model, None), answers, config["trsr_loss"] == "text")
    return ranker.to(config["device"])
