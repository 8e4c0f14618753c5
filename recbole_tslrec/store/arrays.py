"""Arrays in one .npz: written whole or not at all, read without trust. Needs NumPy alone."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from recbole_tslrec.store.files import write_atomically

# What reading a damaged .npz raises, by where the damage is.
_SIGNS_OF_DAMAGE = (
    *(BadZipFile, EOFError, ValueError, zlib.error, struct.error),
    *(LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError),
)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays of numbers or texts as one .npz, atomically; makes the folder."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # given a name, NumPy would add .npz to it
            np.savez_compressed(file, **arrays)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def read_arrays(path: Path, of: str = "") -> dict[str, np.ndarray]:
    """The arrays of a file by name; of those under ``<name>/`` only the ones of the name ``of``.

    Raises:
        ValueError: the file is damaged; says how.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as file:
            names = {name.removeprefix(f"{of}/"): name for name in file.files}
            arrays = {short: file[name] for short, name in names.items() if "/" not in short}
    except _SIGNS_OF_DAMAGE as error:
        raise ValueError(str(error)) from error
    # Packed in small types, in which NumPy would go on to compute.
    return {
        name: array.astype(np.int32) if array.dtype.kind == "u" else array
        for name, array in arrays.items()
    }


def arrays_hash(*arrays: np.ndarray) -> str:
    """A hash of what arrays hold, one after the other; of their shapes and types it knows nothing."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(np.ascontiguousarray(array))
    return content.hexdigest()
