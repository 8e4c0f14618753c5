"""Configurations of language models that are made with random weights, to measure time and memory."""

from __future__ import annotations

from transformers import AutoConfig, LlamaConfig, PretrainedConfig, Qwen2Config

RANDOM = "random:"  # before a size, as the key `llm` takes it

_LLAMA2 = {"vocab_size": 32_000, "max_position_embeddings": 4096}
SIZES = {
    "llama2-13b": lambda: LlamaConfig(
        **_LLAMA2,
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
    ),
    "llama2-7b": lambda: LlamaConfig(
        **_LLAMA2,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
    ),
    "qwen2.5-0.5b": lambda: Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": lambda: LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    # For two CPU cores: 8 layers of width 512.
    "small": lambda: LlamaConfig(
        **_LLAMA2,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
    ),
}


def config_of(size: str) -> PretrainedConfig:
    """A name's configuration, or that of a folder or hub id.

    Raises:
        ValueError: there is none.
    """
    if size in SIZES:
        return SIZES[size]()
    try:
        return AutoConfig.from_pretrained(size)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"llm: of [{RANDOM}{size}] the size is neither one of {', '.join(SIZES)} nor a folder or "
            f"hub id with a configuration. transformers says: {error}"
        ) from error
