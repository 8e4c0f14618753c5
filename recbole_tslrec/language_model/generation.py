"""Greedy generation from prompts, such as the summaries of LLM-TRSR (arXiv 2403.13325)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.prompts.template import Template, Values
from recbole_tslrec.language_model.source import LanguageModelSource


def its_settings(source: LanguageModelSource) -> GenerationConfig | None:
    """What a model's generation_config.json says; None if it has none.

    Raises:
        ValueError: transformers refuses what it says.
    """
    if source.is_random:
        return None
    try:
        return GenerationConfig.from_pretrained(source.location, **source.files_from)
    except OSError:
        return None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"llm: [{source.name}] has a generation_config.json that cannot be used: {error}. Mend the "
            f"file, or give another model."
        ) from None


def ends_of(config: GenerationConfig | PretrainedConfig) -> Sequence[int | None]:
    """The tokens by which a config says that a text ends."""
    ends = config.eos_token_id
    return ends if isinstance(ends, (list, tuple)) else [ends]


@torch.no_grad()
def generate(
    encoder: ItemEncoder,
    template: Template,
    values: Values,
    max_new_tokens: int,
    end_ids: list[int],
    positions_at_once: int = 16_384,
) -> list[np.ndarray]:
    """The most likely next token again and again, until an end token.

    Nothing is drawn at random, and the model's own settings of generation do not count.

    Args:
        encoder: around a language model that was loaded with its head, in evaluation mode.
        template: of the prompts, without a shared prefix.
        values: as ``Template.batch`` takes them, of any number of examples.
        max_new_tokens: the most tokens of an answer. The context must hold them behind the prompt.
        end_ids: the tokens that end an answer, at least one.
        positions_at_once: the most positions of a batch, those to come and padding included.

    Returns:
        the token ids of each example's answer, without the end token.
    """
    model = encoder.language_model
    if hasattr(model, "get_base_model"):  # the adapters sit in its layers
        model = model.get_base_model()
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids,
        pad_token_id=end_ids[0],
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        use_cache=True,
    )
    lengths = template.lengths(values) + max_new_tokens
    head = _in_float32(model.get_output_embeddings())
    answers: list[np.ndarray] = [np.empty(0, np.int64)] * len(lengths)
    its_own, model.generation_config = (
        model.generation_config,
        settings,
    )  # what is unset comes from it
    try:
        for examples in _by_length(lengths, positions_at_once):
            chosen = {name: [rows[number] for number in examples] for name, rows in values.items()}
            for number, row in zip(
                examples, _written(encoder, model, head, template.batch(chosen)), strict=True
            ):
                ends = np.flatnonzero(np.isin(row, end_ids))
                answers[number] = row[: ends[0]] if len(ends) else row
    finally:
        model.generation_config = its_own
    return answers


def _written(
    encoder: ItemEncoder, model: nn.Module, head: nn.Module, batch: dict[str, Tensor]
) -> np.ndarray:
    """What the model writes behind each prompt, filled up with an end token. [B, tokens]"""
    device = model.get_input_embeddings().weight.device
    batch = {name: part.to(device) for name, part in batch.items()}
    read, mask = batch["token_ids"], batch["attention_mask"]
    rows = batch.get("item_rows"), batch.get("soft_rows")
    name = "input_ids"  # words alone as such: some models write behind nothing else
    if any(own is not None for own in rows):
        name, read = "inputs_embeds", encoder.embed(read, *rows)
    if model.config.is_encoder_decoder:
        before = 1  # what a decoder starts with
    else:  # what is written must follow the last position
        read, mask = _padded_on_the_left(read, mask)
        before = read.shape[1] if name == "input_ids" else 0  # transformers gives it back
    with _fast_products(model, head, device):
        written = model.generate(**{name: read}, attention_mask=mask)[:, before:]
    return written.cpu().numpy()


def _in_float32(head: nn.Module) -> nn.Module:
    """The head, or a copy of one that is held in bf16, as on a GPU."""
    return head if head.weight.dtype == torch.float32 else deepcopy(head).float()


@contextmanager
def _fast_products(model: nn.Module, exact: nn.Module, device: torch.device) -> Iterator[None]:
    """Products in bf16 where that is fast; but logits as exact as the hidden states.

    In bf16 the largest logits of a vocabulary are often equal, and the first of them would be taken.

    Args:
        exact: its head in float32.
    """
    head = model.get_output_embeddings()
    logits = torch.autocast(device.type, enabled=False)(exact.forward)
    head.forward = lambda hidden: logits(hidden.float())
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            yield
    finally:
        del head.forward


def _by_length(lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Examples of like length, as many at once as take no more than ``most`` positions."""
    order = np.argsort(
        -lengths, kind="stable"
    )  # the longest first: what does not fit fails at once
    batches, start = [], 0
    while start < len(order):
        size = max(1, most // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def _padded_on_the_left(prompts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts [B, T, ...] and their mask [B, T] with padding before them in place of behind."""
    width = mask.shape[1]
    missing = width - mask.sum(dim=1, keepdim=True)
    source = (torch.arange(width, device=mask.device) - missing) % width
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    return prompts[rows, source], mask[rows, source]
