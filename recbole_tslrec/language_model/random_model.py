"""Language models of a given size with random weights: enough to measure time and memory.

Nothing is downloaded. Quantised weights are made straight in 4 or 8 bits, a matrix at a time, so that a
model that only fits in 4 bits can be built where it runs.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from recbole_tslrec.language_model.load import (
    full_precision_dtype,
    keep_4_bit_weights_as_they_are,
    quantization_config,
)

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
    ),
    "smollm2-135m": lambda: LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    ),
    # For two CPU cores: 8 layers of width 512.
    "small": lambda: LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
    ),
}


def random_language_model(size: str, quantization: str, device: torch.device) -> PreTrainedModel:
    """A frozen trunk with random weights, held as ``load_language_model`` would hold it.

    Args:
        size: a name in ``SIZES``, or a folder or hub id whose configuration is read.
        quantization: ``none``, ``int8`` or ``nf4``.
        device: where it is made.

    Raises:
        ValueError: there is no such size or configuration.
    """
    config = _config(size)
    options = {"dtype": full_precision_dtype(device)}
    if quantization == "none":
        with device:
            model = AutoModel.from_config(config, **options)
    else:
        model = _made_quantised(config, quantization, device)
    model.config.use_cache = False
    if quantization == "nf4" and device.type == "cpu":
        keep_4_bit_weights_as_they_are(model)
    return model.requires_grad_(False).eval()


def _config(size: str) -> PretrainedConfig:
    if size in SIZES:
        return SIZES[size]()
    try:
        return AutoConfig.from_pretrained(size)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"size: [{size}] is neither one of {', '.join(SIZES)} nor a folder or hub id with a "
            f"configuration. transformers says: {error}"
        ) from error


def _made_quantised(
    config: PretrainedConfig, quantization: str, device: torch.device
) -> PreTrainedModel:
    import bitsandbytes
    from transformers.integrations import replace_with_bnb_linear

    wanted = quantization_config(quantization, device)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    replace_with_bnb_linear(model, quantization_config=wanted)
    for module in model.modules():
        if not isinstance(module, nn.Linear) or not module.weight.is_meta:
            continue
        weight = torch.randn(module.weight.shape, device=device, dtype=torch.bfloat16) * 0.02
        if quantization == "nf4":
            module.weight = bitsandbytes.nn.Params4bit(
                weight, requires_grad=False, quant_type="nf4", compress_statistics=True
            ).to(device)
        else:
            module.weight = bitsandbytes.nn.Int8Params(
                weight.to(torch.float16).cpu(), requires_grad=False
            ).to(device)
    return _fill_the_rest(model, device)


def _fill_the_rest(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Give everything that is still without weights (embeddings, norms, buffers) random ones."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                filled = torch.randn(parameter.shape, device=device) * 0.02
                filled = (
                    filled + 1 if parameter.dim() == 1 and name == "weight" else filled
                )  # a norm
                setattr(module, name, nn.Parameter(filled, requires_grad=False))
    # Rotary positions: their angles are buffers, computed from the configuration.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if any(buffer.is_meta for buffer in child.buffers(recurse=False)):
                setattr(parent, name, type(child)(config=model.config).to(device))
    return model
