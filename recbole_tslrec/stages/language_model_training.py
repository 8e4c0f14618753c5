"""What the stages share in which a language model is trained."""

from __future__ import annotations

import gc
import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store import processes
from recbole_tslrec.store.files import write_json

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.task import TrainingSettings

_IDENTITY = "language_model.json"  # of what the weights beside it belong to


class LanguageModelTraining(Stage):
    """A stage that trains a language model, all processes together.

    Attributes:
        source: the language model, its weights not loaded.
    """

    together = True
    source: LanguageModelSource

    @abstractmethod
    def how(self) -> TrainingSettings:
        """The settings of the training."""

    def arguments(self, checkpoints: Path) -> tuple[Any, ...]:
        """What ``training.train`` takes behind the model and its task."""
        pipeline, log_folder = self.pipeline, self.pipeline.log_folder
        logged = log_folder and os.path.join(log_folder, self.name)
        return self.how(), checkpoints, self.config["device"], pipeline.show_progress, logged

    def keep(self, folder: Path, save: Callable[[Path], None]) -> None:
        """Have the first process write what was trained, and of which language model it is."""
        if processes.is_first():
            save(folder)
            write_json(folder / _IDENTITY, self.source.identity)

    def check_language_model(self) -> None:
        """Raise ValueError unless what is kept was trained with this experiment's language model."""
        self.source.check_is(self.stored.folder / _IDENTITY)

    def bytes_of_training(self, n_others: int = 0) -> int:
        """Of three checkpoints, Adam's two numbers beside each weight, and the result; fp32.

        Args:
            n_others: the weights that are trained besides the adapters.
        """
        # About seven matrices a layer get adapters, which are [in, r] and [r, out].
        a_layer = 7 * 2 * self.config["lora_r"] * self.source.hidden_size
        return 4 * (self.source.n_layers * a_layer + n_others) * (3 * 3 + 1)


def forget_models() -> None:
    """Free what nothing names any more: the stage that comes next loads the model again.

    Trainer and model refer to each other, so that both would be in memory until Python happens to look
    for such circles.
    """
    gc.collect()
    torch.cuda.empty_cache()
