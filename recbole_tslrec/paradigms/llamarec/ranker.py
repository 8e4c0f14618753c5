"""What is trained of LlamaRec: a prompt in, a score for each candidate out (§3.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.language_model.learner import TrainedParts
from recbole_tslrec.language_model.reader import load_for_prompts
from recbole_tslrec.recbole_bridge.candidate_examples import candidate_errors
from recbole_tslrec.recbole_bridge.language_model_recommender import without_wrapper

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.paradigms.llamarec.prompt import Answers


class LetterRanker(TrainedParts):
    """A language model that scores the candidates in its prompt.

    Args:
        reader: the language model with its item slots, if there are any.
        head: from its states to a score for each letter, [..., H] -> [..., k].
        pooling: which state is read, see ``readout.pool``.
        answers: for the loss over the vocabulary, what is answered; None for that over the letters.
    """

    def __init__(self, reader: nn.Module, head: nn.Module, pooling: str, answers: Answers | None):
        super().__init__(reader)
        self.head, self.pooling, self.answers = head, pooling, answers

    def logits(self, **prompts: Tensor) -> Tensor:
        """The candidates' scores, by their places in the prompt.

        Args:
            prompts: as ``Template.batch`` makes them, without an answer.

        Returns:
            [B, k] float32; of places without a candidate, whatever.
        """
        from recbole_tslrec.language_model.readout import pooled

        hidden = pooled(self.reader(**prompts), self.pooling)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden)

    def forward(self, place: Tensor, count: Tensor, **prompts: Tensor) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            place: of the target among the candidates, int64 [B].
            count: of the candidates, int64 [B].
            prompts: as ``Template.batch`` makes them; with the answer, for the loss over the vocabulary.

        Returns:
            ``error`` [B]: the cross entropy over the candidates' letters; or the mean of those over all
            tokens, of the letter and of the end behind it.
        """
        if self.answers is not None:
            return {"error": self._over_vocabulary(place, prompts)}
        return {"error": candidate_errors(self.logits(**prompts), place, count)}

    def _over_vocabulary(self, place: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        """-1/2 [log p(letter | prompt) + log p(end | prompt, letter)] of each example. [B]"""
        from recbole_tslrec.language_model.readout import head_of

        states = self.reader(**prompts)
        # The answer's own position, at the prompt's end, tells what comes behind it.
        answer = states.attention_mask.sum(dim=1) - 1
        rows = torch.arange(len(place), device=place.device)[:, None]
        hidden = states.hidden[rows, torch.stack([answer - 1, answer], dim=1)]
        logits = head_of(self.reader.language_model)(hidden)  # [B, 2, V]
        tokens = torch.tensor(self.answers.tokens, device=place.device)[place]
        targets = torch.stack([tokens, torch.full_like(tokens, self.answers.end)], dim=1)
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)


def make_ranker(
    config, source: LanguageModelSource, answers: Answers | None, n_items: int, width: int
) -> LetterRanker:
    """The ranker as it is before training, on the experiment's device.

    Args:
        config: RecBole's config with our keys.
        source: an opened language model.
        answers: the candidates' letters; None where a linear layer scores.
        n_items: rows of the item table, padding counted.
        width: columns of e_v.

    Raises:
        ValueError: the language model has no head for letters or one of an unknown kind, or takes no
            adapters there.
    """
    from recbole_tslrec.language_model.encoder import ItemEncoder, without_head
    from recbole_tslrec.language_model.readout import head_of
    from recbole_tslrec.language_model.verbalizer import FrozenHead

    over_vocabulary = config["llamarec_loss"] == "vocabulary"
    whole = load_for_prompts(config, source, with_adapters=True, head=answers is not None)
    whole = without_wrapper(whole)
    model = whole if over_vocabulary else without_head(whole)
    slots = config["llamarec_items"] == "slots"
    reader = ItemEncoder(model, torch.ones(n_items, width) if slots else None)
    reader.keep_item_embeddings()
    pooling = "last"
    if answers is None:
        head = nn.Linear(source.hidden_size, config["n_candidates"])
        pooling = config["llm_pooling"]
    else:
        head = FrozenHead(head_of(whole).rows(answers.tokens))
    ranker = LetterRanker(reader, head, pooling, answers if over_vocabulary else None)
    return ranker.to(config["device"])
