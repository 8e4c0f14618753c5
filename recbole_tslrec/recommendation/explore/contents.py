"""What is on the page: users, items, what the models recommend, and how the items lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS
from recbole_tslrec.evaluation.ranks import Ranks, rank_test_targets
from recbole_tslrec.recbole_bridge.trained_model import TrainedModel
from recbole_tslrec.recommendation.best_items import BestItems
from recbole_tslrec.recommendation.explore.items import describe_items
from recbole_tslrec.recommendation.requests import Requests, RequestsOf
from recbole_tslrec.recommendation.titles import read_titles
from recbole_tslrec.stages.trained_on import check_data, data_notes

# The most test users and items on a page: so many still open at once in a browser.
USERS = 25_000
MOST_ITEMS = 50_000
# Items of a list, and the latest of a history, that are shown.
K = 10
_LATEST = 200


def check_pair(trained: Sequence[TrainedModel]) -> None:
    """Raise ValueError for models that cannot be on one page."""
    first = trained[0]
    if first.config["benchmark_filename"]:
        raise ValueError(
            f"explore: the data set [{first.dataset.dataset_name}] has ready-made sequences "
            f"(benchmark_filename), of which nobody's history can be told. Use recommend with histories."
        )
    n_items = first.dataset.item_num - 1
    if n_items > MOST_ITEMS:
        raise ValueError(
            f"explore: the data set [{first.dataset.dataset_name}] has {n_items:,} items, and a page "
            f"holds at most {MOST_ITEMS:,}. The commands recommend and similar take any number."
        )
    for other in trained[1:]:
        for field in ("iid_field", "uid_field"):  # whose names may differ
            parts = first.dataset, other.dataset
            one, two = (part.field2id_token[getattr(part, field)] for part in parts)
            if not np.array_equal(one, two):
                raise ValueError(
                    f"beside: [{other.checkpoint}] has other users or items, of the data set "
                    f"[{other.dataset.dataset_name}], than [{first.checkpoint}]. Give two models of one "
                    f"data set under the same filters."
                )


def check_known_data(trained: Sequence[TrainedModel], allow_new_data: bool) -> None:
    """Raise ValueError for data that a model may have been trained on, unless the caller allows them."""
    for one in trained:
        now = data_notes(one.train_data._dataset, one.valid_data)
        check_data(one.config["trained_on"], now, one.checkpoint, allow_new_data)


def contents_of(
    trained: Sequence[TrainedModel], n_users: int, show_progress: bool = False
) -> dict[str, Any]:
    """All that is on the page, as json can hold it. Items are named by their row, from 0.

    Args:
        trained: one model, or two of the same data.
        n_users: the most test users; of more, a sample.

    Raises:
        ValueError: the models are tested on other interactions, or on a sample of the items.
    """
    first = trained[0]
    dataset = first.dataset
    ranks = [rank_test_targets(one.model, *_loaders(one)) for one in trained]
    for one in ranks[1:]:
        if not (
            np.array_equal(one.user, ranks[0].user) and np.array_equal(one.item, ranks[0].item)
        ):
            raise ValueError(
                f"beside: [{trained[1].checkpoint}] was tested on other interactions than "
                f"[{first.checkpoint}]. Give two models of one data set under the same eval_args."
            )
    requests, rows = _test_users(first, ranks[0], n_users)
    tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
    titles = read_titles(first.config.final_config_dict, tokens)
    counts = np.bincount(
        training_histories(first.train_data._dataset).items, minlength=dataset.item_num
    )
    described = describe_items(trained, K)
    targets = dataset.token2id(dataset.iid_field, ranks[0].item[rows])
    return {
        "dataset": dataset.dataset_name,
        "k": K,
        "n_test_users": len(set(ranks[0].user)),
        "items": {
            "token": tokens,
            "title": None if titles is None else [titles[token] for token in tokens],
            "count": counts[1:].tolist(),
        }
        | described.columns,
        "users": {
            "token": list(requests.names),
            "history": [(history[-_LATEST:] - 1).tolist() for history in requests.histories],
            "length": [len(history) for history in requests.histories],
            "target": (np.atleast_1d(targets) - 1).tolist(),
        },
        "models": [
            _recommended(one, requests, of_one, rows, show_progress)
            for one, of_one in zip(trained, ranks, strict=True)
        ],
        "views": described.views,
        "maps": described.maps,
        "notes": described.notes,
    }


def _loaders(trained: TrainedModel) -> tuple:
    return trained.train_data, trained.valid_data, trained.test_data


def _test_users(trained: TrainedModel, ranks: Ranks, n_users: int) -> tuple[Requests, np.ndarray]:
    """Test users with what they had before, and the row of ``ranks`` of each one's first target."""
    everybody = RequestsOf(trained).users(None, before="test")
    tested, first_rows = np.unique(ranks.user, return_index=True)
    row_of = dict(zip(tested.tolist(), first_rows.tolist(), strict=True))
    places = [place for place, name in enumerate(everybody.names) if name in row_of]
    if len(places) > n_users:
        places = sorted(np.random.default_rng(0).choice(places, n_users, replace=False).tolist())
    requests = everybody.at(places)
    return requests, np.array([row_of[name] for name in requests.names], dtype=np.int64)


def _recommended(
    trained: TrainedModel, requests: Requests, ranks: Ranks, rows: np.ndarray, show_progress: bool
) -> dict[str, Any]:
    name = trained.config["model"]
    with tqdm(total=len(requests), desc=name, unit=" users", disable=not show_progress) as bar:
        items, scores = BestItems(trained, "none").of(requests, K, seen=False, bar=bar)
    there = (items > 0).numpy()
    pairs = zip((items - 1).numpy(), scores.numpy().astype(float).round(3), there, strict=True)
    kept = [(row[shown].tolist(), of_row[shown].tolist()) for row, of_row, shown in pairs]
    metrics = ranks.metrics()
    return {
        "name": name,
        "checkpoint": trained.checkpoint.name,
        "items": [row for row, _ in kept],
        "scores": [of_row for _, of_row in kept],
        "rank": ranks.rank_masked[rows].tolist(),
        "rankAll": ranks.rank[rows].tolist(),
        "metrics": {
            title: {shown: metrics[protocol][metric] for shown, metric in METRICS.items()}
            for protocol, title in PROTOCOLS.items()
        },
    }
