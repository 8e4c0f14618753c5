"""How well items are recommended that nobody has had, with and without their words.

    python benchmarks/cold_items.py --dataset=beauty --data_path=dataset --item_text=item_text --seeds=3

takes RecBole's keys as well, such as --hidden_dropout_prob=0.2.

A share of the items is cold: they are taken out of all histories, and stay as the last interaction of
their users alone, which is the one that is tested. So no variant's training or validation knows of them,
and a cold target stands among all items. What is written is a data set of its own, `NAME_cold`.

A finished run is a line in the output file, and a second call does only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.config import Config
from tabulate import tabulate

from recbole_tslrec.data.check_header import path_of
from recbole_tslrec.evaluation.metrics import metrics
from recbole_tslrec.evaluation.ranks import Ranks, rank_test_targets
from recbole_tslrec.experiments.run.tables import mean_text
from recbole_tslrec.recbole_bridge.paradigm import variants
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

# Rows of a comparison: without words; these in the item table; these at scoring.
VARIANTS = ("Base", "text", "tfidf", "shuffled_text")
VARIANTS += ("TextTerm", "tfidf_term", "shuffled_text_term")
ALONE = "text_alone"  # `text` without the ids, which no comparison has
_NOT_OF_A_ROW = ("seeds", "folder", "variants")
# RecBole gives a user's one row to training: with four interactions there is a row each to train on,
# to validate on and to test.
_FEWEST = 4


def with_cold_items(table: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, set[str]]:
    """A log in which a share of the items is known from last interactions alone.

    Args:
        table: the columns user, item and time, in any order of rows; those of one time in their order.
        share: of the items, in (0, 1).
        seed: of the draw, which is from the sorted tokens.

    Returns:
        the log, in the order of users and time, and the tokens of the items that were drawn. Users who
        are left with too few interactions to be tested lose their cold last one, too.
    """
    user, item, time = table.columns
    tokens = np.sort(table[item].unique())
    n_cold = max(round(share * len(tokens)), 1)
    cold = set(np.random.default_rng(seed).choice(tokens, size=n_cold, replace=False))
    table = table.sort_values([user, time], kind="stable")
    is_cold = table[item].isin(cold)
    is_last = ~table[user].duplicated(keep="last")
    n_left = (~is_cold | is_last).groupby(table[user]).transform("sum")
    return table[~is_cold | (is_last & (n_left >= _FEWEST))], cold


def write_data(args: argparse.Namespace) -> tuple[str, set[str]]:
    """Write the data set with cold items beside the output file; its name, and what is cold."""
    config = Config("Norm_SASRec", args.dataset, config_dict=_settings(args, args.data_path))
    source, separator = path_of(config.final_config_dict), config["field_separator"]
    columns = [config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME")]
    log = pd.read_csv(source, sep=separator, dtype=str, keep_default_na=False)
    headers = {column.split(":")[0]: column for column in log.columns}
    log = log[[headers[column] for column in columns]]
    log[log.columns[2]] = log[log.columns[2]].astype(float)
    log, cold = with_cold_items(log, args.share, args.seed_of_items)
    # Equal times, and RecBole's float32, could change the order: the place in it is the time.
    log[log.columns[2]] = log.groupby(log.columns[0]).cumcount()
    name = f"{args.dataset}_cold"
    folder = args.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    log.to_csv(folder / f"{name}.inter", sep=separator, index=False)
    shutil.copy(source.with_suffix(".item"), folder / f"{name}.item")
    return name, cold


def _settings(args: argparse.Namespace, data_path: str) -> dict:
    return {
        **({"data_path": data_path} if data_path else {}),
        "gpu_id": args.gpu_id,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "train_batching": "auto",
        "epochs": args.epochs,
        "stopping_step": args.stopping_step,
        "valid_metric": "NDCG@10",
        "valid_protocol": "masked",
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "show_progress": False,
    }


def run_cell(variant: str, seed: int, name: str, cold: set[str], args) -> dict:
    """Train one model; the line to keep."""
    row = variants()["text" if variant == ALONE else variant]
    model = row.model.format(backbone=args.backbone)
    settings = _settings(args, str(args.folder)) | {"seed": seed} | (row.settings or {})
    if variant == ALONE:
        settings |= {"fusion": "alone"}
    if variant != "Base":
        settings |= {"item_text": args.item_text.split(","), "item_text_missing": "unknown"}
        settings |= {"llm": args.llm, "tslrec_dir": str(args.folder / "stages")}
    run = run_experiment(model, name, config_dict=settings)
    ranks = rank_test_targets(run.trainer.model, run.train_data, run.valid_data, run.test_data)
    return {"variant": variant, "seed": seed} | split(ranks, cold)


def split(ranks: Ranks, cold: set[str]) -> dict:
    """The metrics of cold targets and of all others, seen items masked.

    Raises:
        ValueError: an item that is to be cold has a training interaction.
    """
    is_cold = np.isin(ranks.item, list(cold))
    if ranks.item_count[is_cold].any():
        raise ValueError("A cold item has a training interaction: the data are not those written.")
    line = {}
    for name, rows in (("cold", is_cold), ("warm", ~is_cold)):
        own = ranks.rank_masked[rows]
        line[name] = metrics(own) | {"hit@50": float((own <= 50).mean()), "targets": len(own)}
    return line


def table(lines: list[dict], names: list[str]) -> str:
    """Mean ± standard deviation over the seeds, one row a variant."""
    rows = []
    for variant in names:
        chosen = [line for line in lines if line["variant"] == variant]
        row = [variant, len(chosen)]
        for part, metric in (
            *(("cold", "hit@10"), ("cold", "hit@50"), ("cold", "ndcg@10")),
            *(("warm", "hit@10"), ("warm", "ndcg@10")),
        ):
            row.append(mean_text([line[part][metric] for line in chosen]) if chosen else "")
        rows.append(row)
    headers = [
        "",
        "seeds",
        "cold HR@10",
        "cold HR@50",
        "cold NDCG@10",
        "warm HR@10",
        "warm NDCG@10",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="", help="as RecBole's; empty for its own data sets")
    parser.add_argument("--item_text", default="movie_title,class", help="columns, with commas")
    parser.add_argument("--share", type=float, default=0.1, help="of the items, that are cold")
    parser.add_argument("--seed_of_items", type=int, default=0, help="which items are cold")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="SASRec")
    parser.add_argument(
        "--variants", default=",".join((*VARIANTS, ALONE)), help="rows, with commas"
    )
    parser.add_argument("--llm", default="embedded")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--stopping_step", type=int, default=10)
    parser.add_argument("--gpu_id", default="", help="as RecBole's; empty for the CPU")
    parser.add_argument("--folder", type=Path, default=Path("cold_items"), help="of data and lines")
    args, more = parser.parse_known_args()
    sys.argv = [sys.argv[0], *more]  # RecBole's own keys, which it reads there
    chosen = args.variants.split(",")
    if unknown := set(chosen) - {*variants(), ALONE}:
        raise SystemExit(f"variants: {', '.join(sorted(unknown))} is no row of a comparison.")
    name, cold = write_data(args)
    output = args.folder / f"{name}.jsonl"
    asked = {key: str(value) for key, value in vars(args).items() if key not in _NOT_OF_A_ROW}
    asked["more"] = " ".join(sorted(more))
    for ending in ("inter", "item"):
        content = (args.folder / name / f"{name}.{ending}").read_bytes()
        asked[ending] = hashlib.sha256(content).hexdigest()
    lines = (
        [json.loads(line) for line in output.read_text().splitlines()] if output.is_file() else []
    )
    lines = [line for line in lines if line["asked"] == asked]
    done = {(line["variant"], line["seed"]) for line in lines}
    for seed in range(2020, 2020 + args.seeds):
        for variant in chosen:
            if (variant, seed) not in done:
                lines.append(run_cell(variant, seed, name, cold, args) | {"asked": asked})
                with output.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines, chosen))


if __name__ == "__main__":
    main()
