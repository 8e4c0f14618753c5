"""What an epoch of a recommender costs, training and evaluation: RecBole's own way against ours.

    python benchmarks/recommender.py

gives, for every backbone that reads items alone, as Base and as TSLRec on Beauty and ml-100k, the
seconds of a training epoch and of an evaluation on all items, and on the first data set the peak memory.
RecBole's way is a row for each prefix and batches of thousands of users; ours is ``train_batching:
auto`` and blocks of users.

All cells of a backbone run in one process, taking turns, and the median of the turns counts, so that
whatever else the machine does falls on all of them alike. Of rows for prefixes a turn is some steps, and
an epoch the median step times the number of steps; of whole sequences a turn is an epoch. An evaluation
is one of some users, evenly chosen, scaled to all. Models are hardly trained, which changes no time.
Memory is the peak of a process that does nothing but one turn of one cell.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import multiprocessing
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation, get_dataloader
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed
from tabulate import tabulate
from torch.nn.utils import parametrize
from tqdm import tqdm

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader
from recbole_tslrec.config.devices import machine
from recbole_tslrec.language_model import meter

LANGUAGE_MODEL_WIDTH = 384  # of the embedded one
ENHANCED_DIM = 128  # the default: whatever the language model, no more columns are kept
WAYS = ("RecBole", "ours")
# Beauty's items have no features that the first could read; the last's loss draws negative items.
LEFT_OUT = {"GRU4RecF", "SASRecF", "FDSA", "S3Rec", "TransRec"}


@dataclass
class Data:
    """A data set's training rows, and the test rows of some users of all."""

    train: SequentialDataset
    test: SequentialDataset
    share: float


def make_config(model: str, batching: str, dataset: str, args: argparse.Namespace) -> Config:
    settings = {
        "data_path": args.data_path,
        "gpu_id": args.gpu_id,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "train_batching": batching,
        "enhanced_width": ENHANCED_DIM,
        "hidden_size": args.hidden_size,
        "embedding_size": args.hidden_size,
        "enhancement": "random",
        "metrics": ["Hit", "NDCG"],
        "valid_metric": "NDCG@10",
        "state": "CRITICAL",
    }
    return Config(model, dataset, config_dict=settings)


def read(dataset: str, args: argparse.Namespace) -> Data:
    """The data set as RecBole prepares it, once for all models."""
    config = make_config("SASRec", "prefix", dataset, args)
    init_seed(config["seed"], True)
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    test = copy.copy(test_data._dataset)
    chosen = np.linspace(0, len(test) - 1, min(args.users, len(test))).astype(int)
    share = len(chosen) / len(test)
    test.inter_feat = test.inter_feat[chosen]
    return Data(train_data._dataset, test, share)


class Cell:
    """One model in one way, trained and evaluated turn by turn.

    Attributes:
        model: RecBole's name of it.
        batching: its ``train_batching``.
        training, evaluation: the seconds of an epoch, a turn each.
    """

    def __init__(self, model: str, way: str, dataset: str, data: Data, args: argparse.Namespace):
        config = make_config(model, "auto" if way == "ours" else "prefix", dataset, args)
        init_seed(config["seed"], True)
        # Before the model: a transform of theirs names columns that it reads.
        self._test = FullSortEvalDataLoader(config, data.test, None)
        get_dataloader(config, "train")(config, data.train, None)
        recommender = get_model(model)(config, data.train).to(config["device"])
        if model.startswith("TSLRec"):  # random vectors for h^v: only their size matters here
            vectors = torch.randn(recommender.n_items - 1, LANGUAGE_MODEL_WIDTH)
            recommender.fusion.set_enhanced(vectors)
        self.model, self.batching, self._share = model, config["train_batching"], data.share
        self._trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
        self._evaluator = self._trainer if way == "ours" else Trainer(config, recommender)
        if self.batching == "sequence":
            self._rows = WholeSequenceDataLoader(config, data.train, None, shuffle=True)
            self._steps = len(self._rows)  # short, and unlike each other: a turn is an epoch
        else:
            loader = get_dataloader(config, "train")
            self._rows = loader(config, data.train, None, shuffle=True)
            self._steps = min(args.steps, len(self._rows))
        self._clock = process_time if args.cpu_time else perf_counter
        self._batches: Iterator = itertools.chain.from_iterable(itertools.repeat(self._rows))
        self.training: list[float] = []
        self.evaluation: list[float] = []

    def train(self) -> None:
        """A turn of training."""
        turn = [next(self._batches) for _ in range(self._steps)]
        start = self._clock()
        self._trainer._train_epoch(turn, epoch_idx=0)
        self.training.append((self._clock() - start) / self._steps * len(self._rows))

    def evaluate(self) -> None:
        """A turn of evaluation."""
        start = self._clock()
        with parametrize.cached():
            self._evaluator.evaluate(self._test, load_best_model=False)
        self.evaluation.append((self._clock() - start) / self._share)


