"""What the stages without a language model, and recommending, cost as users and items grow.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --sizes=10000,100000,1000000

Every measurement is a process of its own, on made-up data of n users and n items, with 8 training
interactions a user. Time is the processor time of the process, which other work on the machine
changes less than it does the time on the clock; memory is the peak of the resident memory during the
stage, beside what its input alone took. k-means is measured for one restart, of the ten that a stage
makes, and on Gaussian noise, in which it finds nothing and so runs through all of its iterations.
Recommending is for --users, whatever n.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from types import SimpleNamespace

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec

from recbole_tslrec.config.devices import machine
from recbole_tslrec.data.histories import Histories, fingerprint, training_histories
from recbole_tslrec.evaluation.blocks import SCORE_BYTES
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import GateFusion
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import prior_preferences
from recbole_tslrec.recommendation.search import FullScores, ProductIndex, choose_search
from recbole_tslrec.stages.kmeans import latent_categories
from recbole_tslrec.store.item_tensors import ItemTensors

INTERACTIONS_A_USER = 8
LIST_LENGTH = 50  # RecBole's MAX_ITEM_LIST_LENGTH
DIMENSION = 64  # of e_v

# The work of a stage on input that is there already.
Work = Callable[[], object]


def random_histories(n: int) -> Histories:
    """n users with ids from 1, and n items."""
    items = np.random.default_rng(0).integers(1, n + 1, size=n * INTERACTIONS_A_USER)
    offsets = np.arange(n + 1) * INTERACTIONS_A_USER
    return Histories(np.arange(1, n + 1), offsets, items)


def augmented_rows(histories: Histories) -> SimpleNamespace:
    """What RecBole's augmentation makes of the histories: a row a prefix, padded lists."""
    items = histories.items.reshape(len(histories), INTERACTIONS_A_USER)
    rows_a_user = INTERACTIONS_A_USER - 1
    lists = torch.zeros(len(histories), rows_a_user, LIST_LENGTH, dtype=torch.int64)
    for row in range(rows_a_user):
        lists[:, row, : row + 1] = torch.from_numpy(items[:, : row + 1])
    columns = {
        "user_id": torch.from_numpy(np.repeat(histories.user_ids, rows_a_user)),
        "item_id": torch.from_numpy(items[:, 1:].ravel()),
        "item_id_list": lists.view(-1, LIST_LENGTH),
        "item_length": torch.arange(1, INTERACTIONS_A_USER).repeat(len(histories)),
    }
    return SimpleNamespace(
        config={"benchmark_filename": None},
        uid_field="user_id",
        iid_field="item_id",
        item_id_list_field="item_id_list",
        item_list_length_field="item_length",
        inter_feat=Interaction(columns),
    )


def rebuilding(n: int, _) -> Work:
    dataset = augmented_rows(random_histories(n))
    return lambda: training_histories(dataset)


def hashing(n: int, _) -> Work:
    histories = random_histories(n)
    users, items = (np.array(["[PAD]", *tokens(kind, n)]) for kind in "ui")
    return lambda: fingerprint(histories, users, items)


def counting(n: int, n_categories: int) -> Work:
    histories = random_histories(n)
    labels = np.random.default_rng(1).integers(0, n_categories, size=n + 1)
    return lambda: prior_preferences(histories, labels, n_categories)


def clustering(n: int, n_categories: int) -> Work:
    embeddings = np.random.default_rng(0).standard_normal((n, DIMENSION), dtype=np.float32)
    return lambda: latent_categories(embeddings, n_categories, backend="auto", seed=0, n_restarts=1)


def saving(n: int, width: int) -> Work:
    made = item_tensors(n, width)
    return lambda: made.save(Path("items.safetensors"))


def loading(n: int, width: int) -> Work:
    item_tensors(n, width).save(Path("items.safetensors"))
    return lambda: ItemTensors.load(Path("items.safetensors"))


def aligning(n: int, width: int) -> Work:
    made = item_tensors(n, width)
    wanted = made.tokens[::-1]
    return lambda: made.aligned(wanted)


def hashing_content(n: int, width: int) -> Work:
    return item_tensors(n, width).content_hash


