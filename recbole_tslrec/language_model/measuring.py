"""Times a sample of a workload and extrapolates: what computing the whole would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from recbole_tslrec.language_model.meter import metered, peak_memory
from recbole_tslrec.language_model.workload import Workload


@dataclass
class Measured:
    """What a part came to.

    Attributes:
        row: of a comparison, whose part it is.
        part, when, unit, means: as ``Workload`` has them.
        parameters: of the language model, with what is trained besides.
        examples: of the whole.
        positions: of the whole, padding included; what an encoder-decoder writes is not among them.
        padding_share: of the positions.
        sampled: the share of the whole that was computed.
        seconds: of the whole.
        peak_memory: bytes, of its largest batch; on a CPU the process's in all.
        share_of_matrix_rate: on a GPU, of what plain bf16 products reach there.
    """

    row: str
    part: str
    when: str
    unit: str
    means: str
    parameters: int
    examples: int
    positions: int
    padding_share: float
    sampled: float
    seconds: float
    peak_memory: int
    share_of_matrix_rate: float | None


def sampled_batches(workload: Workload, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches that stand for the whole: evenly from the cheapest to the dearest.

    Returns:
        places in ``workload.batches``, each once; how many of the turns fall on each.
    """
    order = np.argsort(workload.weights, kind="stable")
    reached = np.cumsum(workload.weights[order])
    wanted = (np.arange(turns) + 0.5) / turns * reached[-1]
    places, turns_of_each = np.unique(np.searchsorted(reached, wanted), return_counts=True)
    return order[places], turns_of_each


def measure(row: str, workload: Workload, turns: int) -> Measured:
    """Compute a sample of a part, and extrapolate.

    Args:
        turns: the batches that are timed, after one that is not.
    """
    chosen, turns_of_each = sampled_batches(workload, turns)
    device = next(workload.reader.parameters()).device

    def run(batch: int) -> float:
        start = perf_counter()
        workload.run(workload.batches[batch], meter)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter() - start

    with metered(workload.reader) as meter:
        run(chosen[0])  # which warms up
    with metered(workload.reader) as meter:
        seconds = np.array([run(batch) for batch in chosen])
    weights, cost = workload.weights[chosen], meter.cost()
    whole = workload.weights.sum()
    each = np.average(seconds / weights, weights=turns_of_each)
    of_all = seconds.sum() if len(chosen) == len(workload.batches) else each * whole
    return Measured(
        row,
        workload.part,
        workload.when.value,
        workload.unit,
        workload.means,
        workload.n_parameters,
        workload.n_examples,
        round(cost["positions"] / weights.sum() * whole),
        cost["padding_share"],
        float(weights.sum() / whole),
        float(of_all),
        _peak(workload, device),
        cost["share_of_matrix_rate"],
    )


def _peak(workload: Workload, device: torch.device) -> int:
    """Bytes at the most while the largest batch is computed."""
    forget = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif forget.exists():
        forget.write_text("5")  # the peak so far, on Linux
    with metered(workload.reader) as meter:
        workload.run(workload.batches[int(workload.weights.argmax())], meter)
        return peak_memory(device)
