"""What the processor at hand can do."""

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on the device's own instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
