"""What the enhanced embeddings hold of the backbone's embeddings, the categories, and the histories.

    python benchmarks/embedding_content.py --dataset=ml-100k --backbones=SASRec,GRU4Rec --seeds=3 \\
        --config_files=properties/compare_ml-100k.yaml

Takes the stages that a comparison has made (the same options, and its --results), or makes them; no
recommender is trained on them. The items are those with a training interaction: of others no stage
knows anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed
from scipy.sparse import csr_matrix
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from tabulate import tabulate

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.experiments.run.cell_run import experiment_settings_with_inputs
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import ResultsFolder
from recbole_tslrec.experiments.run.tables import mean_text
from recbole_tslrec.paradigms.tslrec.augmentation.controls import vectors_of
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.paradigms.tslrec.item_record import places
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    mean_preferences,
    user_preferences,
)
from recbole_tslrec.recbole_bridge.config_files import config_file_names
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline

NEIGHBOURS = 10
ROWS = {
    "e_v (backbone)": None,
    "h^v, tuned": "TSLRec",
    "h^v, frozen_lm": "frozen_lm",
    "random": "random",
}
COLUMNS = {
    "rank": "effective rank",
    "from_items": "R² from e_v",
    "from_categories": "R² from the category",
    "to_items": "R² of e_v from it",
    "neighbours": "neighbours shared with e_v",
    "together": "neighbours' co-occurrence",
}


INFERRED, ASKED_FOR = "ĝ^v, tuned", "mean ḡ of its users"
PLACES = {"first": "own category most probable", "three": "among the top three"}


def effective_rank(vectors: np.ndarray) -> float:
    """e to the entropy of the singular values' shares (Roy and Vetterli 2007), columns standardised."""
    values = np.linalg.svd(StandardScaler().fit_transform(vectors), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def explained(source: np.ndarray, target: np.ndarray) -> float:
    """R² of a linear map, on items that it was not fitted to (5 folds; ridge chosen within each)."""
    folds = KFold(5, shuffle=True, random_state=0)
    linear = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7)))
    # Each column counts by its variance after standardising: the same for all that vary.
    target = StandardScaler().fit_transform(target)
    predicted = cross_val_predict(linear, source, target, cv=folds)
    return float(r2_score(target, predicted, multioutput="variance_weighted"))


def nearest(vectors: np.ndarray) -> np.ndarray:
    """The rows of the ten nearest others by cosine, int64 [n, 10]."""
    search = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(vectors)
    return search.kneighbors(return_distance=False)  # without points: of each, itself left out


def shared_neighbours(one: np.ndarray, other: np.ndarray) -> float:
    """The mean share of the neighbours in ``one`` that are neighbours in ``other``, too."""
    shares = [len(np.intersect1d(*pair)) / NEIGHBOURS for pair in zip(one, other, strict=True)]
    return float(np.mean(shares))


def co_occurrence(neighbours: np.ndarray, users_of_items: csr_matrix) -> float:
    """The mean cosine of the sets of users of an item and of its neighbours.

    Args:
        neighbours: int64 [n, 10].
        users_of_items: [n, n_users], 1 where the user has the item in the training history.
    """
    unit = normalize(users_of_items)
    # A neighbour at a time: all at once would take ten times the memory.
    of_each = [unit.multiply(unit[column]).sum(axis=1).mean() for column in neighbours.T]
    return float(np.mean(of_each))


def content(
    vectors: np.ndarray, items: np.ndarray, categories: np.ndarray, users_of_items: csr_matrix
) -> dict[str, float]:
    """One row of the table.

    Args:
        vectors: what is looked at, [n, width].
        items: e_v, [n, d].
        categories: int64 [n].
        users_of_items: [n, n_users].
    """
    one_hot = np.eye(categories.max() + 1)[categories]
    neighbours = nearest(vectors)
    return {
        "rank": effective_rank(vectors),
        "from_items": explained(items, vectors),
        "from_categories": explained(one_hot, vectors),
        "to_items": explained(vectors, items),
        "neighbours": shared_neighbours(neighbours, nearest(items)),
        "together": co_occurrence(neighbours, users_of_items),
    }


