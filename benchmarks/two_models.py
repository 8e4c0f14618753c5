"""What a second trained model adds to a first one's scores: s = z(s) + w z(s').

    python benchmarks/two_models.py --checkpoint=<first>.pth --beside=<second>.pth,<third>.pth

Two models of one kind, trained apart, rank better together than either: an ensemble lifts by itself. So
what a model with words adds to one without must be more than what another seed of the latter adds.

z takes the mean over the items away and divides by their standard deviation. The weight w is chosen for
each second model on validation, seen items masked, as they are in the test. The t-test over the users is
against the first model alone. All models must be of the same data, split and numbering.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from scipy import stats
from tabulate import tabulate
from torch import Tensor
from torch.nn.utils import parametrize
from tqdm import tqdm

from recbole_tslrec.backbones.registry import without_padding
from recbole_tslrec.evaluation.blocks import BlockDataLoader
from recbole_tslrec.evaluation.metrics import metrics, of_each
from recbole_tslrec.evaluation.ranks import target_ranks
from recbole_tslrec.evaluation.seen_items import EarlierRows, SeenItems
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel, load_trained_model

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
METRIC = "ndcg@10"
VARIANT = ("enhancement", "fusion", "score_term")  # by these the rows of TSLRec differ


def standardised(scores: Tensor) -> Tensor:
    """Scores [B, n_items] with mean 0 and variance 1 over the items of a row, padding aside."""
    items = scores[:, 1:]
    spread = items.std(dim=1, correction=0, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return (scores - items.mean(dim=1, keepdim=True)) / spread


@torch.no_grad()
def ranks_by_weight(models: list[TrainedModel], part: str) -> np.ndarray:
    """The targets' masked ranks of every second model under every weight, [n_models, n_weights, n].

    Args:
        models: the first, and those that stand beside it.
        part: ``valid`` or ``test``, of the first one's loaders.
    """
    first, *others = models
    valid_data = first.valid_data if part == "test" else None
    seen = SeenItems(first.train_data._dataset, valid_data=valid_data)
    rows = getattr(first, f"{part}_data")
    earlier = EarlierRows.of(rows._dataset)
    # Uncut: of any kind of model.
    blocks = BlockDataLoader(rows.config, rows._dataset, None, None, earlier=earlier)
    found = []
    with ExitStack() as stack:
        stack.enter_context(parametrize.cached())
        for one in models:
            stack.enter_context(without_padding(one.model))
        for interaction, _, _, targets in tqdm(blocks, desc=part, leave=False):
            pairs = seen.pairs(interaction)
            own, *theirs = (_scores(one, interaction) for one in (first, *others))
            rows = [[_rank(own + w * one, targets, pairs) for w in WEIGHTS] for one in theirs]
            found.append(np.array(rows))
    return np.concatenate(found, axis=2)


def _scores(one: TrainedModel, interaction) -> Tensor:
    return standardised(one.model.full_sort_predict(interaction).view(len(interaction), -1))


def _rank(scores: Tensor, targets: Tensor, pairs: tuple[Tensor, Tensor]) -> np.ndarray:
    return target_ranks(scores, targets, pairs)[1].numpy()


def table(names: list[str], valid: np.ndarray, test: np.ndarray) -> Iterator[list]:
    """A row a second model, under the weight that is best on validation; before them the first alone.

    Args:
        names: of the first model and of the others.
        valid, test: as of ``ranks_by_weight``.
    """
    alone = of_each(METRIC, test[0, 0])
    found = metrics(test[0, 0])
    yield [
        names[0],
        "",
        of_each(METRIC, valid[0, 0]).mean(),
        found["hit@10"],
        found[METRIC],
        "",
        "",
    ]
    for name, of_valid, of_test in zip(names[1:], valid, test, strict=True):
        by_weight = [of_each(METRIC, ranks).mean() for ranks in of_valid]
        best = int(np.argmax(by_weight))
        found = metrics(of_test[best])
        t, p = stats.ttest_rel(of_each(METRIC, of_test[best]), alone) if best else (0.0, 1.0)
        yield [f"+ {name}", WEIGHTS[best], by_weight[best], found["hit@10"], found[METRIC], t, p]


def name_of(config: Mapping[str, Any]) -> str:
    """A trained model's row: its kind, what tells it from others of the kind, and its seed."""
    reads = config["model"].startswith("TSLRec_")  # others may have these keys, and read none
    variant = [f"{key}: {config[key]}" for key in VARIANT if reads and config[key] is not None]
    return ", ".join([config["model"], *variant, f"seed {config['seed']}"])


def check_same_data(models: list[TrainedModel]) -> None:
    """Raise ValueError if a model has other rows to test, or other numbers of the items."""
    first, *others = models
    for one in others:
        longest = [each.config["MAX_ITEM_LIST_LENGTH"] for each in (first, one)]
        if longest[0] != longest[1]:
            raise ValueError(f"beside: [{one.checkpoint}] has MAX_ITEM_LIST_LENGTH {longest[1]}.")
        for kind in ("uid_field", "iid_field"):
            field = getattr(first.dataset, kind)
            tokens = (each.dataset.field2id_token[field] for each in (first, one))
            if not np.array_equal(*tokens):
                raise ValueError(f"beside: [{one.checkpoint}] is of other users or items.")
        for part in ("valid_data", "test_data"):
            rows = (getattr(each, part)._dataset.inter_feat for each in (first, one))
            same = [row[first.model.POS_ITEM_ID] for row in rows]
            if not torch.equal(*same):
                raise ValueError(f"beside: [{one.checkpoint}] has other targets (eval_args).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="of the first model")
    parser.add_argument("--beside", required=True, help="of one or more others, with commas")
    args = parser.parse_args()
    files = [args.checkpoint, *args.beside.split(",")]
    models = [load_trained_model(file) for file in files]
    check_same_data(models)
    names = [name_of(one.config) for one in models]
    valid, test = (ranks_by_weight(models, part) for part in ("valid", "test"))
    headers = ["", "w", f"validation {METRIC}", "hit@10", METRIC, "t", "p"]
    print(tabulate(table(names, valid, test), headers, tablefmt="github", floatfmt=".4f"))


if __name__ == "__main__":
    main()
