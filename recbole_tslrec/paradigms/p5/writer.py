"""A T5 that reads prompts with whole-word embeddings and writes item codes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recbole_tslrec.language_model.encoder import ItemEncoder, trunk_of
from recbole_tslrec.language_model.learner import TrainedParts
from recbole_tslrec.language_model.readout import States, head_of

WHOLE_WORDS = 512  # P5's number of whole-word embeddings; later words share the last


class CodeReader(ItemEncoder):
    """The encoder; to each token's embedding comes that of the whole word to which it belongs.

    The k-th whole word of a prompt has row k, a token that belongs to none row 0 (P5 §3.2;
    arXiv 2305.06569). Learned vectors have no whole word.

    Args:
        language_model: a T5 with its head.
        starts, inside: which tokens begin a whole word, and which belong to one, [V] bool.
        soft_vectors: what learned vectors start as, [n, H], or None for none.
    """

    def __init__(
        self,
        language_model: nn.Module,
        starts: np.ndarray,
        inside: np.ndarray,
        soft_vectors: Tensor | None = None,
    ):
        super().__init__(language_model, None, soft_vectors)
        self.register_buffer("starts", torch.from_numpy(starts), persistent=False)
        self.register_buffer("inside", torch.from_numpy(inside), persistent=False)
        self.whole_words = nn.Embedding(WHOLE_WORDS, language_model.config.d_model)

    def word_numbers(self, token_ids: Tensor) -> Tensor:
        """The whole word of each token, from 1 on; 0 of a token that belongs to none. [B, T] int64"""
        numbers = self.starts[token_ids].cumsum(dim=1) * self.inside[token_ids]
        return numbers.clamp(max=WHOLE_WORDS - 1)

    def forward(
        self, token_ids: Tensor, attention_mask: Tensor, soft_rows: Tensor | None = None
    ) -> States:
        """The encoder's last hidden states; the arguments as ``Prompts.batch`` makes them."""
        whole = self.whole_words(self.word_numbers(token_ids))
        if soft_rows is not None:
            whole = whole * (soft_rows < 0).unsqueeze(-1)
        embeddings = self.embed(token_ids, None, soft_rows) + whole
        trunk = trunk_of(self.language_model)
        output = trunk(inputs_embeds=embeddings, attention_mask=attention_mask)
        return States(output.last_hidden_state, attention_mask)


class CodeWriter(TrainedParts):
    """What is trained, as the training loop takes it (``task.Learner``): all weights.

    Args:
        reader: of prompts, with its language model.
    """

    reader: CodeReader

    def forward(self, answer_ids: Tensor, **prompts: Tensor) -> dict[str, Tensor]:
        """The loss of a batch (arXiv 2305.06569's code; padding is left out, the end token counts).

        Args:
            answer_ids: codes and the end token, [B, L] int64, -1 at the end.
            prompts: as ``Prompts.batch`` makes them.

        Returns:
            ``error`` [B]: ``-(1 / |y|) sum_t log p(y_t | y_<t, x)`` of each answer y.
        """
        steps = self.log_probabilities(answer_ids, prompts)
        return {"error": -steps.sum(dim=1) / (answer_ids >= 0).sum(dim=1)}

    def log_probabilities(self, answer_ids: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        """Of each token of the answers, given those before it; 0 at padding. [B, L] float32"""
        states, model = self.reader(**prompts), self.reader.language_model
        written = answer_ids.clamp(min=0)
        start = torch.full_like(written[:, :1], model.config.decoder_start_token_id)
        output = model.get_decoder()(
            input_ids=torch.cat([start, written[:, :-1]], dim=1),
            encoder_hidden_states=states.hidden,
            encoder_attention_mask=states.attention_mask,
            use_cache=False,
        )
        logits = head_of(model)(output.last_hidden_state)
        steps = logits.log_softmax(dim=2).gather(2, written.unsqueeze(2)).squeeze(2)
        return steps * (answer_ids >= 0)
