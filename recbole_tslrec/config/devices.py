"""The processor at hand: what it is, in words, and what it can do."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on the device's own instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def device_of(settings: Mapping[str, Any]) -> str:
    """Where RecBole works under some settings: ``cuda``, unless there is none or gpu_id names none."""
    on_cpu = settings.get("gpu_id", "0") in ("", "cpu", None)
    return "cpu" if on_cpu or not torch.cuda.is_available() else "cuda"


def processor() -> str:
    """The processor's own name where the system tells it (Linux), else its kind."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(device: str = "cpu") -> str:
    """One line on where this process runs: part of every measurement.

    Args:
        device: torch's name of what does the work.
    """
    chip = torch.cuda.get_device_name() if device != "cpu" else processor()
    return (
        f"{os.cpu_count()} cores, torch.get_num_threads() {torch.get_num_threads()}, {chip}, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )
