"""A tiny data set through RecBole's own pipeline: histories shorter and longer than the lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import AbstractDataLoader
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model, init_seed

MAX_LENGTH = 6
# Two items of each are held out. Training histories of one item (no row), of MAX_LENGTH inputs
# exactly, and of more; of the long ones, `prepare` can leave out all.
SHORT = [3, 4, 5, 6, 8, 9]
LONG = [10, 13, 15, 24, 31]
N_ITEMS = 40


def prepare(
    model: str = "SASRec", lengths: list[int] = SHORT + LONG, **keys
) -> tuple[Config, AbstractDataLoader, AbstractDataLoader]:
    """The configuration and RecBole's loaders for training and validation.

    The data set is written to the working folder, which in the tests is a temporary one.

    Args:
        model: RecBole's name of the model.
        lengths: the lengths of the users' whole histories; three users of each.
        keys: RecBole's keys that differ from the ones here.
    """
    path = Path("data/tiny/tiny.inter")
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, length in enumerate(lengths * 3):
        items = random.integers(0, N_ITEMS, length)
        lines += [f"{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    path.write_text("\n".join(lines))

    settings = {
        "data_path": "data",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "gpu_id": "",
        "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
        "train_batch_size": 32,
        "train_neg_sample_args": None,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "hidden_size": 16,
        "embedding_size": 16,
    }
    config = Config(model=model, dataset="tiny", config_dict=settings | keys)
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    return config, train_data, valid_data


def make_model(config: Config, train_data: AbstractDataLoader) -> SequentialRecommender:
    """The model in double precision and without dropout, so that two ways to a loss agree."""
    model = get_model(config["model"])(config, train_data._dataset).double()
    return model.eval()
