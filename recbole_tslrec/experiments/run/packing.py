"""Makes a results folder small enough to keep beside code; what reads one reads both forms.

A packed folder has one compressed .npz a data set in place of one a cell: an array that is the same for
all cells once, under its name, the others under ``<cell>/<name>``. It is NumPy's format, which needs no
package more; a parquet would need pyarrow, larger than all else that the report draws with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_tslrec.evaluation.kept_ranks import RANK_COLUMNS
from recbole_tslrec.evaluation.metrics import CUTOFFS
from recbole_tslrec.experiments.run.kept_cells import (
    DONE,
    OWN_ARRAYS,
    ResultsFolder,
)
from recbole_tslrec.store.arrays import save_arrays

_MAP = ("category", "map_before", "map_after")
_READ = {
    "ranks": ("user", "item", "rank", "rank_masked", "training_length", "item_count", "repeated"),
    "items": ("item", "training_count", "place", "mean_gate", *_MAP),
}


def pack(folder: Path) -> int:
    """Pack the arrays of a results folder's finished cells, those of cells packed before as well.

    No run may be writing to it. Left out is what no table or picture shows: ranks past the largest
    cutoff, which no metric tells apart, become the one after it; of items only TSLRec's stay, and the
    map of a method's first seed.

    Returns:
        Bytes of the packed files and the lines.

    Raises:
        FileNotFoundError: it is no results folder.
        ValueError: a file is damaged, or two data sets would have one file.
    """
    results = ResultsFolder(folder)
    if not results.cells.path.is_file():
        raise FileNotFoundError(f"results: [{folder}] has no {results.cells.path.name}.")
    written = [results.cells.path]
    lines = [line for line in results.cells.read().values() if line["status"] == DONE]
    mapped = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        mapped.setdefault(line["configuration"], line["cell"])
    datasets = {line["dataset"] for line in lines}
    if len({results.arrays_file("ranks", dataset) for dataset in datasets}) < len(datasets):
        names = ", ".join(sorted(datasets))
        raise ValueError(f"results: of the data sets [{names}] two differ by a / alone.")
    for dataset in datasets:
        cells = [line for line in lines if line["dataset"] == dataset]
        for kind, names in _READ.items():
            found = {cell["cell"]: results.arrays(kind, cell) for cell in cells}
            chosen = {
                cell: {
                    name: _smallest(name, arrays[name])
                    for name in names
                    if name in arrays and (name not in _MAP or cell in mapped.values())
                }
                for cell, arrays in found.items()
                if arrays is not None and (kind == "ranks" or "place" in arrays)
            }
            if chosen:
                written.append(results.arrays_file(kind, dataset))
                save_arrays(written[-1], _joined(chosen))
            for cell in found:
                results.arrays_file(kind, cell).unlink(missing_ok=True)
    return sum(path.stat().st_size for path in written)


def _smallest(name: str, array: np.ndarray) -> np.ndarray:
    """The same numbers, as far as they matter, in the smallest type of whole numbers."""
    if name in RANK_COLUMNS.values():
        array = np.minimum(array, max(CUTOFFS) + 1)
    if array.dtype.kind != "i":
        return array
    return array.astype(np.min_scalar_type(max(array.max(initial=0), 0)))


def _joined(cells: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several cells under one name each."""
    first = next(iter(cells.values()))
    shared = {
        name
        for name, array in first.items()
        if name not in OWN_ARRAYS.values()
        and all(np.array_equal(array, other.get(name)) for other in cells.values())
    }
    joined = {name: first[name] for name in shared}
    for cell, arrays in cells.items():
        joined |= {f"{cell}/{name}": arrays[name] for name in arrays if name not in shared}
    return joined
