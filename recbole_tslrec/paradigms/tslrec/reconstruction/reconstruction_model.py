"""Equations 1 to 3 (paper §4.1): from a prompt to a distribution over categories, and its loss."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import load_adapters, save_adapters
from recbole_tslrec.language_model.readout import head_of
from recbole_tslrec.paradigms.tslrec.reconstruction.next_title import next_title_loss

_PROJECTIONS = "projections.safetensors"
_ADAPTERS = "adapters"


class ReconstructionModel(nn.Module):
    """Eq. 1 to 3: the prompt's hidden state, the distribution over categories, the loss.

    Args:
        reader: the language model that reads items.
        hidden_size: the width of its hidden states.
        n_categories: K.
        next_title: the weight of the second task (``next_title.py``), for which the reader has its
            head; 0: none.
    """

    def __init__(
        self,
        reader: ItemPromptModel,
        hidden_size: int,
        n_categories: int,
        next_title: float = 0.0,
    ):
        super().__init__()
        self.reader = reader
        self.next_title = next_title
        self.preference_head = nn.Linear(hidden_size, n_categories)  # W_gp, b_gp

    def distribution(self, hidden: Tensor) -> Tensor:
        """Eq. 2: ĝ = softmax(W_gp h + b_gp). [B, hidden] -> [B, K]"""
        return self.preference_head(hidden).float().softmax(dim=1)

    def error(self, preference: Tensor, predicted: Tensor) -> Tensor:
        """Eq. 3 of each user: the squared distance of ĝ from ḡ, both [B, K]. [B]"""
        return (preference - predicted).pow(2).sum(dim=1)

    def forward(
        self, preference: Tensor, item_numbers: Tensor | None = None, **prompts: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch of users.

        Args:
            preference: ḡ^u, [B, K], rows sum to 1.
            item_numbers: for the second task, as ``Template.batch`` makes them.
            prompts: the same.

        Returns:
            ``error`` [B], each user's term of the loss: of Eq. 3, and with the second task of Eq. 3 +
            ``next_title`` · its cross-entropy; ``cosine`` [B], the similarity of ĝ^u and ḡ^u; with the
            second task its two parts by themselves, ``reconstruction`` and ``next_title`` [B].
        """
        hidden, states = self.reader(with_states=True, **prompts)
        predicted = self.distribution(hidden)
        error = self.error(preference, predicted)
        cosine = F.cosine_similarity(preference, predicted.detach())
        if not self.next_title:
            return {"error": error, "cosine": cosine}
        head = head_of(self.reader.language_model)
        words = next_title_loss(head, states.hidden, prompts["token_ids"], item_numbers)
        parts = {"reconstruction": error.detach(), "next_title": words.detach()}
        return {"error": error + self.next_title * words, "cosine": cosine} | parts

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
