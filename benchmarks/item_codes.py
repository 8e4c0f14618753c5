"""What P5 and POD make of each kind of item codes, and what a leak in them looks like.

    python benchmarks/item_codes.py --dataset=beauty --codes=random,sequential,file_order --sft_epochs=3

Each kind of codes is one training under each seed. Other keys are passed on as they are. Beside the
metrics stands what counting alone hits, "the highest number so far and one more", or "the next place in
the last item's leaf": with numbers by the order of the whole file that is often the held-out item.
"""

from __future__ import annotations

import argparse
import json
import sys
from time import monotonic, process_time
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_tslrec.config.devices import machine
from recbole_tslrec.evaluation.ranks import Ranks, rank_test_targets
from recbole_tslrec.paradigms.p5.item_codes import BASE
from recbole_tslrec.paradigms.p5.keys import (
    COLLABORATIVE,
    EMBEDDING,
    FILE_ORDER,
    RANDOM,
    SEQUENTIAL,
)
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

PROTOCOLS = ("ranked", "masked")


def measure(model: str, dataset: str, given: dict[str, Any]) -> dict[str, Any]:
    """One training and its test."""
    start, cpu = monotonic(), process_time()
    found = run_experiment(model, dataset, config_dict=given, test=False)
    trained = process_time()
    recommender = found.trainer.model
    loaders = found.train_data, found.valid_data, found.test_data
    ranks = rank_test_targets(recommender, *loaders)
    trie = recommender.trie
    row = {
        "model": model,
        "code": given["item_code"],
        "seed": given["seed"],
        "tokens": int(recommender.codes.max()) + 1,
        "nodes": sum(len(level.counts) for level in trie.levels),
        "epochs": len(found.trainer.train_loss_dict),
        "counting HR@1": _counting(recommender, found.test_data, given["item_code"]),
    }
    for protocol in PROTOCOLS:
        row |= {f"{name} {protocol}": value for name, value in _metrics(ranks, protocol).items()}
    row["training CPU s"], row["test CPU s"] = trained - cpu, process_time() - trained
    return row | {"seconds": monotonic() - start}


def _metrics(ranks: Ranks, protocol: str) -> dict[str, float]:
    values = ranks.metrics()[protocol]
    first = (ranks.rank if protocol == "ranked" else ranks.rank_masked) == 1
    return {"HR@1": first.mean(), "HR@10": values["hit@10"], "NDCG@10": values["ndcg@10"]}


def _counting(model, test_data, code: str) -> float | None:
    """How often counting alone hits the target: one above the history's highest number; of codes of a
    tree one place further in the leaf of the last item."""
    codes = model.codes.cpu().numpy()
    if code in (COLLABORATIVE, EMBEDDING):
        return _next_in_leaf(model, test_data, codes)
    if code not in (RANDOM, SEQUENTIAL, FILE_ORDER):
        return None
    numbers = codes @ BASE ** np.arange(codes.shape[1] - 1, -1, -1)
    numbers[0] = -1  # padding
    rows = test_data._dataset.inter_feat
    highest = numbers[rows[model.ITEM_SEQ].numpy()].max(axis=1)
    return float((numbers[rows[model.POS_ITEM_ID].numpy()] == highest + 1).mean())


def _next_in_leaf(model, test_data, codes: np.ndarray) -> float:
    rows = test_data._dataset.inter_feat
    lists, lengths = rows[model.ITEM_SEQ].numpy(), rows[model.ITEM_SEQ_LEN].numpy()
    guessed = codes[lists[np.arange(len(lists)), lengths - 1]]
    ends = (guessed >= 0).sum(axis=1) - 1
    guessed[np.arange(len(guessed)), ends] += 1
    return float((codes[rows[model.POS_ITEM_ID].numpy()] == guessed).all(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="P5")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--codes", default="random,sequential,collaborative,embedding,file_order")
    parser.add_argument("--seeds", default="2020")
    parser.add_argument(
        "--results", default=None, help="a file to which a json line a row is added"
    )
    args, others = parser.parse_known_args()
    sys.argv[1:] = others  # RecBole reads them
    given = {
        "gpu_id": "",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "valid_metric": "NDCG@10",
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "show_progress": False,
    }
    print(machine())
    rows = []
    for code in args.codes.split(","):
        for seed in map(int, args.seeds.split(",")):
            row = measure(args.model, args.dataset, given | {"item_code": code, "seed": seed})
            rows.append(row)
            print(json.dumps(row), flush=True)
            if args.results:
                with open(args.results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4f"))


if __name__ == "__main__":
    main()
