"""Summaries of histories by a language model, hierarchical or recurrent, written greedily."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.generation import ends_of, generate, its_settings
from recbole_tslrec.language_model.prompts.segments import (
    Field,
    Items,
    TokenTable,
    Words,
    tokens_of,
    tokens_of_texts,
)
from recbole_tslrec.language_model.prompts.template import (
    Segment,
    Template,
    largest_token,
    special_tokens,
)
from recbole_tslrec.language_model.reader import check_words, load_for_prompts
from recbole_tslrec.paradigms.llmtrsr.histories import blocks_of

if TYPE_CHECKING:
    from recbole_tslrec.language_model.meter import Meter
    from recbole_tslrec.language_model.source import LanguageModelSource

_SO_FAR, _ITEMS = "so far", "items"
_LAST_WORDS = "\n\nDescription:\n"
_DAY = "26 Jul 2024"  # of every prompt, in templates that say the day; Llama 3's own default
_MARK = "the words"  # stands for a message while a chat's frame is looked for


class Summary(NamedTuple):
    """What became of a history.

    Attributes:
        parts: hierarchical: the blocks' own summaries; recurrent: the summary after each block.
        text: the summary of all.
    """

    parts: tuple[str, ...]
    text: str


class Prompt(NamedTuple):
    """What a prompt holds besides its words: a text so far, and rows of items."""

    text: str = ""
    items: tuple[int, ...] = ()


class Summariser:
    """Writes summaries, each prompt once.

    Args:
        config: RecBole's config with our keys.
        source: the language model that writes.
        texts: the items' texts by internal id, as its tokens.
        names: the items' tokens by internal id; prompts are written in their order, so that nothing
            hangs on RecBole's numbering.

    Attributes:
        encoder: the language model; loaded by ``load``.
    """

    encoder: ItemEncoder

    def __init__(self, config, source: LanguageModelSource, texts: TokenTable, names: Sequence):
        self.config, self.source, self.names = config, source, names
        self.most = config["trsr_summary_tokens"]
        self.ends = end_tokens(source)
        self._templates: dict[str, Template] = {}
        items = Items(_ITEMS, texts=texts, separator=tokens_of(source.tokenizer, "\n"))
        self.of_block = self._template("trsr_summary_instruction", [items])
        self.of_summaries = self._template("trsr_merge_instruction", [Field(_SO_FAR, keep="end")])
        between = Words(tokens_of(source.tokenizer, "\n\n"))
        self.of_both = self._template("trsr_update_instruction", [Field(_SO_FAR), between, items])
        self._written: dict[tuple[int, Prompt], str] = {}

    def _template(self, instruction: str, segments: list[Segment]) -> Template:
        before, after = _frame(self.source)
        first = Words(before + tokens_of(self.source.tokenizer, f"{self.config[instruction]}\n\n"))
        context = self.source.context_length - self.most  # what is written must have room
        template = Template((first, *segments, Words(after)), context)
        check_words(self.source, largest_token(template))
        self._templates[instruction] = template
        return template

    def check(self, longest: int) -> None:
        """Raise ValueError if words, one item and a summary do not fit the context.

        Args:
            longest: the item with the longest text.
        """
        context = self.source.context_length
        if self.most >= context:
            raise ValueError(
                f"trsr_summary_tokens: [{self.most}] tokens leave no room for a prompt in the context "
                f"of [{self.source.name}], {context}. Give fewer."
            )
        one, text = [np.array([longest])], [np.zeros(1, dtype=np.int64)]
        for key, template in self._templates.items():
            try:
                template.lengths({_ITEMS: one, _SO_FAR: text})
            except ValueError as error:
                raise ValueError(
                    f"{key}: its words and one item's do not fit the context of [{self.source.name}], "
                    f"{context}, beside a summary of {self.most} tokens (trsr_summary_tokens). Give "
                    f"fewer words."
                ) from error

    def load(self) -> None:
        """Load the language model."""
        model = load_for_prompts(self.config, self.source, with_adapters=False, head=True)
        self.encoder = ItemEncoder(model, None).eval()

    def forget(self) -> None:
        """Forget what was written, to save memory; it would be written the same again."""
        self._written.clear()

    def summaries(self, histories: Sequence[np.ndarray], meter: Meter) -> list[Summary]:
        """The summaries of some histories.

        Args:
            histories: int64 [any] each, internal ids, oldest first, one item at least.
            meter: counts what is read and written.
        """
        size, most = self.config["trsr_block_items"], self.config["trsr_blocks"]
        blocks = [
            [tuple(block.tolist()) for block in blocks_of(history, size, most)]
            for history in histories
        ]
        if self.config["trsr_summary"] == "recurrent":
            return self._recurrent(blocks, meter)
        return self._hierarchical(blocks, meter)

    def _hierarchical(self, blocks: list[list[tuple[int, ...]]], meter: Meter) -> list[Summary]:
        """Each block by itself, then the blocks' summaries; of one block there is nothing to join."""
        prompts = [[Prompt(items=block) for block in own] for own in blocks]
        self._write(self.of_block, [prompt for own in prompts for prompt in own], meter)
        parts = [tuple(self._text(self.of_block, prompt) for prompt in own) for own in prompts]
        joined = [Prompt(text="\n".join(own)) for own in parts]
        several = [len(own) > 1 for own in parts]
        self._write(
            self.of_summaries,
            [prompt for prompt, is_so in zip(joined, several, strict=True) if is_so],
            meter,
        )
        return [
            Summary(own, self._text(self.of_summaries, prompt) if is_so else own[0])
            for own, prompt, is_so in zip(parts, joined, several, strict=True)
        ]

    def _recurrent(self, blocks: list[list[tuple[int, ...]]], meter: Meter) -> list[Summary]:
        """The first block, then each next one with the summary so far."""
        parts: list[list[str]] = [[] for _ in blocks]
        for number in range(max(map(len, blocks), default=0)):
            template = self.of_both if number else self.of_block
            still = [place for place, own in enumerate(blocks) if len(own) > number]
            prompts = [
                Prompt(parts[place][-1] if number else "", blocks[place][number]) for place in still
            ]
            self._write(template, prompts, meter)
            for place, prompt in zip(still, prompts, strict=True):
                parts[place].append(self._text(template, prompt))
        return [Summary(tuple(own), own[-1]) for own in parts]

    def _text(self, template: Template, prompt: Prompt) -> str:
        return self._written[id(template), prompt]

    def _write(self, template: Template, prompts: Iterable[Prompt], meter: Meter) -> None:
        """Have the answers to all prompts that have none yet."""
        new = {prompt for prompt in prompts if (id(template), prompt) not in self._written}
        if not new:
            return
        ordered = sorted(new, key=lambda one: (one.text, [self.names[row] for row in one.items]))
        tokenizer = self.source.tokenizer
        so_far = tokens_of_texts(tokenizer, [one.text for one in ordered])
        values = {
            _SO_FAR: [np.array(row, np.int64) for row in so_far],
            _ITEMS: [np.array(one.items, np.int64) for one in ordered],
        }
        answers = generate(self.encoder, template, values, self.most, self.ends)
        meter.add_unpadded(len(ordered), int(template.lengths(values).sum()))
        meter.add_unpadded(0, sum(map(len, answers)))
        for prompt, answer in zip(ordered, answers, strict=True):
            text = tokenizer.decode(answer.tolist(), skip_special_tokens=True)
            self._written[id(template), prompt] = " ".join(text.split())


