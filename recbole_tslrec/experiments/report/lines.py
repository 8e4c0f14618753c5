"""The lines of results folders as one table, a row a cell.

``kept_cells.ResultsFolder`` says what a results folder holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

import pandas as pd

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.config.fingerprints import BEFORE_A_CHOICE
from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS
from recbole_tslrec.experiments.run.kept_cells import DONE, FORMAT, ResultsFolder
from recbole_tslrec.recbole_bridge.paradigm import table_rows
from recbole_tslrec.store.json_lines import read_lines

# Finished cells that agree in these differ in their seed only. ``made_by`` is the other backbone
# whose enhanced embeddings were used; "" for its own, or none.
METHOD = ["dataset", "backbone", "variant", "made_by"]
Key = tuple[str, str, str, str]

_NEEDED = ("dataset", "backbone", "variant", "seed", "status", "data", "configuration")
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("embeddings_from", "error", "backbone_from", "epochs")),
    **{name: {} for name in ("settings", "effective", "valid", "test", "seconds")},
    **{name: {} for name in ("versions", "files")},
    **{name: "" for name in ("machine", "command", "finished_at")},
    "reused_stages": [],
}


def in_order(column: pd.Series) -> pd.Series:
    """A key for ``sort_values``: backbones and variants in the order of a table, others by name."""
    known = {"backbone": list(BACKBONES), "variant": list(table_rows())}.get(column.name)
    if known is None:
        return column
    places = {name: number for number, name in enumerate(known)}
    return column.map(lambda name: f"{places.get(name, len(places)):03} {name}")


def cell_name(cell: Mapping[str, Any]) -> str:
    """A cell in words."""
    made_by = f", embeddings from {cell['made_by']}" if cell["made_by"] else ""
    where = f"{cell['dataset']}, {cell['backbone']}, {cell['variant']}"
    return f"{where}{made_by}, seed {cell['seed']}"


def read_all(folders: Sequence[ResultsFolder]) -> tuple[pd.DataFrame, dict[str, ResultsFolder]]:
    """The lines of the folders, and the folder of each cell: where it is finished and has its ranks.

    Raises:
        ValueError: a cell is finished in two of them with different results.
    """
    read = pd.concat([_read(folder).assign(folder=folder) for folder in folders])
    read = read.sort_values("finished_at", kind="stable")
    finished = read["status"] == DONE
    for cell, lines in read[finished].groupby("cell"):
        if any(test != lines["test"].iloc[0] for test in lines["test"]):
            where = ", ".join(f"[{folder.folder}]" for folder in lines["folder"])
            raise ValueError(
                f"results: cell [{cell}] has different results in {where}. Give one of them, or take "
                f"its line out of the others' cells.jsonl."
            )
    if read["cell"].duplicated().any():
        ranked = [line["folder"].arrays("ranks", line) is not None for _, line in read.iterrows()]
        read = read.assign(ranked=ranked, finished=finished)
        read = read.sort_values(["finished", "ranked"], kind="stable")
        read = read.drop_duplicates("cell", keep="last").drop(columns=["ranked", "finished"])
    read = read.sort_values("finished_at", kind="stable", ignore_index=True)
    where = dict(zip(read["cell"], read["folder"], strict=True))
    return read.drop(columns="folder"), where


def _read(folder: ResultsFolder) -> pd.DataFrame:
    """The lines of a results folder by the time they were finished, a row a cell.

    Raises:
        FileNotFoundError: there is no ``cells.jsonl``.
        ValueError: a line is not a cell of this format.
    """
    path = folder.cells.path
    if not path.is_file():
        raise FileNotFoundError(
            f"results: [{folder.folder}] has no {path.name}. Give the folder that a grid has written."
        )
    lines, half = read_lines(path)
    if half.strip():
        getLogger(__name__).warning(
            f"{path}, line {len(lines) + 1}, is half a line, of a run that is writing it or was "
            f"killed; left out."
        )
    rows = [_row(line, f"{path}, cell [{cell}]") for cell, line in folder.cells.read().items()]
    columns = None if rows else ["cell", *_NEEDED, *_DEFAULTS, "made_by"]
    found = pd.DataFrame(rows, columns=columns, dtype=object)  # whole numbers stay whole
    return found.sort_values("finished_at", kind="stable", ignore_index=True)


def _row(line: dict[str, Any], where: str) -> dict[str, Any]:
    """A line with what older ones lack, and its metrics in columns of their own."""
    if line.get("format") != FORMAT:
        raise ValueError(
            f"{where}: format [{line.get('format')}]; this program reads [{FORMAT}]. Run the grid "
            f"again, or make the report with the version that wrote it."
        )
    if missing := [name for name in _NEEDED if name not in line]:
        raise ValueError(f"{where} lacks a part of a cell: {', '.join(missing)}")
    row = {name: value for name, value in (_DEFAULTS | line).items() if name != "format"}
    if row["effective"]:  # which leaves these out
        row["effective"] = BEFORE_A_CHOICE | row["effective"]
    made_by = row["embeddings_from"]
    row["made_by"] = "" if made_by in (None, row["backbone"]) else made_by
    known = table_rows().get(row["variant"])
    if row["status"] == DONE:
        if known is not None and known.tested_alone:  # what is kept is the method's in its place
            row["valid"] = dict.fromkeys(METRICS.values(), float("nan"))
        measured = {"valid": row["valid"]}
        measured |= {protocol: row["test"][protocol] for protocol in PROTOCOLS}
        for part, metrics in measured.items():
            row |= {f"{part} {name}": metrics[key] for name, key in METRICS.items()}
    return row


def chosen(method: pd.DataFrame) -> pd.DataFrame:
    """Of a method's cells those of one configuration, the latest of each seed.

    Never a mean over other settings or data: those with most seeds; of as many, the latest.
    """
    groups = [cells for _, cells in method.groupby("configuration")]
    best = max(groups, key=lambda cells: (cells["seed"].nunique(), cells["finished_at"].max()))
    return best.drop_duplicates("seed", keep="last")
