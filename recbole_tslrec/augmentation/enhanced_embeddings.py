"""Enhanced embeddings: each item alone through the language model, and the controls (paper §4.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_tslrec.item_tensors import read_header

if TYPE_CHECKING:
    from recbole_tslrec.language_model.item_prompt_model import ItemPromptModel
    from recbole_tslrec.language_model.prompt import Prompt
    from recbole_tslrec.reconstruction.fine_tuning import ReconstructionModel

# Names of the tensors in a file of enhanced items.
ENHANCED_EMBEDDING = "enhanced_embedding"  # h^v, [n_items, hidden] float32
CATEGORY_DISTRIBUTION = "category_distribution"  # ĝ^v, [n_items, K] float32

# A step's size in prompt positions. It changes the speed, not the result.
_POSITIONS_A_BATCH = 8192


@torch.no_grad()
def read_items(reader: ItemPromptModel, prompt: Prompt, show_progress: bool = True) -> Tensor:
    """h^v: the hidden state of every item as a one-item history.

    Args:
        reader: its item embeddings are [n_items, d] with the padding row 0, which is left out.

    Returns:
        [n_items - 1, hidden] float32 on the CPU.
    """
    from recbole_tslrec.language_model.load import bf16_is_fast

    reader.eval()
    device = reader.item_embeddings.device
    rows = np.arange(1, len(reader.item_embeddings))
    size = max(1, _POSITIONS_A_BATCH // (len(prompt.before) + 1 + len(prompt.after)))
    parts = []
    starts = tqdm(range(0, len(rows), size), desc="Augmentation", disable=not show_progress)
    for start in starts:
        batch = prompt.batch(rows[start : start + size, None])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            parts.append(reader(**batch).cpu())
    return torch.cat(parts)


@torch.no_grad()
def infer_categories(model: ReconstructionModel, enhanced: Tensor) -> Tensor:
    """ĝ^v: Eq. 2 on the items' hidden states. [n, hidden] -> [n, K] float32"""
    return model.distribution(enhanced.to(model.preference_head.weight)).cpu()


def random_embeddings(n_items: int, width: int, seed: int) -> Tensor:
    """The control ``random``: fixed Gaussian vectors in place of h^v, [n_items, width] float32."""
    return torch.randn(n_items, width, generator=torch.Generator().manual_seed(seed))


def enhanced_width(config, dimension: int) -> int:
    """How many columns h^v has under these settings, known before anything is computed.

    Args:
        config: RecBole's config with our keys.
        dimension: d of the backbone's item table.
    """
    if config["enhanced_items"] is not None:
        header = read_header(Path(config["enhanced_items"]))
        if ENHANCED_EMBEDDING not in header["tensors"]:
            raise ValueError(
                f"enhanced_items: [{config['enhanced_items']}] holds {sorted(header['tensors'])}, and "
                f"no {ENHANCED_EMBEDDING}; it comes from another stage."
            )
        return header["tensors"][ENHANCED_EMBEDDING][1]
    if config["enhancement"] == "pretrained":
        return dimension
    from recbole_tslrec.language_model.source import open_source  # transformers is slow to import

    return open_source(config["llm"], config["llm_trust_remote_code"]).hidden_size
