"""Language models of a given size with random weights: enough to measure time and memory.

Nothing is downloaded. Quantised weights are made straight in 4 or 8 bits, a matrix at a time, so that a
model that only fits in 4 bits can be built where it runs.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from recbole_tslrec.language_model.kinds import model_class
from recbole_tslrec.language_model.load import (
    full_precision_dtype,
    keep_4_bit_weights_as_they_are,
    n_parameters,
    quantization_config,
)
from recbole_tslrec.language_model.source import LanguageModelSource


def random_language_model(
    source: LanguageModelSource,
    quantization: str,
    device: torch.device,
    attention: str = "sdpa",
    head: bool = False,
) -> PreTrainedModel:
    """A frozen model with random weights, held as ``load_language_model`` would hold it.

    Args:
        source: of a size.
        quantization: ``none``, ``int8`` or ``nf4``.
        device: where it is made.
        attention: transformers' name of an implementation.
        head: whether with the language-model head.
    """
    kind = model_class(source, head)
    options = {"attn_implementation": attention}
    if quantization == "none":
        options["dtype"] = full_precision_dtype(device)
        with device:
            model = kind.from_config(copy.deepcopy(source.config), **options)
    else:
        with torch.device("meta"):
            model = kind.from_config(copy.deepcopy(source.config), **options)
        _fill_quantised(model, quantization, device)
    model.loaded = {"parameters": n_parameters(model), "random": True}
    model.config.use_cache = False
    if quantization == "nf4" and device.type == "cpu":
        keep_4_bit_weights_as_they_are(model)
    return model.requires_grad_(False).eval()


def _fill_quantised(model: PreTrainedModel, quantization: str, device: torch.device) -> None:
    """Give a model on the meta device its weights, those of linear layers but the head's quantised."""
    import bitsandbytes
    from transformers.integrations import replace_with_bnb_linear

    wanted = quantization_config(quantization, device)
    heads = [
        name for name, layer in model.named_modules() if layer is model.get_output_embeddings()
    ]
    replace_with_bnb_linear(model, heads, quantization_config=wanted)
    quantised = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    for module in model.modules():
        if not isinstance(module, quantised):
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
    _fill_the_rest(model, device)


def _fill_the_rest(model: PreTrainedModel, device: torch.device) -> None:
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
    model.tie_weights()
