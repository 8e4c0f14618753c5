"""The T5 behind P5 and POD: from scratch on the prompts' own words, or a trained one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.paradigms.p5.vocabulary import Vocabulary, own_words

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.paradigms.p5.writer import CodeReader

# transformers is slow to import, and the models that use this file are imported with the package.


@dataclass(frozen=True, eq=False)
class CodeLanguageModel:
    """Which T5, and the tokens of the words that the prompts are made of.

    Attributes:
        name: what the user gave as ``llm``.
        source: the opened model; None for one that starts from scratch.
        attention: transformers' name of an implementation.
        device: where it lives.
        words: the token ids of a text, word by word.
        starts_word: of each id that the model has by itself whether a word begins with it.
    """

    name: str
    source: LanguageModelSource | None
    attention: str
    device: torch.device
    words: Callable[[str], tuple[int, ...]]
    starts_word: np.ndarray

    @classmethod
    def of(cls, config, texts: Sequence[str]) -> CodeLanguageModel:
        """The model that an experiment's settings ask for, checked and not loaded.

        Args:
            config: RecBole's config with our keys.
            texts: all words of the prompts.

        Raises:
            ValueError, OSError, ModuleNotFoundError: says which key, its value, and what to do.
        """
        from recbole_tslrec.language_model.scratch import SHAPES

        given = (config["llm_attention"], config["device"])
        if config["llm"] in SHAPES:
            return cls(config["llm"], None, *given, *own_words(texts))
        source = _checked_source(config)
        return cls(config["llm"], source, *given, *_words_of(source, texts))

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it the same model before training."""
        return {"scratch": self.name} if self.source is None else self.source.identity

    @property
    def context_length(self) -> int:
        """The most positions of a prompt; of a trained T5 those that it was trained on."""
        from recbole_tslrec.language_model.scratch import CONTEXT

        return CONTEXT if self.source is None else min(CONTEXT, self.source.context_length)

    def reader(
        self,
        vocabulary: Vocabulary,
        words_are_whole: bool,
        seed: int,
        n_vectors: int = 0,
    ) -> CodeReader:
        """The model before training, with a row for every token of a vocabulary.

        Args:
            words_are_whole: see ``Vocabulary.whole_words``.
            seed: of what is drawn.
            n_vectors: how many learned vectors the prompts have, drawn from ±.1 evenly (POD).
        """
        from recbole_tslrec.language_model.load import load_language_model
        from recbole_tslrec.language_model.own_head import check_head
        from recbole_tslrec.language_model.scratch import give_rows, scratch_model
        from recbole_tslrec.paradigms.p5.writer import CodeReader

        if self.source is None:
            model = scratch_model(self.name, vocabulary.size, self.attention, seed)
        else:
            model = load_language_model(
                self.source, "none", self.device, self.attention, head=True, trainable=True
            )
            check_head(model, self.source.name)
            give_rows(model, vocabulary.n_words, vocabulary.size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vectors = torch.empty(n_vectors, model.config.d_model).uniform_(-0.1, 0.1)
            whole = vocabulary.whole_words(words_are_whole)
            return CodeReader(model, *whole, vectors if n_vectors else None)

    def autocast(self) -> AbstractContextManager:
        """The precision in which the training loop computes."""
        enabled = bf16_is_fast(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def _checked_source(config) -> LanguageModelSource:
    from recbole_tslrec.language_model.kinds import ENCODER_DECODER
    from recbole_tslrec.language_model.load import check_attention
    from recbole_tslrec.language_model.memory import check_batch, check_memory
    from recbole_tslrec.language_model.scratch import check_marks
    from recbole_tslrec.language_model.source import open_source
    from recbole_tslrec.language_model.weights import check_weights

    kinds, device = (ENCODER_DECODER,), config["device"]
    source = open_source(config["llm"], config["llm_trust_remote_code"], kinds)
    check_marks(config["llm"], source.config)
    check_attention(config["llm_attention"], source, device)
    check_memory(source, "none", device)
    if config["trained_on"] is None:  # else it comes from a checkpoint, and is not trained
        check_batch(source, config["sft_batch_positions"], device)
    check_weights(source)
    return source


def _words_of(
    source: LanguageModelSource, texts: Sequence[str]
) -> tuple[Callable[[str], tuple[int, ...]], np.ndarray]:
    """What gives a text's ids, tokenised word by word, and which ids begin a word of ``texts``."""
    from recbole_tslrec.language_model.prompts.segments import tokens_of

    def words(text: str) -> tuple[int, ...]:
        return tuple(token for word in text.split() for token in tokens_of(source.tokenizer, word))

    starts = np.zeros(source.shape.get_input_embeddings().num_embeddings, dtype=bool)
    each = [words(word) for word in {word for text in texts for word in text.split()}]
    starts[[tokens[0] for tokens in each]] = True
    if any(starts[list(tokens[1:])].any() for tokens in each):
        raise ValueError(
            f"llm: [{source.name}] has tokens that begin a word and stand within others, as bytes "
            f"do, and whole-word embeddings go by the token that begins a word. Give a T5 whose "
            f"tokenizer marks beginnings, such as t5-small."
        )
    return words, starts
