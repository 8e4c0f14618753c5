"""What stays in float32 where a backbone's training computes in bf16."""

from __future__ import annotations

from types import MethodType

import torch
from torch import nn


def keep_recurrent_layers_exact(model: nn.Module) -> None:
    """Let recurrent layers compute in float32, whatever autocast says.

    On a GPU autocast casts them to float16 even where its own type is bfloat16 (torch,
    aten/src/ATen/cudnn/AutocastRNN.cpp), and a loss that nothing scales leaves gradients of 0 there.
    """
    for layer in model.modules():
        if isinstance(layer, nn.RNNBase):
            layer.forward = MethodType(_in_float32, layer)


def _in_float32(layer: nn.RNNBase, input, hx=None):
    """The layer's own ``forward``; it takes the names of that."""
    with torch.autocast(layer.weight_hh_l0.device.type, enabled=False):
        return type(layer).forward(layer, input.float(), hx)
