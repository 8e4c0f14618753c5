"""What a stage of the language model costs: positions, time, memory, operations."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from recbole_tslrec.config.devices import bf16_is_fast


@dataclass
class Meter:
    """Counts what passes through a reader of prompts while ``metered`` is open.

    Attributes:
        examples: prompts.
        positions: positions computed, padding and shared prefixes included.
        trained_positions: those of them that also had a backward pass.
        seconds: wall time.
        operations: floating-point operations of the matrix products.
        peak_memory: bytes.
        matrix_rate: operations a second of plain bf16 products on the same GPU; None on a CPU.
    """

    examples: int = 0
    positions: int = 0
    trained_positions: int = 0
    seconds: float = 0.0
    operations: float = 0.0
    peak_memory: int = 0
    matrix_rate: float | None = None
    _filled: Tensor | int = 0

    def add(
        self,
        token_ids: Tensor,
        attention_mask: Tensor,
        prefix_ids: Tensor | None,
        prefix_mask: Tensor | None = None,
        prefix_of: Tensor | None = None,
    ) -> None:
        """Count one batch.

        Args:
            prefix_of: which prefix each prompt stands in a row with; None: it is in none.
        """
        prefix = 0 if prefix_ids is None else prefix_ids.numel()
        behind = token_ids.numel()
        if prefix_of is not None:
            behind = len(prefix_ids) * _longest_row(attention_mask, prefix_of)
        positions = behind + prefix
        self.examples += len(token_ids)
        self.positions += positions
        self.trained_positions += positions if torch.is_grad_enabled() else 0
        prefix = prefix if prefix_mask is None else prefix_mask.sum()
        self._filled += attention_mask.sum() + prefix  # a tensor: no waiting for the device

    def add_unpadded(self, examples: int, positions: int) -> None:
        """Count what does not pass through the reader's ``forward``, such as what is generated."""
        self.examples += examples
        self.positions += positions
        self._filled += positions

    def cost(self) -> dict[str, Any]:
        """As a stage's manifest keeps it."""
        rate = self.operations / max(self.seconds, 1e-9)
        return {
            "examples": self.examples,
            "positions": self.positions,
            "padding_share": round(1 - int(self._filled) / max(self.positions, 1), 4),
            "seconds": round(self.seconds, 2),
            "positions_per_second": round(self.positions / max(self.seconds, 1e-9), 1),
            "peak_memory_bytes": self.peak_memory,
            "operations": self.operations,
            "share_of_matrix_rate": round(rate / self.matrix_rate, 3) if self.matrix_rate else None,
        }


def _longest_row(attention_mask: Tensor, prefix_of: Tensor) -> int:
    """The most positions that go on from one prefix."""
    own = attention_mask.sum(dim=1)
    return int(own.new_zeros(int(prefix_of.max()) + 1).index_add(0, prefix_of, own).max())


@contextmanager
def metered(reader: nn.Module) -> Iterator[Meter]:
    """Count all that ``reader`` (an ``ItemPromptModel``, or what takes the same batches) reads within.

    Memory is the peak of what torch took on a GPU within; on a CPU the peak of the process so far,
    which the system does not count anew.
    """
    meter = Meter()

    def count(_, args: tuple, batch: dict[str, Tensor]) -> None:
        prefix = [batch.get("prefix_ids"), batch.get("prefix_mask")]
        if batch.get("prefix_of") is not None and reader.packs:
            prefix.append(batch["prefix_of"])
        meter.add(batch["token_ids"], batch["attention_mask"], *prefix)

    device = next(reader.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    hook = reader.register_forward_pre_hook(count, with_kwargs=True)
    start = perf_counter()
    try:
        yield meter
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        meter.seconds = perf_counter() - start
        meter.peak_memory = peak_memory(device)
        meter.operations = operations(reader, meter.positions, meter.trained_positions)
        meter.matrix_rate = _matrix_rate_if_it_fits(device)
    finally:
        hook.remove()


def peak_memory(device: torch.device) -> int:
    """Bytes: what torch took on the GPU since the last reset, or the process on the CPU so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage where it can be had: a child process begins with its parent's maximum there.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peak = next((line for line in lines if line.startswith("VmHWM")), None)  # gVisor has none
    if peak is not None:
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def operations(reader: nn.Module, positions: int, trained_positions: int) -> float:
    """Floating-point operations of the matrix products.

    Forward, two for each weight and position; backward, two more for the gradient of the inputs and,
    where the weight is trained, two for its own. A frozen matrix has none. What attention does
    between positions is left out: at prompts of tens of positions it is below a percent. So is what an
    encoder-decoder writes: a few positions an example.
    """
    frozen = trained = 0
    for module in _read_through(reader):
        if isinstance(module, nn.Linear):
            size = module.in_features * module.out_features
        elif isinstance(module, Conv1D):  # GPT-2's linear layer
            size = module.weight.numel()
        else:
            continue
        if module.weight.requires_grad:
            trained += size
        else:
            frozen += size
    forward = 2 * (frozen + trained) * positions
    return float(forward + (2 * frozen + 4 * trained) * trained_positions)


def _read_through(reader: nn.Module) -> Iterator[nn.Module]:
    """The modules through which prompts pass: of an encoder-decoder the encoder alone."""
    model = getattr(reader, "language_model", None)
    config = getattr(model, "config", None)
    writing = set()
    if getattr(config, "is_encoder_decoder", False):
        writing = {*model.get_decoder().modules(), model.get_output_embeddings()}
    return (module for module in reader.modules() if module not in writing)


def _matrix_rate_if_it_fits(device: torch.device) -> float | None:
    try:
        # An older GPU computes bf16 by other means, or not at all.
        return matrix_rate(device) if device.type == "cuda" and bf16_is_fast(device) else None
    except torch.OutOfMemoryError:
        return None


def matrix_rate(device: torch.device, size: int = 8192, rounds: int = 10) -> float:
    """Operations a second of plain bf16 matrix products on a GPU, measured here and now."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    torch.cuda.synchronize(device)
    start = perf_counter()
    for _ in range(rounds):
        left @ right
    torch.cuda.synchronize(device)
    return rounds * 2 * size**3 / (perf_counter() - start)
