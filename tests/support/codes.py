"""Models that write item codes, untrained."""

from __future__ import annotations

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model

# Of three lengths; items that are not here have tokens of their own.
TREE = torch.tensor([[3, 0, -1], [3, 1, -1], [4, 5, 0], [4, 5, 1], [4, 6, 0], [4, 2, -1]])


def untrained(settings: dict, dataset: str, model: str = "P5"):
    """A model, whose codes are of three lengths, and RecBole's training rows and loader of tests."""
    config = Config(model, dataset, config_dict=settings)
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset).eval()
    n_more = recommender.n_items - 1 - len(TREE)
    more = torch.nn.functional.pad(torch.arange(7, 7 + n_more)[:, None], (0, 2), value=-1)
    recommender.take_codes(torch.cat([TREE, more]))
    with torch.no_grad():  # so that the logits tell codes apart
        recommender.reader.language_model.get_output_embeddings().weight *= 3
    return recommender.eval(), train_data._dataset, next(iter(test_data))[0]
