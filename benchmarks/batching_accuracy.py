"""What whole-sequence training does to accuracy: prefixes against sequences, over seeds.

    python benchmarks/batching_accuracy.py --dataset=beauty --data_path=dataset --seeds=3

Every cell is RecBole's own model, trained to early stopping under the same settings; validation chooses
the epoch. A finished cell is a line in the output file, and a second call does only what is missing.

The padded prefixes of Beauty would take a CPU hours. So a batch of prefixes is run here in groups of
similar length, without the padding that the network ignores, and its softmax in chunks as the sequences'
is: the same rows in the same batches, the same loss and gradients, a fraction of the time. A test holds
the two together.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import monotonic

import torch
from recbole.model.sequential_recommender.sasrec import SASRec
from tabulate import tabulate
from torch import Tensor

from recbole_tslrec.backbones.whole_sequences.loss import softmax_loss
from recbole_tslrec.experiments.run.tables import mean_text
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

_GROUPS = (4, 8, 16, 32)  # the most items of a row in each group; longer rows are the last group


def run_without_padding(model_class: type) -> None:
    """Have a causal model with CE loss take its rows in groups of similar length.

    Only the columns that all rows of a group have as padding are left out, on the right, where no
    position of a causal model sees them.
    """
    forward = model_class.forward

    def in_groups(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        if "gather_indexes" in vars(self):  # whole sequences: a state an item, in short batches
            return forward(self, item_seq, item_seq_len)
        group = torch.bucketize(item_seq_len, torch.tensor(_GROUPS, device=item_seq.device))
        states = item_seq.new_empty((len(item_seq), self.hidden_size), dtype=torch.float32)
        for number in group.unique():
            rows = (group == number).nonzero().flatten()
            lengths = item_seq_len[rows]
            states = states.index_put(
                (rows,), forward(self, item_seq[rows, : lengths.max()], lengths)
            )
        return states

    def calculate_loss(self, interaction) -> Tensor:
        states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return softmax_loss(states, self.item_embedding.weight, interaction[self.POS_ITEM_ID])

    model_class.forward = in_groups
    model_class.calculate_loss = calculate_loss


def run_cell(batching: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one model; the line to keep."""
    settings = {
        "data_path": args.data_path,
        "gpu_id": args.gpu_id,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "train_batching": batching,
        "hidden_size": 64,
        "seed": seed,
        "epochs": args.epochs,
        "stopping_step": args.stopping_step,
        "valid_metric": "NDCG@10",
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "show_progress": False,
    }
    start = monotonic()
    experiment = run_experiment("SASRec", args.dataset, config_dict=settings)
    return {
        "dataset": args.dataset,
        "train_batching": batching,
        "seed": seed,
        "epochs": args.epochs,
        "stopping_step": args.stopping_step,
        "validation": dict(experiment.best_valid_result),
        "test": dict(experiment.test_result),
        "seconds": round(monotonic() - start),
    }


def table(lines: list[dict]) -> str:
    """Mean ± standard deviation over the seeds, one row a batching."""
    rows = []
    for batching in ("prefix", "sequence"):
        chosen = [line for line in lines if line["train_batching"] == batching]
        row = [batching, len(chosen)]
        for part, metric in (("validation", "ndcg@10"), ("test", "ndcg@10"), ("test", "hit@10")):
            values = [line[part][metric] for line in chosen]
            row.append(mean_text(values) if values else "")
        rows.append(row)
    headers = ["train_batching", "seeds", "validation NDCG@10", "test NDCG@10", "test HR@10"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--stopping_step", type=int, default=5)
    parser.add_argument("--gpu_id", default="", help="as RecBole's; empty for the CPU")
    parser.add_argument("--output", type=Path, default=Path("batching_accuracy.jsonl"))
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    run_without_padding(SASRec)
    chosen = {"dataset": args.dataset, "epochs": args.epochs, "stopping_step": args.stopping_step}
    lines = []
    if args.output.is_file():
        lines = [json.loads(line) for line in args.output.read_text().splitlines()]
    lines = [line for line in lines if all(line[key] == value for key, value in chosen.items())]
    done = {(line["train_batching"], line["seed"]) for line in lines}
    for seed in range(2020, 2020 + args.seeds):
        for batching in ("sequence", "prefix"):
            if (batching, seed) not in done:
                lines.append(run_cell(batching, seed, args))
                with open(args.output, "a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
