"""What the loss over all items costs: ours, in bfloat16, the plain one, and torch's own in chunks.

    OMP_NUM_THREADS=1 python benchmarks/softmax.py

Forward and backward of one step, in turns; medians of the processor's seconds, which other programs
on the machine change little.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from time import process_time

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.backbones.losses import softmax_loss
from recbole_tslrec.config.devices import machine


def plain(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(states @ table.T, targets)


def ways() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Those that this torch and this processor have."""
    known = {"plain": plain, "ours": softmax_loss}
    if torch.cpu._is_avx512_bf16_supported():
        known["ours, bfloat16"] = partial(softmax_loss, products=torch.bfloat16)
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions
        known["torch, its chunks"] = partial(F.linear_cross_entropy, options=options())
        chunks = options(batch_chunk_size=128, chunking_method=None)
        known["torch, 128 rows"] = partial(F.linear_cross_entropy, options=chunks)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=2048, help="of a step")
    parser.add_argument("--items", type=int, default=12102, help="Beauty's, with padding")
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=11)
    args = parser.parse_args()
    torch.manual_seed(0)
    states = torch.randn(args.targets, args.hidden_size, requires_grad=True)
    table = (0.1 * torch.randn(args.items, args.hidden_size)).requires_grad_()
    targets = torch.randint(1, args.items, (args.targets,))
    seconds: dict[str, list[float]] = {name: [] for name in ways()}
    for turn in range(args.turns + 1):
        for name, loss in ways().items():
            start = process_time()
            torch.autograd.grad(loss(states, table, targets), (states, table))
            if turn > 0:  # the first pays for what all need
                seconds[name].append(process_time() - start)
    rows = [
        [name, f"{statistics.median(times):.3g}", f"{min(times):.3g}–{max(times):.3g}"]
        for name, times in seconds.items()
    ]
    print(machine("cpu") + "\n")
    print(tabulate(rows, ["way", "s", "from–to"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
