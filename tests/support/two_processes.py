"""A function in two processes that work together, without the ten seconds of two fresh starts."""

import multiprocessing
import os
import socket

import torch
from accelerate.state import AcceleratorState

from recbole_tslrec.store import processes


def in_two_processes(function, *args) -> None:
    """As ``torchrun --nproc_per_node=2`` starts them; forked, so that what is patched stays so."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_as_one_of_two, args=(i, port, function, *args)) for i in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]


def _as_one_of_two(number: int, port: int, function, *args) -> None:
    torch.set_num_threads(1)  # a forked process has no other threads
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process it was
    for kept in (processes._state, processes._group):
        kept.cache_clear()
    given = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2}
    given |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in given.items()})
    function(*args)
