"""A small reconstruction task and the model for it, shared by the tests of fine-tuning."""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.prompt import make_prompt
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import FineTuningSettings
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel

CPU = torch.device("cpu")
N_ITEMS, K = 20, 4


def model_and_prompt(folder: str, quantization: str = "none", seed: int = 0):
    source = open_source(folder)
    torch.manual_seed(seed)
    language_model = load_language_model(source, quantization, CPU)
    language_model = add_adapters(language_model, 4, 8, 0.0, "all-linear")
    items = torch.randn(N_ITEMS + 1, 6, generator=torch.Generator().manual_seed(2))
    reader = ItemPromptModel(language_model, items, "last")
    prompt = make_prompt(source.tokenizer, "given the user history", "response :", 20, 64, "key")
    return ReconstructionModel(reader, 32, K), prompt


def users_of_one_taste(n_users=60):
    """Histories within one category each, so that ḡ can be read off any of the items."""
    generator = np.random.default_rng(0)
    rows, targets = [], []
    for user in range(n_users):
        category = user % K
        length = generator.integers(2, 9)
        rows.append(1 + category + K * generator.integers(0, N_ITEMS // K, size=length))
        targets.append(np.eye(K)[category])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    histories = Histories(np.arange(1, n_users + 1), offsets, np.concatenate(rows))
    return histories, csr_matrix(np.array(targets, dtype=np.float32))


def settings_of(**changes) -> FineTuningSettings:
    values = dict(
        epochs=6,
        learning_rate=1e-2,
        batch_positions=64,
        optimizer="adamw_torch",
        valid_ratio=0.2,
        stopping_step=6,
        seed=1,
    )
    return FineTuningSettings(**values | changes)
