"""What would stop an experiment's language model later, told before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole_tslrec.language_model.item_inputs import has_slots, has_words
from recbole_tslrec.language_model.reader import make_prompt_for, open_source_for, room_for_items

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource


def check_language_model(
    config, words: str, key: str, source: LanguageModelSource | None = None
) -> None:
    """Raise what would stop its reading of items later; of its weights it reads names and shapes.

    Those of a hub are downloaded here, rather than after the stages before.

    Args:
        words, key: as ``make_prompt_for`` takes them.
        source: the opened language model; None: it is opened here.

    Raises:
        ValueError, OSError, ModuleNotFoundError: says which key, its value, and what to do.
    """
    source = source or open_source_for(config)
    prompt = make_prompt_for(config, source, words, key)
    longest, room = config["item_text_tokens"] + has_slots(config), room_for_items(source, prompt)
    if has_words(config) and longest > room:
        most = room - has_slots(config)
        remedy = f"Set item_text_tokens: {most} or fewer" if most > 0 else f"Shorten {key}"
        raise ValueError(
            f"item_text_tokens: an item takes up to {longest} positions, and the prompt's own words "
            f"leave {room} of the language model's {source.context_length}. {remedy}."
        )
    check_source(config, source)


def check_source(config, source: LanguageModelSource) -> None:
    """Raise what would stop the experiment's language model from being loaded later.

    Raises:
        ValueError, OSError, ModuleNotFoundError: says which key, its value, and what to do.
    """
    from recbole_tslrec.language_model.load import check_attention, check_quantization
    from recbole_tslrec.language_model.memory import check_memory
    from recbole_tslrec.language_model.weights import check_weights

    device = config["device"]
    check_quantization(config["llm_quantization"], source, device)
    check_attention(config["llm_attention"], source, device)
    check_memory(source, config["llm_quantization"], device)
    check_weights(source)


def check_fine_tuning(config, source: LanguageModelSource | None = None) -> None:
    """Raise what would stop its training later, besides what ``check_language_model`` raises.

    A model that comes from a checkpoint is not trained, and may be used on less than what trained it.

    Args:
        source: the opened language model; None: it is opened here.

    Raises:
        ValueError, OSError, ModuleNotFoundError: says which key, its value, and what to do.
    """
    from recbole_tslrec.language_model.load import check_adapters
    from recbole_tslrec.language_model.memory import check_batch

    if config["trained_on"] is not None:
        return
    source, device = source or open_source_for(config), config["device"]
    check_batch(source, config["sft_batch_positions"], device)
    check_adapters(source, config["lora_target_modules"], config["lora_r"])
    if config["sft_optimizer"] == "paged_adamw_8bit" and device.type != "cuda":
        raise ValueError(
            f"sft_optimizer: [paged_adamw_8bit] pages between a GPU and its host, and the device is "
            f"[{device}]. Give adamw_torch, or adamw_8bit."
        )