def end_tokens(source: LanguageModelSource) -> list[int]:
    """The tokens that end an answer, by the tokenizer, the model's config and its generation config.

    Raises:
        ValueError: there is none.
    """
    known = _known_ends(source) | _further_ends(source)
    if not known:
        raise ValueError(
            f"trsr_summarizer: neither the tokenizer of [{source.name}] nor its config has a token that "
            f"ends a text (eos_token). Give a model that has one."
        )
    return sorted(known)


def _known_ends(source: LanguageModelSource) -> set[int]:
    """The end tokens by the tokenizer and by the model's config."""
    ends = ends_of(source.config.get_text_config())
    return {source.tokenizer.eos_token_id, *ends} - {None}


def _further_ends(source: LanguageModelSource) -> set[int]:
    """Those that the model's generation_config.json adds: Gemma's end of a turn stands there alone."""
    settings = its_settings(source)
    return set() if settings is None else {*ends_of(settings)} - {None} - _known_ends(source)


def made_otherwise(source: LanguageModelSource) -> dict[str, Any]:
    """What summaries are made from besides the model's identity, where that makes others of them.

    Summaries that were kept before it was read are another model's only where it adds something.
    """
    ends = _further_ends(source)
    thinks = _frame(source) != _frame(source, at_once=False)
    return ({"ends": sorted(ends)} if ends else {}) | ({"thinking": False} if thinks else {})


def _frame(
    source: LanguageModelSource, at_once: bool = True
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before a prompt's words and behind its content: of a chat if the model has one.

    Args:
        at_once: whether a model that could think aloud first is not to: a summary has few tokens.
    """
    tokenizer = source.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        opening, _ = special_tokens(tokenizer)
        return opening, tokens_of(tokenizer, _LAST_WORDS)
    message = [{"role": "user", "content": _MARK}]
    chat = tokenizer.apply_chat_template(
        message,
        add_generation_prompt=True,
        tokenize=False,
        # Some templates, Llama 3's for one, say what day it is: summaries would differ by day.
        date_string=_DAY,
        strftime_now=lambda _: _DAY,
        **({"enable_thinking": False} if at_once else {}),
    )
    before, _, after = chat.partition(_MARK)
    return tokens_of(tokenizer, before), tokens_of(tokenizer, after)
