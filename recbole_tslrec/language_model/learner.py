"""What a training loop is handed of a model: saved and loaded is what is trained."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_TRAINED = "trained.safetensors"


class TrainedParts(nn.Module):
    """A learner (``task.Learner``); its frozen weights, if any, are not saved.

    Args:
        reader: the language model that reads prompts.
    """

    def __init__(self, reader: nn.Module):
        super().__init__()
        self.reader = reader

    def save(self, folder: Path) -> None:
        """Write what is trained."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: weight.detach().cpu() for name, weight in self._trained().items()}
        save_file(trained, folder / _TRAINED)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote into a model made under the same settings."""
        stored = load_file(Path(folder) / _TRAINED)
        for name, weight in self._trained().items():
            weight.copy_(stored[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}