def peak_memory(*of_what) -> float:
    """GiB at the most, of resident memory or on the GPU, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, *of_what).result()


def _peak_memory_here(
    model: str, way: str, dataset: str, data: Data, args: argparse.Namespace
) -> float:
    sys.argv = sys.argv[:1]
    cell = Cell(model, way, dataset, data, args)
    cell.train()
    cell.evaluate()
    return meter.peak_memory(torch.device("cuda" if args.gpu_id else "cpu")) / 2**30


def names(backbones: list[str]) -> list[tuple[str, str]]:
    """Every model in every way, by backbone."""
    models = [model for one in backbones for model in (one, f"TSLRec_{one}")]
    return list(itertools.product(models, WAYS))


def measure(
    backbone: str, dataset: str, data: Data, args: argparse.Namespace, bar: tqdm
) -> list[list[str]]:
    """The rows of one backbone on one data set."""
    cells = {name: Cell(*name, dataset, data, args) for name in names([backbone])}
    for _ in range(args.turns):
        for (model, way), cell in cells.items():
            bar.set_description(f"{dataset}, {model}, {way}")
            cell.train()
            cell.evaluate()
            bar.update()
    memory = dict.fromkeys(cells, "")
    if args.memory and dataset == args.datasets.split(",")[0]:
        for name in cells:
            bar.set_description(f"{dataset}, {name[0]}, {name[1]}, memory")
            memory[name] = f"{peak_memory(*name, dataset, data, args):.2f}"
            bar.update()
    return [
        [dataset, *name, cell.batching, *_seconds(name, cells), memory[name]]
        for name, cell in cells.items()
    ]


def _seconds(name: tuple[str, str], cells: dict[tuple[str, str], Cell]) -> list[str]:
    """Of training and of evaluation: the median, the least and the most, and what it is worth."""
    model, way = name
    texts = []
    for part in ("training", "evaluation"):
        times = {other: getattr(cell, part) for other, cell in cells.items()}
        median = {other: statistics.median(turns) for other, turns in times.items()}
        texts += [
            f"{median[name]:.3g}",
            f"{min(times[name]):.3g}–{max(times[name]):.3g}",
            f"{median[model, WAYS[0]] / median[name]:.1f}",
        ]
        if part == "training":
            texts.append(f"{median[name] / median[model.removeprefix('TSLRec_'), way]:.2f}")
    return texts


HEADERS = ["data", "model", "way", "train_batching"]
HEADERS += ["s an epoch", "from–to", "× faster", "× Base"]
HEADERS += ["s an evaluation", "from–to", "× faster", "peak GiB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", default="beauty,ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument(
        "--backbones", default=",".join(one for one in BACKBONES if one not in LEFT_OUT)
    )
    parser.add_argument("--hidden_size", type=int, default=64, help="d, of the item table too")
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn of rows for prefixes")
    parser.add_argument("--users", type=int, default=4096, help="the most users of an evaluation")
    parser.add_argument("--turns", type=int, default=3, help="turns of each cell")
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="the processor's seconds; for one thread (OMP_NUM_THREADS=1) beside other programs",
    )
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--gpu_id", default="", help="as RecBole's; empty for the CPU")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    datasets, backbones = args.datasets.split(","), args.backbones.split(",")
    turns = len(names(backbones)) * (args.turns * len(datasets) + args.memory)
    rows = []
    with tqdm(total=turns, unit="turn") as bar:
        for dataset in datasets:
            data = read(dataset, args)
            for backbone in backbones:
                rows += measure(backbone, dataset, data, args, bar)
    print(machine("cuda" if args.gpu_id else "cpu") + "\n")
    print(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
