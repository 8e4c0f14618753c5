"""Several processes that make the language-model stages together, as ``torchrun`` starts them.

The engine is torch.distributed, begun and joined by accelerate as transformers' Trainer does. Messages
between our own processes go over gloo, also where gradients go over nccl: a process may wait here for
hours while another trains the backbone.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from accelerate import PartialState

_PATIENCE = timedelta(days=30)
_alone = False  # once the others have gone


def count() -> int:
    """The number of processes that work together; 1 unless torchrun started more."""
    if _alone or "LOCAL_RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", 1))


def number() -> int:
    """This process's number; 0 is the one that writes."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files, logs, and goes on to RecBole's loop."""
    return number() == 0


def local_device() -> torch.device:
    """The GPU of this process among those of its machine.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    place, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= found:
        raise ValueError(
            f"gpu_id: torchrun has started more processes on this machine than the {found} GPUs of "
            f"[{os.environ['CUDA_VISIBLE_DEVICES']}]. Start fewer, or name more GPUs in gpu_id."
        )
    return torch.device("cuda", place)


def tell(message: Any) -> None:
    """From the first process to all others, which are in ``hear``."""
    if count() > 1:
        distributed.broadcast_object_list([message], src=0, group=_group())


def hear() -> Any:
    """What the first process tells; waits for it."""
    message = [None]
    distributed.broadcast_object_list(message, src=0, group=_group())
    return message[0]


def agree(opinion: bool) -> bool:
    """The first process's opinion, for all."""
    if count() == 1:
        return opinion
    if is_first():
        tell(opinion)
        return opinion
    return hear()


def mean(own: torch.Tensor) -> torch.Tensor:
    """The mean over the processes of a tensor of one shape, which each has its own of."""
    if count() == 1:
        return own
    total = own.detach().cpu().clone()  # gloo's, and not the caller's
    distributed.all_reduce(total, group=_group())
    return (total / count()).to(own)


def wait_for_all() -> None:
    """Until every process has come here."""
    if count() > 1:
        distributed.barrier(group=_group())


def part() -> None:
    """End working together: the first process goes on alone, the others end here.

    Raises:
        SystemExit: in all processes but the first.
    """
    global _alone
    if count() == 1:
        return
    first = is_first()
    wait_for_all()
    distributed.destroy_process_group()
    _alone = True
    if not first:
        raise SystemExit(0)


@cache
def _group() -> distributed.ProcessGroup:
    state = _state()
    return distributed.new_group(
        list(range(state.num_processes)), timeout=_PATIENCE, backend="gloo"
    )


@cache
def _state() -> PartialState:
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
