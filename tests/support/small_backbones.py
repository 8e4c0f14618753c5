"""Small backbones: what each needs of settings and data, and models without a data set on disk."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.quick_start import run_recbole
from recbole.utils import get_model

N_ITEMS = 30
_READ_FEATURES = ("GRU4RecF", "SASRecF", "FDSA", "S3Rec")


def keys_of(backbone: str, dataset: str = "small") -> dict[str, Any]:
    """The keys that a backbone needs on a small data set, whose items get the feature ``class``."""
    keys: dict[str, Any] = {}
    if backbone in _READ_FEATURES:
        _write_classes(Path("data") / dataset / f"{dataset}.item")
        keys["load_col"] = {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "class"],
        }
    if backbone.endswith("CPR"):
        keys["reranker_CAN_NUM"] = "5"  # of 30 items; 100 by default
    if backbone == "TransRec":
        keys["train_neg_sample_args"] = {"distribution": "uniform", "sample_num": 1}
    return keys


def pretrained(dataset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The keys with which S3Rec goes on from a model of one epoch of its pretraining."""
    once = {"pretrain_epochs": 1, "save_step": 1, "train_neg_sample_args": None}
    run_recbole(model="S3Rec", dataset=dataset, config_dict=settings | keys_of("S3Rec") | once)
    (file,) = Path("saved").glob("S3Rec-*-1.pth")
    return {"train_stage": "finetune", "pre_model_path": str(file)}


def _write_classes(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"i{item}\t{'a b' if item % 3 else 'c'}" for item in range(40)]
    path.write_text("\n".join(["item_id:token\tclass:token_seq", *lines]) + "\n")


def model_of(name: str, **keys) -> SequentialRecommender:
    """A backbone of ours of 30 items (padding among them) and 8 features."""
    torch.manual_seed(0)
    settings = {"hidden_size": 8, "inner_size": 32, "gpu_id": ""}
    config = Config(model=name, dataset="ml-100k", config_dict=settings | keys)
    return get_model(name)(config, SimpleNamespace(num=lambda field: N_ITEMS))


def batch_of(length: int) -> Interaction:
    """Histories of one item, of some, and of as many as there are positions."""
    lengths = torch.tensor([1, 3, length])
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(1, N_ITEMS, (3, length), generator=generator)
    items *= torch.arange(length) < lengths[:, None]
    return Interaction(
        {
            "item_id_list": items,
            "item_length": lengths,
            "item_id": torch.tensor([7, 8, 9]),
            "neg_item_id": torch.tensor([10, 11, 12]),
        }
    )