def own_places(distributions: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """The shares of the items whose own category is the most probable, and among the top three.

    Args:
        distributions: of each item over the categories, [n, K]; a row's order is all that counts.
        categories: int64 [n].
    """
    _, place = places(distributions, categories)
    return {"first": float(np.mean(place == 1)), "three": float(np.mean(place <= 3))}


def pipeline_of(cell: Cell, results: ResultsFolder) -> Pipeline:
    """The stages of a cell; none of them is made before it is asked for."""
    config = Config(
        cell.model, cell.dataset, config_dict=experiment_settings_with_inputs(cell, results)
    )
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    return Pipeline(config, train_data, valid_data, BACKBONES[cell.backbone])


def measure(cells: dict[str, Cell], results: ResultsFolder) -> dict[str, dict[str, float]]:
    """The rows of one backbone and seed, those of both tables.

    Args:
        cells: by variant.
    """
    own = pipeline_of(cells["TSLRec"], results)
    histories = own.histories
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    shape = (len(own.tokens) + 1, len(histories))
    counts = csr_matrix((np.ones(len(users)), (histories.items, users)), shape=shape)[1:]
    known = counts.getnnz(axis=1) > 0
    stage = own.stage(CategoriesStage)
    items = own.stage(BackboneStage).item_embeddings().numpy()[known]
    categories = stage.item_categories().numpy()[known]
    users_of_items = (counts[known] > 0).astype(float)
    rows = {}
    for name, variant in ROWS.items():
        vectors = items
        if variant is not None:
            pipeline = own if variant == "TSLRec" else pipeline_of(cells[variant], results)
            vectors = vectors_of(pipeline.config).make(pipeline).numpy()[known]
        rows[name] = content(vectors, items, categories, users_of_items)
    inferred = own.stage(AugmentationStage).category_distributions().numpy()[known]
    asked_for = mean_preferences(histories, user_preferences(own), len(own.tokens) + 1)[1:][known]
    rows[INFERRED] = own_places(inferred, categories)
    rows[ASKED_FOR] = own_places(asked_for, categories)
    return rows


def table(
    measured: dict[tuple[str, str], list[dict[str, dict[str, float]]]],
    what: str,
    names: Iterable[str],
    columns: dict[str, str],
) -> str:
    """Means over the seeds, ± the standard deviation where there are several."""
    lines = []
    for (dataset, backbone), seeds in measured.items():
        for name in names:
            means = [
                mean_text([rows[name][key] for rows in seeds], 1 if key == "rank" else 2)
                for key in columns
            ]
            lines.append([dataset, backbone, name, *means])
    headers = ["data", "backbone", what, *columns.values()]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", help="as RecBole's")
    parser.add_argument("--backbones", default="SASRec")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--config_files", default="", help="yaml files, separated by spaces")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="a comparison's folder"
    )
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    grid = Grid(
        datasets=[args.dataset],
        backbones=args.backbones.split(","),
        variants=[variant for variant in ROWS.values() if variant],
        seeds=range(2020, 2020 + args.seeds),
        config_files=config_file_names(args.config_files),
        settings={"data_path": args.data_path} if args.data_path else {},
    )
    results = ResultsFolder(args.results)
    measured: dict[tuple[str, str], list] = {}
    cells = grid.cells(grid.groups())
    for backbone in grid.backbones:
        for seed in grid.seeds:
            of_seed = {
                cell.variant: cell
                for cell in cells
                if (cell.backbone, cell.seed) == (backbone, seed)
            }
            measured.setdefault((args.dataset, backbone), []).append(measure(of_seed, results))
    print(table(measured, "vectors", ROWS, COLUMNS) + "\n")
    print(table(measured, "distribution of an item", (INFERRED, ASKED_FOR), PLACES))


if __name__ == "__main__":
    main()
