"""From a prompt's states to a score for each candidate: by letters, or by whole titles.

The authors' verbalizer counts a title by its first token. First tokens are no items: of many titles
they are the same, and all these items tie. So a title counts here with all its tokens,

    z_v = (1 / L_v) sum_t log p(y_t^v | y_<t^v, prompt)    over the L_v tokens of candidate v's title,

or each candidate has a letter, as LlamaRec has it (arXiv 2311.02089, §3.2.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.language_model.batches import own_lengths
from recbole_tslrec.language_model.prompts.segments import Items, TokenTable
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.readout import States, first_answer_states, head_of, pooled
from recbole_tslrec.language_model.verbalizer import FrozenHead
from recbole_tslrec.paradigms.delrec.examples import CANDIDATES

_TITLES = "titles"
_PLACE_OF = "title_place"
_SAME_AS = "title_same_as"  # of each title the first equal one of its prompt
# The most logits computed at once without gradients: 256 MB.
_LOGITS_AT_ONCE = 2**26

Values = Mapping[str, Sequence[np.ndarray]]


class Verbalizer(nn.Module, ABC):
    """What makes batches whose candidates it can score.

    Args:
        n_candidates: the most in a prompt, k.
        writes: whether the model is an encoder-decoder, which answers with its decoder.
    """

    def __init__(self, n_candidates: int, writes: bool):
        super().__init__()
        self.n_candidates, self.writes = n_candidates, writes

    @abstractmethod
    def batch(self, template: Template, values: Values) -> dict[str, Tensor]:
        """Prompts for the reader; tensors whose names begin with ``title_`` are for ``scores``."""

    @abstractmethod
    def lengths(self, template: Template, values: Values) -> np.ndarray:
        """The positions that each example takes, without the words that lead in all. [B]"""

    @abstractmethod
    def scores(self, model: nn.Module, states: States, batch: Mapping[str, Tensor]) -> Tensor:
        """The candidates' scores by their places in the prompts.

        Args:
            model: the language model.
            states: of the reader, for the batch.
            batch: as ``batch`` made it.

        Returns:
            [B, k] float32; of places without a candidate, whatever, but not NaN.
        """


class Letters(Verbalizer):
    """The logits of the letters under which the candidates stand.

    Args:
        head: from states to the letters' logits.
        writes: as of ``Verbalizer``.
    """

    def __init__(self, head: FrozenHead, writes: bool):
        super().__init__(len(head.weight), writes)
        self.head = head

    def batch(self, template: Template, values: Values) -> dict[str, Tensor]:
        return template.batch(values)

    def lengths(self, template: Template, values: Values) -> np.ndarray:
        return own_lengths(template, values)

    def scores(self, model: nn.Module, states: States, batch: Mapping[str, Tensor]) -> Tensor:
        hidden = first_answer_states(model, states) if self.writes else pooled(states, "last")
        return self.head(hidden)


class Titles(Verbalizer):
    """The log-likelihoods of the candidates' whole titles, the mean over the tokens of each.

    A causal model reads a prompt once and goes on from it with each title. The titles differ from user
    to user and the scores need gradients, so no trie is built of them.

    Args:
        titles: the items' texts by internal id, as they are answered.
        n_candidates, writes: as of ``Verbalizer``.
    """

    def __init__(self, titles: TokenTable, n_candidates: int, writes: bool):
        super().__init__(n_candidates, writes)
        self.titles = titles

    def batch(self, template: Template, values: Values) -> dict[str, Tensor]:
        candidates, titles = values[CANDIDATES], Items(_TITLES, texts=self.titles)
        counts = [len(row) for row in candidates]
        of_titles = {
            _PLACE_OF: torch.from_numpy(np.concatenate([np.arange(count) for count in counts])),
            _SAME_AS: torch.from_numpy(self.titles.first_alike(candidates)),
        }
        if not self.writes:
            whole = replace(template, segments=(*template.segments, titles), shared_prefix=False)
            batch = whole.continued({**values, _TITLES: candidates}, by=_TITLES)
            return batch | of_titles
        alone = [np.array([item]) for row in candidates for item in row]
        written = Template((titles,), int(self.titles.lengths.max())).batch({_TITLES: alone})
        prompt_of = np.repeat(np.arange(len(candidates)), counts)
        return template.batch(values) | {
            **of_titles,
            "title_ids": written["token_ids"],
            "title_mask": written["attention_mask"],
            "title_of": torch.from_numpy(prompt_of),
        }

    def lengths(self, template: Template, values: Values) -> np.ndarray:
        titles = [self.titles.lengths[row].sum() for row in values[CANDIDATES]]
        return own_lengths(template, values) + np.array(titles)

    def scores(self, model: nn.Module, states: States, batch: Mapping[str, Tensor]) -> Tensor:
        if self.writes:
            tokens, mask, prompt_of = (batch[f"title_{name}"] for name in ("ids", "mask", "of"))
            before, n_prompts = self._written(model, states, tokens, prompt_of), len(states.hidden)
        else:
            tokens, mask, prompt_of = batch["token_ids"], batch["attention_mask"], states.prefix_of
            ends = states.prefix[prompt_of, -1:]  # prefixes are padded on the left
            before, n_prompts = torch.cat([ends, states.hidden[:, :-1]], dim=1), len(states.prefix)
        found = _mean_log_likelihoods(model, before, tokens, mask)[batch[_SAME_AS]]
        scores = found.new_zeros(n_prompts, self.n_candidates)
        return scores.index_put((prompt_of, batch[_PLACE_OF]), found)

    def _written(
        self, model: nn.Module, states: States, tokens: Tensor, prompt_of: Tensor
    ) -> Tensor:
        """The decoder's states from which each title's tokens follow. [N, T, H]"""
        start = torch.full_like(tokens[:, :1], model.config.decoder_start_token_id)
        output = model.get_decoder()(
            input_ids=torch.cat([start, tokens[:, :-1]], dim=1),
            encoder_hidden_states=states.hidden[prompt_of],
            encoder_attention_mask=states.attention_mask[prompt_of],
            use_cache=False,
        )
        return output.last_hidden_state


def _mean_log_likelihoods(model: nn.Module, before: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Of each title the mean of its tokens' log-probabilities.

    Args:
        before: the states that each token follows from, [N, T, H].
        tokens: int64 [N, T], padded on the right.
        mask: int64 [N, T].

    Returns:
        [N] float32.
    """
    head = head_of(model)
    head = replace(head, weight=head.weight.float())  # once, and not for each piece
    rows = max(1, _LOGITS_AT_ONCE // (tokens.shape[1] * len(head.weight)))
    errors = [
        F.cross_entropy(head(states).transpose(1, 2), own, reduction="none")
        for states, own in zip(before.split(rows), tokens.split(rows), strict=True)
    ]
    return -(torch.cat(errors) * mask).sum(dim=1) / mask.sum(dim=1)
