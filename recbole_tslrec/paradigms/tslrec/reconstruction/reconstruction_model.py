"""Equations 1 to 3 (paper §4.1): from a prompt to a distribution over categories, and its loss."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import load_adapters, save_adapters

_PROJECTIONS = "projections.safetensors"
_ADAPTERS = "adapters"


class ReconstructionModel(nn.Module):
    """Eq. 1 to 3: the prompt's hidden state, the distribution over categories, the loss.

    Args:
        reader: the language model that reads items.
        hidden_size: the width of its hidden states.
        n_categories: K.
    """

    def __init__(self, reader: ItemPromptModel, hidden_size: int, n_categories: int):
        super().__init__()
        self.reader = reader
        self.preference_head = nn.Linear(hidden_size, n_categories)  # W_gp, b_gp

    def distribution(self, hidden: Tensor) -> Tensor:
        """Eq. 2: ĝ = softmax(W_gp h + b_gp). [B, hidden] -> [B, K]"""
        return self.preference_head(hidden).float().softmax(dim=1)

    def forward(self, preference: Tensor, **prompts: Tensor) -> dict[str, Tensor]:
        """The loss of a batch of users.

        Args:
            preference: ḡ^u, [B, K], rows sum to 1.
            prompts: as ``Template.batch`` makes them.

        Returns:
            ``loss``, Eq. 3 as the mean over users; ``error`` [B], each user's term of it;
            ``cosine`` [B], the similarity of ĝ^u and ḡ^u.
        """
        predicted = self.distribution(self.reader(**prompts))
        error = (preference - predicted).pow(2).sum(dim=1)
        cosine = F.cosine_similarity(preference, predicted.detach())
        return {"loss": error.mean(), "error": error, "cosine": cosine}

    def save(self, folder: Path) -> None:
        """Write what is trained: the adapters, and the projections in full precision."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapters(self.reader.language_model, folder / _ADAPTERS)
        projections = {
            f"{name}.{key}": value.float().contiguous().cpu()
            for name, module in self._projections().items()
            for key, value in module.state_dict().items()
        }
        save_file(projections, folder / _PROJECTIONS)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote into a model made under the same settings."""
        load_adapters(self.reader.language_model, Path(folder) / _ADAPTERS)
        stored = load_file(Path(folder) / _PROJECTIONS)
        for name, module in self._projections().items():
            module.load_state_dict({key: stored[f"{name}.{key}"] for key in module.state_dict()})

    def _projections(self) -> dict[str, nn.Linear]:
        slots = getattr(self.reader, "linear_proj", None)  # without slots there is none
        projections = {"linear_proj": slots, "preference_head": self.preference_head}
        return {name: module for name, module in projections.items() if module is not None}
