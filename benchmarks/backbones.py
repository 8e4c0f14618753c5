"""Whether every backbone works on real data: trained, saved, loaded, folded, ranked, recommended from.

    python benchmarks/backbones.py --dataset=ml-100k

For each backbone one short training of Base, CI and TSLRec. The figures say that training runs and
the models work together, and no more: they are no comparison of backbones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_model
from tabulate import tabulate

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.config.devices import machine
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recommendation.recommender import Recommender

VARIANTS = {"Base": "", "CI": "CI_", "TSLRec": "TSLRec_"}
_FEATURES = ("GRU4RecF", "SASRecF", "FDSA", "S3Rec")


def settings_of(backbone: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The keys of all three rows of a backbone."""
    keys = {
        "data_path": args.data_path,
        "gpu_id": "",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "user_inter_num_interval": args.users,
        "MAX_ITEM_LIST_LENGTH": args.max_length,
        "epochs": args.epochs,
        "train_batch_size": 512,
        "valid_metric": "NDCG@10",
        "metrics": ["Hit", "NDCG"],
        "topk": [10],
        "checkpoint_dir": str(folder / "saved"),
        "tslrec_dir": str(folder / "stages"),
        "show_progress": False,
        "state": "ERROR",
    }
    if backbone in _FEATURES:
        keys["load_col"]["item"] = ["item_id", "class"]
    if backbone.endswith("CPR"):
        keys["reranker_CAN_NUM"] = "10"  # 100 by default, of a larger catalogue
    if backbone == "S3Rec":
        once = {"pretrain_epochs": 1, "save_step": 1, "train_neg_sample_args": None}
        run_recbole(model=backbone, dataset=args.dataset, config_dict=keys | once)
        (file,) = (folder / "saved").glob("S3Rec-*-1.pth")
        keys |= {"train_stage": "finetune", "pre_model_path": str(file)}
    return keys


def run(backbone: str, variant: str, keys: dict[str, Any], args: argparse.Namespace) -> float:
    """One row, from training to recommending from the folded file; NDCG@10, seen items masked.

    Raises:
        AssertionError: the model that is loaded or folded gives other scores.
    """
    own = {"llm": args.llm, "n_categories": 20, "sft_epochs": 1, "llm_max_history": 5}
    if variant == "Base":
        own = {} if backbone == "TransRec" else {"train_neg_sample_args": None}
    experiment = run_experiment(VARIANTS[variant] + backbone, args.dataset, config_dict=keys | own)
    trained, checkpoint = experiment.trainer.model.eval(), experiment.checkpoint
    _, loaded, _, *data = load_data_and_model(checkpoint)
    rows = next(iter(data[-1]))[0]
    with torch.no_grad():
        expected = trained.full_sort_predict(rows)
        torch.testing.assert_close(loaded.eval().full_sort_predict(rows), expected)
        if variant != "Base":
            folded = Path(checkpoint).with_suffix(".folded.pth")
            fold_checkpoint(checkpoint, folded)
            _, plain, *_ = load_data_and_model(str(folded))
            assert type(plain) is get_model(backbone)
            torch.testing.assert_close(plain.eval().full_sort_predict(rows), expected)
            checkpoint = folded
    dataset = data[0]._dataset
    user = dataset.field2id_token[dataset.uid_field][1]
    assert len(Recommender(checkpoint).recommend([user])) == 10
    return rank_test_targets(loaded, *data).metrics()["masked"]["ndcg@10"]


def measure(backbone: str, args: argparse.Namespace) -> list[str]:
    """A backbone's row of the table: for each model NDCG@10 or what went wrong, and the time."""
    start, cells = process_time(), []
    with TemporaryDirectory() as folder:
        keys = settings_of(backbone, args, Path(folder))
        for variant in VARIANTS:
            try:
                cells.append(f"{run(backbone, variant, keys, args):.4f}")
            except Exception as error:  # the others are still to be seen
                cells.append(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    return [backbone, *cells, f"{process_time() - start:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--users", default="[20,22]", help="those with so many interactions")
    parser.add_argument("--max_length", type=int, default=10, help="MAX_ITEM_LIST_LENGTH")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--llm", default="embedded", help="as the key")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    headers = ["backbone", *VARIANTS, "CPU s"]
    rows = []
    for backbone in args.backbones.split(","):
        rows.append(measure(backbone, args))
        print(*rows[-1], file=sys.stderr, flush=True)
    print(machine("cpu") + "\n")
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
