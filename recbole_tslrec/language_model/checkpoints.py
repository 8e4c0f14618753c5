"""The checkpoints of a training: which are whole, and what the last one says of its run."""

from __future__ import annotations

import shutil
from logging import getLogger
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from recbole_tslrec.store.files import broken_seal


def stopped_early(checkpoint: Path) -> TrainerState | None:
    """The state of a run that had no patience left when it was interrupted; None of any other."""
    state = state_of(checkpoint)
    callback = state.stateful_callbacks.get("EarlyStoppingCallback")
    if callback is None:
        return None
    patience = callback["args"]["early_stopping_patience"]
    waited = callback["attributes"]["early_stopping_patience_counter"]
    return state if waited >= patience else None


def state_of(checkpoint: Path) -> TrainerState:
    """How far the run had come that wrote the checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))


def remove_broken_checkpoints(checkpoints: Path) -> None:
    """Remove checkpoints that are not as they were written: cut short or altered.

    The last ones as long as they are not; all of them if the best is not, which the end needs.
    """
    while (last := get_last_checkpoint(checkpoints)) is not None:
        problem = broken_seal(Path(last))
        if problem is None:
            break
        getLogger(__name__).warning(f"Training does not go on from [{last}]: {problem}.")
        shutil.rmtree(last)
    best = last and state_of(Path(last)).best_model_checkpoint
    problem = best and broken_seal(checkpoints / Path(best).name)
    if problem:
        getLogger(__name__).warning(f"Training starts anew: its best epoch, [{best}]: {problem}.")
        shutil.rmtree(checkpoints)
        checkpoints.mkdir()
