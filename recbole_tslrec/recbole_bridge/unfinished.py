"""A training that was stopped goes on: RecBole's loop, from the end of an epoch.

While RecBole's loop runs, one file beside its checkpoint holds all that the epochs to come depend on:
weights, optimiser, patience, the best epoch so far and where every generator of random numbers stands.
The same experiment, started again, reads it and ends bit for bit where an unbroken one does (on the
CPU). The file's name is a hash of what the training follows from; with its end the file goes.
"""

from __future__ import annotations

import math
import random
import shutil
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from recbole.data.dataloader import AbstractDataLoader
from recbole.trainer import Trainer

import recbole_tslrec
from recbole_tslrec.backbones.class_code import class_code
from recbole_tslrec.backbones.registry import backbone_of
from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.config.key import KEYS, result_values
from recbole_tslrec.stages.data_values import feature_values, interaction_values
from recbole_tslrec.stages.trained_on import data_notes
from recbole_tslrec.store.checkpoints import (
    check_checkpoint,
    hash_of_weights,
    is_intact,
    load_checkpoint,
    saying_which,
    without_layers,
    write_checkpoint,
)
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.locks import lock_files

SUFFIX = ".unfinished"
SECONDS_BETWEEN = 60.0  # a training that is over before has no file
SHARE_OF_WRITING = 0.05  # of the time, at most
# Workers of a loader have the lock of a process that was killed for a moment longer.
_SECONDS_TO_LET_GO = 5.0
_BESIDE = "unfinished"  # in the file, beside what RecBole's checkpoints hold
_PACKAGES = ("recbole", "torch")  # with ours, whose versions a training depends on


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
        # It stands for what the model was made of: stages, files, how weights start.
        self._start = hash_of_weights(trainer.model.state_dict())
        self._begun = monotonic()
        self._due = self._begun + SECONDS_BETWEEN
        self._path: Path | None = None  # once it is this process's
        self._lock: FileLock | None = None
        self._left_to_another = False
        self.seconds_before = 0.0
        self.ended = False

    def restore(self) -> None:
        """Put the trainer where the same training was stopped, if a file of it is there.

        A damaged file is replaced, with a warning: the training starts anew.

        Raises:
            ValueError: the file is whole, and no training has written it.
        """
        trainer = self._trainer
        if not any(self._folder.glob(f"{trainer.config['model']}-*{SUFFIX}")):
            return
        path = self._folder / self._name(data_notes(self._loaders[0]._dataset, self._loaders[1]))
        if not path.is_file():
            trainer.logger.info(
                f"[{self._folder}] has unfinished trainings of [{trainer.config['model']}], of other "
                f"settings, data, versions or first weights. This one starts anew."
            )
            return
        if not self._take(path):
            return
        if not is_intact(path):
            trainer.logger.warning(f"[{path}] is damaged or cut short. The training starts anew.")
            return
        try:
            content = load_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"[{path}] is not what a training has kept. Remove it.") from error
        if fault := self._fault(content):
            raise ValueError(f"[{path}] is not what a training has kept: {fault}. Remove it.")
        with saying_which(path):
            self._go_on_from(path, content)
        trainer.logger.info(
            f"[{path}]: goes on after epoch {content['epoch']} of a training that was stopped. Remove "
            f"the file to train anew."
        )

    def epoch_ends(self, epoch: int, _score: float) -> None:
        """RecBole's ``callback_fn``: keep the epoch, unless one was kept a moment ago."""
        trainer = self._trainer
        self.ended = trainer.cur_step > trainer.stopping_step or epoch + 1 == trainer.epochs
        # Its end is kept in any case: the term at scoring, which may take long, comes after it.
        if monotonic() < self._due and not (self.ended and self._path is not None):
            return
        start = monotonic()
        path = self._path or self._folder / self._name(trainer.config["trained_on"])
        if self._take(path):
            try:
                self._write(path, epoch)
            except OSError as error:
                self._warn_of_disk(path, error)
        took = monotonic() - start
        self._due = monotonic() + max(SECONDS_BETWEEN, took / SHARE_OF_WRITING)

    def remove(self) -> None:
        """Remove the file: the training is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process go on with what is kept, if anything."""
        if self._lock is not None:
            Path(self._lock.lock_file).unlink(missing_ok=True)  # while it is held
            self._lock.release()
            self._lock = None

    @property
    def seconds(self) -> float:
        """How long the training has taken so far, the time before it was stopped included."""
        return self.seconds_before + monotonic() - self._begun

    def _take(self, path: Path) -> bool:
        """Have the file for this process alone; not if another has it, or the disk gives no lock."""
        if self._lock is not None or self._left_to_another:
            return self._lock is not None
        lock = FileLock(lock_files(path)[0])
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_SECONDS_TO_LET_GO)
        except Timeout:
            self._left_to_another = True
            self._trainer.logger.warning(
                f"[{path}]: another process is at the same training. This one is not kept while it runs."
            )
            return False
        except OSError as error:
            self._warn_of_disk(path, error)
            return False
        self._path, self._lock = path, lock
        return True

    def _warn_of_disk(self, path: Path, error: OSError) -> None:
        self._trainer.logger.warning(
            f"[{path}] could not be written ({error.strerror or error}). The training goes on, and is "
            f"not kept as long as that lasts."
        )

    def _name(self, notes: dict[str, str]) -> str:
        trainer, config = self._trainer, self._trainer.config
        data = notes | feature_values(self._loaders[0]._dataset)
        backbone = backbone_of(trainer.model)
        if backbone is None or backbone.code is not None:  # who knows which columns it reads
            data["rows"] = [interaction_values(loader._dataset) for loader in self._loaders]
        made_from = {
            "settings": training_settings(config.final_config_dict),
            "metrics": f"{config['topk']} {config['metrics']}",  # of the best epoch's result
            # A backbone by itself reads none; what a file or language model gives is in the start.
            "keys": result_values(config, sorted(KEYS)) if hasattr(trainer.model, "stages") else {},
            "data": data,
            "start": self._start,
            "code": class_code(type(trainer.model)),
            "on": [trainer.device.type, recbole_tslrec.__version__, *map(version, _PACKAGES)],
        }
        return f"{config['model']}-{fingerprint(made_from)[:16]}{SUFFIX}"

    def _write(self, path: Path, epoch: int) -> None:
        trainer = self._trainer
        # Of an epoch that was just saved the weights are there anyhow.
        best = load_checkpoint(trainer.saved_model_file) if trainer.cur_step else {}
        content = {
            "config": trainer.config,
            "epoch": epoch,
            "cur_step": trainer.cur_step,
            "best_valid_score": float(trainer.best_valid_score),
            "state_dict": trainer.model.state_dict(),
            "other_parameter": without_layers(trainer.model.other_parameter() or {}),
            "optimizer": trainer.optimizer.state_dict(),
            _BESIDE: {
                "best": {name: value for name, value in best.items() if name != "config"},
                "best_valid_result": _as_floats(trainer.best_valid_result),
                "losses": _as_floats(trainer.train_loss_dict),
                "loaders": [loader.generator.get_state() for loader in self._loaders],
                "generators": _generators(),
                "seconds": self.seconds,
                "ended": self.ended,
            },
        }
        write_checkpoint(content, path)

    def _fault(self, content: dict[str, Any]) -> str | None:
        """What is wrong with the form of a file whose name and checksums are right."""
        beside = content.get(_BESIDE)
        kinds = {"best": dict, "best_valid_result": dict, "losses": dict, "loaders": list}
        kinds |= {"generators": dict, "seconds": float, "ended": bool}
        if not isinstance(beside, dict) or beside.keys() != kinds.keys():
            return f"it has no [{_BESIDE}] with {', '.join(kinds)}"
        wrong = [name for name, kind in kinds.items() if type(beside[name]) is not kind]
        if wrong:
            return f"its [{wrong[0]}] is a {type(beside[wrong[0]]).__name__}"
        if not 0 <= content.get("epoch", -1) < self._trainer.epochs:
            return f"its epoch is [{content.get('epoch')}]"
        return None if 0 <= beside["seconds"] < math.inf else f"its seconds: [{beside['seconds']}]"

    def _go_on_from(self, path: Path, content: dict[str, Any]) -> None:
        trainer, own_file = self._trainer, self._trainer.saved_model_file
        beside = content.pop(_BESIDE)
        trainer.resume_checkpoint(path)
        trainer.saved_model_file = own_file
        # As this run was started: what may differ has no effect on the training.
        trainer.config["trained_on"] = content["config"]["trained_on"]
        write_checkpoint(content | beside["best"] | {"config": trainer.config}, own_file)
        check_checkpoint(own_file)
        trainer.best_valid_result = _as_floats(beside["best_valid_result"])
        trainer.train_loss_dict.update(_as_floats(beside["losses"]))
        for loader, state in zip(self._loaders, beside["loaders"], strict=True):
            loader.generator.set_state(state)
        _set_generators(beside["generators"])
        self.seconds_before, self.ended = beside["seconds"], beside["ended"]


def clear_but_unfinished(folder: Path) -> None:
    """Remove what a run that was stopped left in a folder, but for what its training goes on from."""
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.suffix != SUFFIX and not path.name.endswith(f"{SUFFIX}.lock"):
            path.unlink()


def _as_floats(values: dict[Any, Any]) -> dict[Any, float]:
    return {name: float(value) for name, value in values.items()}


def _generators() -> dict[str, Any]:
    """Where the random generators stand that RecBole's training draws from, as torch can read it."""
    kind, key, place, has_gauss, gauss = np.random.get_state()
    version_, state, next_gauss = random.getstate()
    return {
        "python": [version_, list(state), next_gauss],
        "numpy": [kind, torch.from_numpy(key.astype(np.int64)), place, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_generators(kept: dict[str, Any]) -> None:
    version_, state, next_gauss = kept["python"]
    random.setstate((version_, tuple(state), next_gauss))
    kind, key, place, has_gauss, gauss = kept["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(kept["torch"])
    for device, of_device in zip(range(torch.cuda.device_count()), kept["cuda"], strict=False):
        torch.cuda.set_rng_state(of_device, device)
