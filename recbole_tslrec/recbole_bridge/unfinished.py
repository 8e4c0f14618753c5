"""A training that was stopped goes on: RecBole's loop, from the end of an epoch.

While RecBole's loop runs, one file beside its checkpoint holds all that the epochs to come depend on:
weights, optimiser, patience, the best epoch so far and where every generator of random numbers stands.
The same experiment, started again, reads it and ends bit for bit where an unbroken one does (on the
CPU). The file's name is a hash of what the training follows from; with its end the file goes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import AbstractDataLoader
from recbole.trainer import Trainer
from torch import Tensor

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.config.key import KEYS
from recbole_tslrec.stages.trained_on import data_notes
from recbole_tslrec.store.checkpoints import load_checkpoint, without_layers, write_checkpoint
from recbole_tslrec.store.files import fingerprint

SUFFIX = ".unfinished"
SECONDS_BETWEEN = 60.0  # a training that is over before has no file
SHARE_OF_WRITING = 0.05  # of the time, at most
_BESIDE = "unfinished"  # in the file, beside what RecBole's checkpoints hold


class UnfinishedTraining:
    """What is kept of one training while it runs.

    Args:
        trainer: RecBole's, whose loop has not begun.
        train_data, valid_data: the loaders that the loop will get.
        folder: where the file is kept.

    Attributes:
        seconds_before: how long the training took before it was stopped; 0 for one that starts.
        ended: whether its epochs were all done, so that only what comes after them is to do.
    """

    def __init__(
        self,
        trainer: Trainer,
        train_data: AbstractDataLoader,
        valid_data: AbstractDataLoader,
        folder: Path,
    ):
        self._trainer = trainer
        self._loaders = (train_data, valid_data)
        self._folder = folder
        self._begun = monotonic()
        self._due = self._begun + SECONDS_BETWEEN
        self._epoch = 0
        self._written: Path | None = None
        self.seconds_before = 0.0
        self.ended = False

    def restore(self) -> None:
        """Put the trainer where the same training was stopped, if a file of it is there.

        A damaged file is left aside with a warning, and the training starts anew.
        """
        trainer = self._trainer
        if not any(self._folder.glob(f"{trainer.config['model']}-*{SUFFIX}")):
            return
        path = self._path(data_notes(self._loaders[0]._dataset, self._loaders[1]))
        if not path.is_file():
            return
        try:
            content = load_checkpoint(path)
        except ValueError as error:
            trainer.logger.warning(f"{error} The training starts anew.")
            return
        own_file = trainer.saved_model_file
        trainer.resume_checkpoint(path)
        trainer.saved_model_file = own_file
        beside = content.pop(_BESIDE)
        write_checkpoint(content | beside["best"], own_file)
        trainer.best_valid_result = beside["best_valid_result"]
        for loader, state in zip(self._loaders, beside["loaders"], strict=True):
            loader.generator.set_state(state)
        _set_generators(beside["generators"])
        self._written, self._epoch = path, content["epoch"]
        self.seconds_before, self.ended = beside["seconds"], beside["ended"]
        trainer.logger.info(
            f"[{path}]: goes on after epoch {self._epoch} of a training that was stopped. Remove the "
            f"file to train anew."
        )

    def epoch_ends(self, epoch: int, _score: float) -> None:
        """RecBole's ``callback_fn``: keep the epoch, unless one was kept a moment ago."""
        self._epoch = epoch
        if monotonic() >= self._due:
            self._write()

    def epochs_end(self) -> None:
        """Keep what the epochs came to, if they took long: the term at scoring comes after them."""
        self.ended = True
        trained = self._trainer.best_valid_result is not None  # not frozen, as for a term alone
        if trained and (self._written is not None or monotonic() >= self._due):
            self._write()

    def remove(self) -> None:
        """Remove the file: the training is over."""
        if self._written is not None:
            self._written.unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        """How long the training has taken so far, the time before it was stopped included."""
        return self.seconds_before + monotonic() - self._begun

    def _path(self, notes: dict[str, str]) -> Path:
        config = self._trainer.config
        made_from = {
            "settings": training_settings(config.final_config_dict),
            "metrics": f"{config['topk']} {config['metrics']}",  # of the best epoch's result
            "keys": {key: str(config[key]) for key in sorted(KEYS)},
            "data": notes,
            "stages": [stage.fingerprint for stage in getattr(self._trainer, "stages", [])],
        }
        name = f"{config['model']}-{fingerprint(made_from)[:16]}{SUFFIX}"
        return self._folder / name

    def _write(self) -> None:
        trainer, start = self._trainer, monotonic()
        path = self._path(trainer.config["trained_on"])
        best = load_checkpoint(trainer.saved_model_file, trainer.device) if trainer.cur_step else {}
        content = {
            "config": trainer.config,
            "epoch": self._epoch,
            "cur_step": trainer.cur_step,
            "best_valid_score": float(trainer.best_valid_score),
            "state_dict": trainer.model.state_dict(),
            "other_parameter": without_layers(trainer.model.other_parameter() or {}),
            "optimizer": trainer.optimizer.state_dict(),
            _BESIDE: {
                "best": {name: value for name, value in best.items() if name != "config"},
                "best_valid_result": {
                    name: float(value) for name, value in trainer.best_valid_result.items()
                },
                "loaders": [loader.generator.get_state() for loader in self._loaders],
                "generators": _generators(),
                "seconds": self.seconds,
                "ended": self.ended,
            },
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(content, path)
        self._written = path
        took = monotonic() - start
        self._due = monotonic() + max(SECONDS_BETWEEN, took / SHARE_OF_WRITING)


def clear_but_unfinished(folder: Path) -> None:
    """Remove what a run that was stopped left in a folder, but for what its training goes on from."""
    for path in folder.glob("*"):
        if path.suffix != SUFFIX:
            path.unlink()


def _generators() -> dict[str, Any]:
    """Where the random generators stand that RecBole's training draws from, as torch can read it."""
    kind, key, place, has_gauss, gauss = np.random.get_state()
    version, state, next_gauss = random.getstate()
    return {
        "python": [version, list(state), next_gauss],
        "numpy": [kind, torch.from_numpy(key.astype(np.int64)), place, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_generators(kept: dict[str, Any]) -> None:
    version, state, next_gauss = kept["python"]
    random.setstate((version, tuple(state), next_gauss))
    kind, key, place, has_gauss, gauss = kept["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(kept["torch"])
    _set_cuda_generators(kept["cuda"])


def _set_cuda_generators(states: Iterable[Tensor]) -> None:
    for device, state in zip(range(torch.cuda.device_count()), states, strict=False):
        torch.cuda.set_rng_state(state, device)