def standardising(n: int, width: int) -> Work:
    fusion = GateFusion(torch.randn(n + 1, DIMENSION), width // 2, 1.0)
    vectors = torch.randn(n, width)
    return lambda: fusion.set_enhanced(vectors)


def recommending(index: str, n: int, n_users: int) -> Work:
    """The best ten of n items for each user, in the blocks in which ``recommend`` takes them."""
    model, rows = untrained_model(n), histories_as_rows(n, n_users)
    with torch.no_grad():
        search = choose_search(model, index, rows[:8], FullScores(model, None))
    seen = rows[model.ITEM_SEQ]
    size = min(128, SCORE_BYTES // (4 * (n + 1)))

    @torch.no_grad()
    def work():
        for start in range(0, n_users, size):
            block = slice(start, start + size)
            search.best(rows[block], 10, seen[block])

    return work


def making_an_index(n: int, _) -> Work:
    model = untrained_model(n)
    return lambda: ProductIndex(model, model.item_embedding.weight, approximate=True)


def untrained_model(n: int) -> SASRec:
    sys.argv = sys.argv[:1]  # RecBole reads it
    settings = {"train_neg_sample_args": None, "gpu_id": "", "hidden_size": DIMENSION}
    config = Config("SASRec", "ml-100k", config_dict=settings)
    return SASRec(config, SimpleNamespace(num=lambda field: n + 1)).eval()


def histories_as_rows(n: int, n_users: int) -> Interaction:
    items = np.random.default_rng(0).integers(1, n + 1, size=(n_users, INTERACTIONS_A_USER))
    lengths = torch.full((n_users,), INTERACTIONS_A_USER)
    return Interaction({"item_id_list": torch.from_numpy(items), "item_length": lengths})


def tokens(kind: str, n: int) -> list[str]:
    return [f"{kind}{number}" for number in range(n)]


def item_tensors(n: int, width: int) -> ItemTensors:
    return ItemTensors(tokens("i", n), {"vectors": torch.randn(n, width)})


@dataclass(frozen=True)
class Stage:
    """A stage, by what prepares its input and gives the work to be measured.

    Attributes:
        prepare: takes n and the value of ``varies``.
        varies: K, d, users or nothing: what the cost depends on besides n.
    """

    prepare: Callable[[int, int | None], Work]
    varies: str = ""


STAGES = {
    "histories from RecBole's rows": Stage(rebuilding),
    "fingerprint of histories": Stage(hashing),
    "preferences ḡ": Stage(counting, "K"),
    "items' file: save": Stage(saving, "d"),
    "items' file: load and check": Stage(loading, "d"),
    "items' tensors: align by token": Stage(aligning, "d"),
    "items' tensors: content hash": Stage(hashing_content, "d"),
    "h^v: standardise, PCA to d/2": Stage(standardising, "d"),
    "best 10, all scores": Stage(partial(recommending, "none"), "users"),
    "best 10, exact index": Stage(partial(recommending, "exact"), "users"),
    "best 10, approximate index": Stage(partial(recommending, "approximate"), "users"),
    "approximate index: make": Stage(making_an_index),
    "k-means, one restart": Stage(clustering, "K"),
}


def measure(name: str, n: int, value: int | None) -> tuple[float, float, float]:
    """Processor seconds, GiB of the input, GiB at the peak; in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        measured = pool.apply(_measure_here, (name, n, value))
        pool.close()  # else it is killed, which ray, once loaded, reports
        pool.join()
    return measured


def _measure_here(name: str, n: int, value: int | None) -> tuple[float, float, float]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=".") as folder:
        os.chdir(folder)
        work = STAGES[name].prepare(n, value)
        # Linux: from here on the peak is counted anew.
        Path("/proc/self/clear_refs").write_text("5")
        before, start = _memory("VmRSS"), process_time()
        work()
        seconds, peak = process_time() - start, _memory("VmHWM")
        os.chdir("..")
    return seconds, before, peak


def _memory(key: str) -> float:
    """GiB, of this process alone."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith(key))
    return int(line.split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000,1000000", help="n: users, and items")
    parser.add_argument("--categories", default="50,1000", help="K")
    parser.add_argument("--widths", default="64,384", help="d of the items' tensors")
    parser.add_argument("--users", default="1000", help="users to recommend to")
    parser.add_argument("--only", default="", help="stages whose name has this in it")
    args = parser.parse_args()
    sizes, categories, widths, users = (
        [int(number) for number in text.split(",")]
        for text in (args.sizes, args.categories, args.widths, args.users)
    )
    values = {"": [None], "K": categories, "d": widths, "users": users}
    print(f"{machine()}, NumPy {np.__version__}\n")
    print("| stage |  | n | processor s | input GiB | peak GiB |")
    print("|---|---|---|---|---|---|")
    for name, stage in STAGES.items():
        if args.only not in name:
            continue
        for value, n in itertools.product(values[stage.varies], sizes):
            seconds, before, peak = measure(name, n, value)
            varies = f"{stage.varies}={value}" if value else ""
            row = f"| {name} | {varies} | {n:,} | {seconds:.2f} | {before:.2f} | {peak:.2f} |"
            print(row, flush=True)  # one by one: the next may take minutes


if __name__ == "__main__":
    main()
