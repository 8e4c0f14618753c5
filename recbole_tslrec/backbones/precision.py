"""What stays in float32 where a backbone's training computes in bf16."""

from __future__ import annotations

from functools import wraps

import torch
from torch import Tensor, nn


def keep_recurrent_layers_exact(model: nn.Module, device: str) -> None:
    """Let recurrent layers compute in float32, whatever autocast says.

    On a GPU autocast casts them to float16 even where its own type is bfloat16 (torch,
    aten/src/ATen/cudnn/AutocastRNN.cpp), and a loss that nothing scales leaves gradients of 0 there.

    Args:
        device: the type of the device that autocast is for.
    """
    for layer in model.modules():
        if isinstance(layer, nn.RNNBase):
            layer.forward = _in_float32(layer.forward, device)


def _in_float32(forward, device: str):
    @wraps(forward)
    def exact(given: Tensor, state: Tensor | None = None):
        with torch.autocast(device, enabled=False):
            return forward(given.float(), state)

    return exact
