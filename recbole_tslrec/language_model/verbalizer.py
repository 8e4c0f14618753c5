"""Candidates under letters, and the logits by which a language model chooses among them.

LlamaRec's verbalizer (arXiv 2311.02089, §3.2.2), with the tokens that the letters have in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recbole_tslrec.data.item_catalogue import Catalogue
from recbole_tslrec.language_model.alphabet import LETTERS
from recbole_tslrec.language_model.prompts.segments import TokenTable
from recbole_tslrec.language_model.prompts.template import answers_in_context
from recbole_tslrec.language_model.reader import tokenised_texts
from recbole_tslrec.language_model.readout import Head
from recbole_tslrec.language_model.source import LanguageModelSource

# A prompt's last words: a letter is read behind them.
LAST_WORDS = "\n\nAnswer:\n"


def letters_behind(source: LanguageModelSource, words: str, count: int) -> list[int]:
    """The token ids that the first letters have behind a prompt's last words; errors as there."""
    return answers_in_context(source.tokenizer, words, LETTERS[:count])


def candidate_labels(n_candidates: int) -> list[str]:
    """Letters; for a linear layer, which reads none of them, numbers where letters do not suffice."""
    if n_candidates <= len(LETTERS):
        return list(LETTERS[:n_candidates])
    return [f"c{place}" for place in range(1, n_candidates + 1)]


def item_texts(
    config, source: LanguageModelSource, catalogue: Catalogue, tokens: Sequence[str]
) -> TokenTable:
    """The items' texts as they stand behind a label; limits and errors as of ``tokenised_texts``.

    Args:
        tokens: the items' by internal id, without padding.
    """
    texts = {item: f" {text}" for item, text in catalogue.of(tokens).items()}
    return tokenised_texts(config, source, texts, "(A)")


class FrozenHead(nn.Module):
    """Rows of a language-model head, as they are before training; not in a state dict.

    Args:
        head: of the tokens that answer.
    """

    weight: Tensor

    def __init__(self, head: Head):
        super().__init__()
        self.behind = {"scale": head.scale, "factor": head.factor, "cap": head.cap}
        self.register_buffer("weight", head.weight.detach().clone(), persistent=False)
        bias = None if head.bias is None else head.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., k] float32."""
        return Head(self.weight, self.bias, **self.behind)(hidden)
