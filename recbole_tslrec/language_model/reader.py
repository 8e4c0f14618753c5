"""The language model that an experiment's settings ask for, with its prompt and item slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from logging import getLogger
from typing import TYPE_CHECKING

from torch import Tensor

from recbole_tslrec.language_model.item_inputs import BETWEEN_ITEMS, has_slots
from recbole_tslrec.language_model.prompt import HISTORY, items_of, make_prompt, n_words
from recbole_tslrec.language_model.prompts.segments import Items, TokenTable, Words, tokens_of
from recbole_tslrec.language_model.prompts.template import (
    Template,
    Values,
    largest_token,
    special_tokens,
)

if TYPE_CHECKING:
    from torch import nn

    from recbole_tslrec.language_model.encoder import ItemEncoder, ItemPromptModel
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.text_encoder import TextEncoder

# transformers is slow to import, and the models that use this file are imported with the package.

_WORTH = "which makes it two to five times as fast"


def open_source_for(config) -> LanguageModelSource:
    """The experiment's language model, checked but not loaded; errors as in ``open_source``."""
    from recbole_tslrec.language_model.source import open_source

    return open_source(config["llm"], config["llm_trust_remote_code"])


def make_prompt_for(
    config,
    source: LanguageModelSource,
    words: str,
    key: str,
    texts: Mapping[str, str] | None = None,
) -> Template:
    """The experiment's prompt for a language model; logs how much of a history it holds.

    Args:
        words: those before the history.
        key: by which the user chooses these words.
        texts: as ``tokenised_texts`` takes them, if the items' words stand in the prompt.
    """
    from recbole_tslrec.language_model.source import cannot_be_opened

    response = config["llm_response"]
    with cannot_be_opened(source.name):  # one that knows no words fails at the first
        source.tokenizer([words, response])
    prompt = make_prompt(
        source.tokenizer, words, response, config["llm_max_history"], source.context_length, key
    )
    check_words(source, largest_token(prompt))
    fitting = items_of(prompt).most
    if fitting < config["llm_max_history"]:
        getLogger(__name__).warning(
            f"llm_max_history: [{config['llm_max_history']}] items do not fit the language model's "
            f"context of {source.context_length}; the most recent {fitting} enter."
        )
    return prompt if texts is None else _with_words(config, source, prompt, texts)


def _with_words(
    config, source: LanguageModelSource, prompt: Template, texts: Mapping[str, str]
) -> Template:
    """The prompt with the items' words in place of their slots, or behind them."""
    # A blank before each text, and the tokens that it has behind the separator.
    words = {item: f" {text}" if text else "" for item, text in texts.items()}
    table = tokenised_texts(config, source, words, BETWEEN_ITEMS)
    before, history, after = prompt.segments
    items = replace(
        history,
        slots=has_slots(config),
        texts=table,
        separator=tokens_of(source.tokenizer, BETWEEN_ITEMS),
        most=config["llm_max_history"],
    )
    longest = int(table.lengths.max(initial=0)) + items.slots + len(items.separator)
    fitting = room_for_items(source, prompt) // longest
    if fitting < items.most:
        getLogger(__name__).warning(
            f"llm_max_history: of [{items.most}] items with their words as few as {fitting} may "
            f"fit the language model's context of {source.context_length}; the oldest are left out."
        )
    segments = (before, items, after)
    return replace(prompt, segments=segments, context_length=source.context_length)


def room_for_items(source: LanguageModelSource, prompt: Template) -> int:
    """The positions that a prompt's own words leave for items."""
    return source.context_length - n_words(prompt)


def check_prompt(source: LanguageModelSource, template: Template, longest: Values) -> None:
    """Raise ValueError if a prompt does not fit the context, or the model does not know its words.

    Args:
        longest: the values of a prompt that must fit.
    """
    template.lengths(longest)
    check_words(source, largest_token(template))


def check_words(source: LanguageModelSource, largest: int) -> None:
    """Raise ValueError if the tokenizer gives words that the language model does not have.

    Tokens that no prompt holds do not matter: many a tokenizer has some more than its model.

    Args:
        largest: of the ids of the prompts' words.
    """
    known = source.shape.get_input_embeddings().num_embeddings
    if largest >= known:
        raise ValueError(
            f"llm: the tokenizer of [{source.name}] gives the prompt's words ids up to {largest}, and "
            f"the language model knows {known} (vocab_size in its config.json): they do not belong "
            f"together. Give a model with its own tokenizer."
        )


def make_reader(
    config,
    source: LanguageModelSource,
    item_embeddings: Tensor | None,
    with_adapters: bool,
    head: bool = False,
) -> ItemPromptModel:
    """The language model with item slots, as it is before training, on the experiment's device.

    Args:
        config: RecBole's config with our keys.
        source: an opened source.
        item_embeddings: what the slots project, [n_items, d] with the padding row 0; None without slots.
        with_adapters: whether it is to be trained.
        head: whether with its language-model head.

    Raises:
        ValueError: ``lora_target_modules`` matches no layer, or the head is of an unknown kind.
    """
    from recbole_tslrec.language_model.encoder import ItemPromptModel

    language_model = load_for_prompts(config, source, with_adapters, head)
    reader = ItemPromptModel(language_model, item_embeddings, config["llm_pooling"])
    return reader.to(config["device"])


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Without transformers' bars while it loads, if RecBole is to show none either."""
    from transformers.utils import logging

    switch_off = not shown and logging.is_progress_bar_enabled()
    if switch_off:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if switch_off:
            logging.enable_progress_bar()


