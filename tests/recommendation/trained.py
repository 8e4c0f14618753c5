"""Checkpoints to recommend from, of models with random weights: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_tslrec.stages.trained_on import data_notes

N_ITEMS = 20  # without padding
WORDS = ("red", "green", "blue", "small", "large")
KEYS = {
    "data_path": "data",
    "gpu_id": "",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_neg_sample_args": None,
    "metrics": ["Hit", "NDCG"],
    "valid_metric": "NDCG@10",
    "show_progress": False,
    "state": "ERROR",
}


@dataclass
class Toy:
    """A checkpoint, and what it was written from."""

    checkpoint: str
    model: torch.nn.Module
    config: Config
    loaders: tuple
    histories: dict[str, list[str]]


def write_data(name: str = "toy", seed: int = 0) -> dict[str, list[str]]:
    """Twelve users with 5 to 11 interactions, one with a single one, and titles; the histories."""
    random = np.random.default_rng(seed)
    histories = {"all": [f"i{item}" for item in random.permutation(N_ITEMS)], "lone": ["i3"]}
    histories |= {
        f"u{user}": [f"i{item}" for item in random.integers(0, N_ITEMS, random.integers(5, 12))]
        for user in range(11)
    }
    rows = [
        f"{user}\t{item}\t{time}"
        for user, items in histories.items()
        for time, item in enumerate(items)
    ]
    folder = Path("data") / name
    folder.mkdir(parents=True, exist_ok=True)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / f"{name}.inter").write_text("\n".join([header, *rows]) + "\n")
    titles = [
        f"i{i}\tThe {WORDS[i % 5]} {WORDS[i % 4]} {i}\t{WORDS[i % 5]}" for i in range(N_ITEMS)
    ]
    header = "item_id:token\tmovie_title:token_seq\tclass:token"
    (folder / f"{name}.item").write_text("\n".join([header, *titles]) + "\n")
    return histories


def make_toy(name: str, spellings: Mapping[str, str] = MappingProxyType({}), **keys) -> Toy:
    """A checkpoint of a model, as its trainer writes it, in ``saved``.

    Args:
        spellings: what stands in the data set's files in place of something else.
    """
    histories = write_data()
    for file in Path("data/toy").iterdir():
        text = file.read_text()
        for plain, odd in spellings.items():
            text = text.replace(plain, odd)
        file.write_text(text)
    config = Config(name, "toy", config_dict=KEYS | keys)
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    model = get_model(name)(config, loaders[0]._dataset)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight.data, std=0.1)
    if name.startswith("TSLRec"):
        model.fusion.set_enhanced(torch.randn(N_ITEMS, 5))
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    config["trained_on"] = data_notes(loaders[0]._dataset, loaders[1])
    trainer._save_checkpoint(0, verbose=False)
    return Toy(trainer.saved_model_file, model.eval(), config, loaders, histories)
