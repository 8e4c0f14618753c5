"""What a training epoch of the recommender costs: Base against TSLRec, prefixes against sequences.

    python benchmarks/recommender.py --dataset=ml-100k --backbones=SASRec,GRU4Rec,Caser,FMLPRec

All cells of a backbone run in one process, taking turns, and the median of the turns counts, so that
whatever else the machine does falls on all of them alike. Of prefixes a turn is some steps, and an epoch
the median step times the number of steps; of sequences a turn is an epoch. Memory is the peak of a
process that does nothing but one turn of one cell.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from tabulate import tabulate

from recbole_tslrec.backbones.specification import BACKBONES
from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader
from recbole_tslrec.experiments.run.machine import machine
from recbole_tslrec.language_model import meter

LANGUAGE_MODEL_WIDTH = 384  # of the embedded one
ENHANCED_DIM = 128  # the default: whatever the language model, no more columns are kept


@dataclass
class Cell:
    """One model under one batching, trained step by step.

    Attributes:
        steps: the number of steps of an epoch.
        turns: does some at a time and gives the seconds a step.
    """

    steps: int
    turns: Iterator[float]


def make_cell(model: str, batching: str, args: argparse.Namespace) -> Cell:
    """Set a cell up; TSLRec gets random vectors for h^v, since only their size matters here."""
    settings = {
        "data_path": args.data_path,
        "gpu_id": args.gpu_id,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "train_batching": batching,
        "enhanced_width": ENHANCED_DIM,
        "hidden_size": args.hidden_size,
        "embedding_size": args.hidden_size,
        "enhancement": "backbone_embedding",
        "state": "ERROR",
    }
    config = Config(model, args.dataset, config_dict=settings)
    init_seed(config["seed"], True)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset).to(config["device"])
    if model.startswith("TSLRec"):
        vectors = torch.randn(recommender.n_items - 1, LANGUAGE_MODEL_WIDTH)
        recommender.fusion.set_enhanced(vectors)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
    if batching == "sequence":
        train_data = WholeSequenceDataLoader(config, train_data._dataset, None, shuffle=True)
        # Its steps are short and, with batches by length, unlike each other: a turn is an epoch.
        return Cell(len(train_data), _turns(trainer, train_data, len(train_data)))
    return Cell(len(train_data), _turns(trainer, train_data, args.steps))


def _turns(trainer, train_data, steps: int) -> Iterator[float]:
    """Endless turns of some steps each; the seconds a step."""
    batches = itertools.chain.from_iterable(itertools.repeat(train_data))
    while True:
        turn = [next(batches) for _ in range(steps)]
        start = perf_counter()
        trainer._train_epoch(turn, epoch_idx=0)
        yield (perf_counter() - start) / steps


def peak_memory(model: str, batching: str, args: argparse.Namespace) -> float:
    """GiB at the most, of resident memory or on the GPU, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_memory_here, (model, batching, args))


def _peak_memory_here(model: str, batching: str, args: argparse.Namespace) -> float:
    sys.argv = sys.argv[:1]
    next(make_cell(model, batching, args).turns)
    return meter.peak_memory(torch.device("cuda" if args.gpu_id else "cpu")) / 2**30


def measure(backbone: str, args: argparse.Namespace) -> list[list[str]]:
    """The rows of one backbone."""
    batchings = ["prefix", "sequence"] if BACKBONES[backbone].causal else ["prefix"]
    names = list(itertools.product((backbone, f"TSLRec_{backbone}"), batchings))
    cells = {name: make_cell(*name, args) for name in names}
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in names}
    for _ in range(args.turns):
        for name, cell in cells.items():
            seconds[name].append(next(cell.turns))
    epochs = {name: statistics.median(seconds[name]) * cells[name].steps for name in names}
    return [
        [
            args.dataset,
            *name,
            f"{epochs[name]:.1f}",
            f"{epochs[name] / epochs[backbone, name[1]]:.2f}",
            f"{epochs[name[0], 'prefix'] / epochs[name]:.1f}",
            f"{peak_memory(*name, args):.2f}",
        ]
        for name in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--backbones", default="SASRec,GRU4Rec,Caser,FMLPRec")
    parser.add_argument("--hidden_size", type=int, default=64, help="d, of the item table too")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn of prefixes")
    parser.add_argument("--turns", type=int, default=5, help="turns of each cell")
    parser.add_argument("--gpu_id", default="", help="as RecBole's; empty for the CPU")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    rows = [row for backbone in args.backbones.split(",") for row in measure(backbone, args)]
    headers = ["data", "model", "train_batching", "s an epoch", "× Base", "× faster than prefix"]
    print(machine("cuda" if args.gpu_id else "cpu") + "\n")
    print(tabulate(rows, [*headers, "peak GiB"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
