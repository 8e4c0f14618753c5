"""What a language model takes in memory, estimated from its configuration before it is loaded."""

from __future__ import annotations

import gc

import psutil
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from recbole_tslrec.language_model.load import full_precision_dtype, meta_model
from recbole_tslrec.language_model.source import LanguageModelSource

QUANTIZATIONS = ("none", "int8", "nf4")
# Bytes a weight of a linear layer; nf4: 4 bits, and with double quantisation 0.127 bits of constants.
_BYTES = {"int8": 1.0, "nf4": 4.127 / 8}
_GIB = 2**30


def estimated_bytes(model: nn.Module, quantization: str, device: torch.device) -> int:
    """The weights' size once loaded; a lower bound of what the stages need.

    Args:
        model: of the language model's shape, on the meta device.
        quantization: as the key ``llm_quantization``.
        device: where it will live.
    """
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, (nn.Linear, Conv1D))
    )
    others = sum(parameter.numel() for parameter in model.parameters()) - linear
    if quantization == "none":
        return (linear + others) * full_precision_dtype(device).itemsize
    return int(linear * _BYTES[quantization]) + others * 4  # peft holds the others in fp32


def free_bytes(device: torch.device) -> int:
    """The memory that is free now."""
    if device.type == "cuda":
        gc.collect()  # what an earlier experiment of this process has left
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return psutil.virtual_memory().available


def check_memory(source: LanguageModelSource, quantization: str, device: torch.device) -> None:
    """Raise ValueError if the weights alone would not fit; says what would.

    Of a model that comes quantised nothing is known before it is loaded.
    """
    if getattr(source.config, "quantization_config", None) is not None:
        return  # as its maker has quantised it, in one of many ways; there is no choice to advise
    model = meta_model(source)
    needed = {choice: estimated_bytes(model, choice, device) for choice in QUANTIZATIONS}
    free = free_bytes(device)
    if needed[quantization] <= free:
        return
    fitting = [
        f"{choice} ({needed[choice] / _GIB:.1f} GiB)"
        for choice in QUANTIZATIONS
        if needed[choice] <= free
    ]
    advice = (
        f"llm_quantization: {' or '.join(fitting)} would fit"
        if fitting
        else "No quantisation makes it fit: give a smaller language model or a larger device"
    )
    raise ValueError(
        f"llm: the weights of [{source.name}] with llm_quantization: {quantization} take "
        f"{needed[quantization] / _GIB:.1f} GiB, and {free / _GIB:.1f} GiB are free on [{device}]. "
        f"{advice}."
    )


def check_batch(source: LanguageModelSource, positions: int, device: torch.device) -> None:
    """Raise ValueError if a batch could not be trained on in the memory that is free now.

    Counted is one hidden state a layer, which the backward pass needs under gradient checkpointing,
    too. What it really takes is many times more.

    Args:
        positions: as the key ``sft_batch_positions``.
    """
    a_position = source.n_layers * source.hidden_size * full_precision_dtype(device).itemsize
    free = free_bytes(device)
    if positions * a_position > free:
        raise ValueError(
            f"sft_batch_positions: [{positions}] positions take {positions * a_position / _GIB:.3g} GiB "
            f"or more in [{source.name}], and {free / _GIB:.1f} GiB are free on [{device}]. Give far "
            f"fewer than {free // a_position}, such as 1024."
        )
