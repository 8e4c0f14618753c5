"""Whether stages that are used together were made of the same things.

A fingerprint says what a stage is made *from*. Removed and made again, on another machine for one, the
stage before may come out otherwise under the same fingerprint. So a stage notes the hash of what it
read, and whoever reads it compares.
"""

from __future__ import annotations

import json
import shutil
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_tslrec.store import processes
from recbole_tslrec.store.files import write_json
from recbole_tslrec.store.store import remedy

if TYPE_CHECKING:
    from recbole_tslrec.stages.stage import Stage

_READ_FILE = "read.json"  # beside partial results: what they were made of


def read_from(*stages: Stage) -> dict[str, str]:
    """What a stage notes of those it reads."""
    return {stage.product: stage.content_hash for stage in stages}


def check_read(reader: Stage, source: Stage) -> None:
    """Raise ValueError if ``reader`` was made of something else than ``source`` holds now."""
    stored = reader.stored
    noted = stored.notes.get(source.product)
    if noted is not None and noted != source.content_hash:
        raise ValueError(
            f"Stage {reader.name}: [{stored.folder}] was made of other "
            f"{source.product.replace('_', ' ')} than those in [{source.stored.folder}]: the "
            f"{source.name} stage was made again and came out otherwise, as it does on another "
            f"machine. {remedy(stored.folder)}"
        )


def keep_only_own(folder: Path, read: dict[str, Any]) -> None:
    """Make a folder for partial results, and empty it of those that were made of something else.

    Args:
        folder: there already if an earlier run was interrupted.
        read: all that the partial results depend on, as json.
    """
    if processes.is_first():
        note = folder.parent / _READ_FILE
        if folder.is_dir() and any(folder.iterdir()) and _read_note(note) != read:
            getLogger(__name__).warning(
                f"[{folder}]: partial results of other item embeddings, of another language model "
                f"or of the data in another order, or that do not say of which, are removed."
            )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(note, read)
    processes.wait_for_all()


def _read_note(note: Path) -> dict[str, Any] | None:
    """What a json file holds; None if it is not there or is damaged."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