def load_for_prompts(
    config, source: LanguageModelSource, with_adapters: bool, head: bool = False
) -> nn.Module:
    """The language model as the experiment's settings ask for it, on the experiment's device.

    Args:
        with_adapters: whether it is to be trained.
        head: whether with its language-model head.

    Raises:
        ValueError: ``lora_target_modules`` matches no layer, the head is of an unknown kind, or an
            encoder reads padding.
    """
    from recbole_tslrec.language_model.kinds import ENCODER
    from recbole_tslrec.language_model.load import (
        add_adapters,
        keep_few_activations,
        load_language_model,
    )
    from recbole_tslrec.language_model.own_head import check_head
    from recbole_tslrec.language_model.own_padding import check_padding
    from recbole_tslrec.language_model.random_model import random_language_model

    load = random_language_model if source.is_random else load_language_model
    with _bars("show_progress" not in config or config["show_progress"]):
        language_model = load(
            source, config["llm_quantization"], config["device"], config["llm_attention"], head
        )
    if head:
        check_head(language_model, source.name)
    if source.kind == ENCODER:
        check_padding(language_model, source.name)
    if with_adapters:
        language_model = add_adapters(
            language_model,
            r=config["lora_r"],
            alpha=config["lora_alpha"],
            dropout=config["lora_dropout"],
            target_modules=config["lora_target_modules"],
        )
        if config["llm_gradient_checkpointing"]:
            keep_few_activations(language_model)
    return language_model


def tokenised_texts(
    config, source: LanguageModelSource, texts: Mapping[str, str], before: str = ""
) -> TokenTable:
    """The items' texts for a language model, of each the first ``item_text_tokens`` tokens.

    Args:
        texts: by the item's token, in the order of internal ids, without padding, whose row is empty.
        before: the words behind which they stand, if their tokens are to be those that they have there.

    Raises:
        ValueError: the tokenizer finds nothing to read in a text, or gives what the model does not know.
    """
    from recbole_tslrec.language_model.source import cannot_be_opened

    rows = ["", *texts.values()]
    with cannot_be_opened(source.name):
        table = TokenTable.behind(source.tokenizer, before, rows, config["item_text_tokens"])
    check_words(source, int(table.tokens.max(initial=0)))
    lengths = zip(texts, table.lengths[1:], strict=True)
    empty = [f"{item!r} ({texts[item]!r})" for item, length in lengths if not length]
    if empty:
        raise ValueError(
            f"item_text: the tokenizer of [{source.name}] finds no word in the texts of {len(empty)} "
            f"items, among them {', '.join(empty[:5])}. Give these items other texts in the .item file."
        )
    return table


def first_of_a_text(source: LanguageModelSource) -> tuple[int, ...]:
    """What stands before a text alone where the tokenizer puts nothing there and the model is causal.

    Whatever is first, all other positions look at it, and its state tells little of its own word: those
    of different words have a cosine of .99 (SmolLM2). So it is not to be a word of the text. Empty where
    the tokenizer has no token for it, too.
    """
    tokenizer = source.tokenizer
    if source.kind != "causal" or special_tokens(tokenizer)[0]:
        return ()
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(((one,) for one in ids if one is not None), ())


def text_prompts(source: LanguageModelSource, texts: TokenTable) -> Template:
    """The prompts in which the language model reads each item's text alone.

    Raises:
        ValueError: a text does not fit the context.
    """
    before, after = special_tokens(source.tokenizer)
    before, after = Words(first_of_a_text(source) or before), Words(after)
    item = Items(HISTORY, texts=texts, most=1)
    prompt = Template((before, item, after), source.context_length)
    longest, room = int(texts.lengths.max(initial=0)), room_for_items(source, prompt)
    if longest > room:
        raise ValueError(
            f"item_text_tokens: an item's text has {longest} tokens, and the language model's context "
            f"of {source.context_length} holds {room} of it. Set item_text_tokens: {room} or fewer."
        )
    return prompt


def make_text_encoder(
    config, source: LanguageModelSource, texts: TokenTable, with_adapters: bool = False
) -> tuple[TextEncoder, Template]:
    """The language model as it reads each item's text alone, and the prompts for it.

    Args:
        with_adapters: whether it is to be trained.

    Raises:
        ValueError: as ``text_prompts``.
    """
    from recbole_tslrec.language_model.text_encoder import TextEncoder

    prompt = text_prompts(source, texts)
    encoder = TextEncoder(load_for_prompts(config, source, with_adapters), prompt)
    return encoder.to(config["device"]), prompt


def shared_if_possible(
    template: Template, reader: ItemEncoder, config, key: str, training: bool = False
) -> Template:
    """The same template in the form in which ``reader`` takes the fewest positions.

    Args:
        key: by which the user chooses the words that lead.
        training: whether gradients are to be computed; under gradient checkpointing transformers
            keeps no cache, and the words before the history stand in every prompt.
    """
    from recbole_tslrec.language_model.encoder import trunk_of
    from recbole_tslrec.language_model.shared_prefix import can_share_prefix, looks_back_only

    trunk = trunk_of(reader.language_model)
    shared = can_share_prefix(trunk)
    if shared and training and config["llm_gradient_checkpointing"]:
        getLogger(__name__).warning(
            "llm_gradient_checkpointing: saves the memory of the activations, and takes the whole "
            "instruction in every prompt: transformers keeps no cache of it then. Without, the "
            f"instruction is read once a batch, {_WORTH}; choose that where the memory allows it."
        )
        shared = False
    elif not shared and looks_back_only(trunk):
        getLogger(__name__).warning(
            f"llm: [{config['llm']}] is causal, and yet cannot go on from an instruction that was read "
            f"once a batch, {_WORTH}: it is read in every prompt. A short {key} helps."
        )
    return replace(template, shared_prefix=shared)
