"""What an evaluation on all items costs: RecBole's own way against blocks of users.

    python benchmarks/evaluation.py --datasets=beauty,ml-100k --backbones=SASRec,GRU4Rec

All ways of a backbone run in one process, taking turns, and the median of the turns counts, so that
whatever else the machine does falls on all of them alike. Memory is the peak of a process that does
nothing but one evaluation. The models are untrained: their numbers do not change the time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed
from tabulate import tabulate

from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.experiments.run.machine import machine
from recbole_tslrec.language_model import meter

METRICS = {"metrics": ["Hit", "NDCG"], "topk": [5, 10], "metric_decimal_place": 12}
WAYS = ("RecBole", "blocks", "both protocols")


def make_ways(
    backbone: str, dataset: str, args: argparse.Namespace
) -> dict[str, Callable[[], dict]]:
    """What evaluates one model on the test rows, by the way's name; each gives its metrics."""
    settings = METRICS | {
        "data_path": args.data_path,
        "gpu_id": args.gpu_id,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "hidden_size": args.hidden_size,
        "embedding_size": args.hidden_size,
        "state": "ERROR",
    }
    config = Config(backbone, dataset, config_dict=settings)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    model = get_model(backbone)(config, loaders[0]._dataset).to(config["device"])
    trainers = Trainer(config, model), get_trainer(config["MODEL_TYPE"], backbone)(config, model)
    recbole, ours = (
        lambda trainer=trainer: trainer.evaluate(loaders[2], load_best_model=False)
        for trainer in trainers
    )
    ranks = lambda: rank_test_targets(model, *loaders).metrics()["ranked"]  # noqa: E731
    return dict(zip(WAYS, (recbole, ours, ranks), strict=True))


def peak_memory(way: str, *of_what) -> float:
    """GiB at the most, of resident memory or on the GPU, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, way, *of_what).result()


def _peak_memory_here(way: str, backbone: str, dataset: str, args: argparse.Namespace) -> float:
    sys.argv = sys.argv[:1]
    make_ways(backbone, dataset, args)[way]()
    return meter.peak_memory(torch.device("cuda" if args.gpu_id else "cpu")) / 2**30


def measure(backbone: str, dataset: str, args: argparse.Namespace) -> list[list[str]]:
    """The rows of one backbone on one data set."""
    ways = make_ways(backbone, dataset, args)
    expected = ways["RecBole"]()  # and the others' first turn would pay for it, were it not here
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    differences = dict.fromkeys(ways, 0.0)
    for _ in range(args.turns):
        for way, evaluate in ways.items():
            start = perf_counter()
            found = evaluate()
            seconds[way].append(perf_counter() - start)
            differences[way] = max(abs(found[name] - expected[name]) for name in expected)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return [
        [
            dataset,
            backbone,
            way,
            f"{medians[way]:.3f}",
            f"{min(seconds[way]):.3f}–{max(seconds[way]):.3f}",
            f"{medians['RecBole'] / medians[way]:.1f}",
            f"{differences[way]:.0e}",
            f"{peak_memory(way, backbone, dataset, args):.2f}",
        ]
        for way in ways
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", default="beauty,ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--backbones", default="SASRec,GRU4Rec")
    parser.add_argument("--hidden_size", type=int, default=64, help="d, of the item table too")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way")
    parser.add_argument("--gpu_id", default="", help="as RecBole's; empty for the CPU")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    rows = [
        row
        for dataset in args.datasets.split(",")
        for backbone in args.backbones.split(",")
        for row in measure(backbone, dataset, args)
    ]
    headers = ["data", "model", "way", "s", "from–to", "× faster", "largest difference", "peak GiB"]
    print(machine("cuda" if args.gpu_id else "cpu") + "\n")
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
