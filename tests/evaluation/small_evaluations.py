"""An untrained model with rows to evaluate of any lengths, on RecBole's own data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer, init_seed

MAX_LENGTH, N_ITEMS = 6, 20  # items and padding
KEYS = {
    "data_path": "data",
    "gpu_id": "",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
    "train_neg_sample_args": None,
    "metrics": ["Hit", "NDCG", "MRR"],
    "topk": [3, 7],
    "valid_metric": "NDCG@3",
    "metric_decimal_place": 12,
    "enhancement": "random",
    "n_categories": 3,
    "enhanced_width": 5,
    "show_progress": False,
    "state": "ERROR",
}


@dataclass
class Toy:
    """A model, RecBole's trainer of it and ours, and the loaders."""

    model: torch.nn.Module
    recbole: Trainer
    ours: Trainer
    loaders: tuple

    def with_rows(self, rows: dict[str, torch.Tensor]) -> FullSortEvalDataLoader:
        """RecBole's loader of these rows."""
        loader = self.loaders[2]
        return type(loader)(loader.config, loader._dataset.copy(Interaction(rows)), None)


def make_toy(name: str, **keys) -> Toy:
    """The toy of a model, in double precision, in which two ways to a score make no other ranks."""
    path = Path("data/toy/toy.inter")
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"all\ti{item}\t{item}" for item in range(N_ITEMS - 1)]
    for user in range(12):
        items = random.integers(0, N_ITEMS - 1, random.integers(4, 12))
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    path.write_text("\n".join(lines))
    config = Config(name, "toy", config_dict=KEYS | keys)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, loaders[0]._dataset).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight.data, std=0.5)
    if name.startswith("TSLRec"):
        model.fusion.set_enhanced(torch.randn(N_ITEMS - 1, 5, dtype=torch.double))
    ours = get_trainer(config["MODEL_TYPE"], name)(config, model)
    return Toy(model, Trainer(config, model), ours, loaders)


@st.composite
def rows_to_evaluate(draw) -> dict[str, torch.Tensor]:
    """Users with histories of one item to full length, in any order."""
    lengths = draw(st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=12))
    item = st.integers(1, N_ITEMS - 1)
    lists = [
        draw(st.lists(item, min_size=length, max_size=length)) + [0] * (MAX_LENGTH - length)
        for length in lengths
    ]
    targets = draw(st.lists(item, min_size=len(lengths), max_size=len(lengths)))
    users = draw(st.permutations(range(1, 14)))[: len(lengths)]
    return {
        "user_id": torch.tensor(users),
        "item_id": torch.tensor(targets),
        "item_id_list": torch.tensor(lists),
        "item_length": torch.tensor(lengths),
    }
