"""The kept results of a grid of experiments as one table, a row a cell: read, checked, chosen.

``kept_cells.ResultsFolder`` says what a results folder holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.evaluation.kept_ranks import (
    RANK_ARRAYS,
    RANK_COLUMNS,
    differing_metrics,
    user_metrics,
)
from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS
from recbole_tslrec.experiments.run.kept_cells import (
    DONE,
    FORMAT,
    ResultsFolder,
)
from recbole_tslrec.recbole_bridge.paradigm import table_rows
from recbole_tslrec.store.json_lines import read_lines

# What the text and the pictures go by; all metrics are in tables.
MAIN_METRIC = "NDCG@10"
NOVEL = "novel"  # beside the protocols: seen items masked, of targets that are none
# Finished cells that agree in these differ in their seed only. ``made_by`` is the other backbone
# whose enhanced embeddings were used; "" for its own, or none.
METHOD = ["dataset", "backbone", "variant", "made_by"]
Key = tuple[str, str, str, str]

_NEEDED = ("dataset", "backbone", "variant", "seed", "status", "data", "configuration")
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("embeddings_from", "error", "backbone_from", "epochs")),
    **{name: {} for name in ("settings", "effective", "valid", "test", "seconds", "versions")},
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


def targets(ranks: pd.DataFrame, protocol: str) -> pd.Series:
    """The ranks of the targets that a protocol counts."""
    if protocol == NOVEL:
        return ranks.loc[~ranks["repeated"].astype(bool), RANK_COLUMNS["masked"]]
    return ranks[RANK_COLUMNS[protocol]]


class Results:
    """One results folder or several, as of several machines.

    Args:
        folders: a cell that is in two of them is the same cell, and counts once.

    Attributes:
        cells: the finished cells that the report is of, a row each in the order of a table. Columns
            are the entries of a line, ``made_by``, and a column a metric of validation ("valid
            NDCG@10") and of each protocol's test ("masked NDCG@10").
        methods: the cells of each method, indexed by seed.
        failed: cells without a result, the columns as far as there are any.
        replaced: finished cells that are left out: those of other settings or data than the method's
            others, and of one seed all but the latest.
        notes: what did not fit together, a sentence each.
        mismatches: what makes methods that stand side by side not compare, a sentence each.
    """

    def __init__(self, *folders: Path):
        found, self._folders = _read_all([ResultsFolder(folder) for folder in folders])
        finished = found[found["status"] == DONE]
        self.failed = found[found["status"] != DONE]
        chosen = [_chosen(method) for _, method in finished.groupby(METHOD)]
        self.cells = pd.concat([finished.iloc[:0], *chosen])
        self.replaced = finished.drop(index=self.cells.index)
        self.cells = self.cells.sort_values([*METHOD, "seed"], key=in_order)
        by_method = self.cells.groupby(METHOD, sort=False)
        self.methods: dict[Key, pd.DataFrame] = {
            key: cells.set_index("seed", drop=False) for key, cells in by_method
        }
        self.notes: list[str] = []
        self.mismatches: list[str] = []
        self._indices: dict[str, list[pd.MultiIndex]] = {}
        # The same scores serve every comparison; a process makes one report.
        self.scores = lru_cache(maxsize=None)(self._scores)
        self._ranks: dict[str, pd.DataFrame | None] = {}
        self._check_metrics()
        self._check_circumstances()
        self._check_data()
        self._check_settings()
        self._check_backbones()

    @property
    def own(self) -> pd.DataFrame:
        """The cells with embeddings of their own backbone, or none."""
        return self.cells[self.cells["made_by"] == ""]

    def places(self) -> list[tuple[str, str]]:
        """The pairs of data set and backbone that have cells of their own."""
        return list(dict.fromkeys(key[:2] for key in self.methods if not key[3]))

    def variants(self, dataset: str, backbone: str) -> list[str]:
        """The variants there with embeddings of their own backbone, or none."""
        place = (dataset, backbone)
        return [key[2] for key in self.methods if key[:2] == place and not key[3]]

    def method(self, dataset: str, backbone: str, variant: str) -> pd.DataFrame | None:
        """A method's cells with embeddings of their own, indexed by seed."""
        return self.methods.get((dataset, backbone, variant, ""))

    def arrays(self, kind: str, cell: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """A cell's ``ranks`` or ``items``, see ``ResultsFolder.arrays``."""
        return self._folders[cell["cell"]].arrays(kind, cell)

    def ranks(self, cell: Mapping[str, Any]) -> pd.DataFrame | None:
        """A cell's kept ranks, one row a user, by (user, item) in the order of the tokens.

        Raises:
            ValueError: they are damaged.
        """
        if cell["cell"] not in self._ranks:
            arrays = self.arrays("ranks", cell)
            self._ranks[cell["cell"]] = arrays and self._by_user(cell["dataset"], arrays)
        return self._ranks[cell["cell"]]

    def _by_user(self, dataset: str, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
        kept = [name for name in (*RANK_ARRAYS, "repeated") if name in arrays]  # the last is newer
        frame = pd.DataFrame({name: arrays[name] for name in kept}).sort_values("user")
        frame = frame.set_index(["user", "item"])
        # One index object for all cells of the same users and items: equal at a glance.
        known = self._indices.setdefault(dataset, [])
        index = next((one for one in known if one.equals(frame.index)), frame.index)
        if index is frame.index:
            known.append(index)
        return frame.set_axis(index)

    def _scores(self, key: Key, protocol: str, seeds: tuple[int, ...]) -> pd.DataFrame | None:
        """Every user's metrics, the mean over the seeds; users that are not in all seeds are out.

        Returns:
            float64, a column a metric; None if a cell has no ranks.
        """
        ranks = [self.ranks(cell) for cell in self.methods[key].loc[list(seeds)].to_dict("records")]
        if not ranks or any(one is None for one in ranks):
            return None
        frames = [user_metrics(targets(one, protocol)) for one in ranks]
        common = frames[0].index
        for frame in frames[1:]:
            if not common.equals(frame.index):
                common = common.intersection(frame.index)
        if any(len(frame) != len(common) for frame in frames):
            sizes = ", ".join(str(len(frame)) for frame in frames)
            self._note(
                f"{', '.join(key[:3])}: the seeds have {sizes} test users, {len(common)} of them in "
                f"common with the same test item; only those enter the tests over users."
            )
            frames = [frame.loc[common] for frame in frames]
        values = np.mean([frame.to_numpy() for frame in frames], axis=0)
        return pd.DataFrame(values, index=common, columns=frames[0].columns)

    def _check_metrics(self) -> None:
        """The metrics of a line must be those of its ranks."""
        for cell in self.cells.to_dict("records"):
            ranks, name = self.ranks(cell), cell_name(cell)
            if ranks is None:
                self._note(f"{name}: no ranks are kept; the tests over users leave it out.")
            elif differing := differing_metrics(cell["test"], ranks):
                for what in differing:
                    self._note(f"{name}: {what}.")
                getLogger(__name__).warning(
                    f"{name}: {len(differing)} metrics in cells.jsonl are not those of its kept ranks; "
                    f"the report's last section lists them."
                )

    def _check_circumstances(self) -> None:
        """A mean over seeds is of one program on one machine, or says so."""
        for key, cells in self.methods.items():
            under = {"on different machines": cells["machine"]}
            versions = pd.DataFrame(cells["versions"].tolist(), index=cells.index)
            for name, of_seeds in versions.fillna("unknown").items():
                under[f"under different versions of {name}"] = of_seeds
            for what, of_seeds in under.items():
                if of_seeds.nunique() > 1:
                    whose = _whose(of_seeds, of_seeds.index.map(str))
                    self._note(f"{', '.join(key[:3])}: the seeds ran {what}: {whose}.")

    def _check_data(self) -> None:
        """Methods that stand side by side must be of the same files."""
        for dataset, cells in self.cells.groupby("dataset"):
            if cells["data"].nunique() > 1:
                whose = _whose(cells["data"].str[:8], cells["backbone"] + " " + cells["variant"])
                self.mismatches.append(
                    f"{dataset}: the data set's files were changed between the runs, so that these, by "
                    f"the files' hash, do NOT compare: {whose}. Run the same grid again: it does what "
                    f"is missing."
                )

    def _check_settings(self) -> None:
        """Methods that stand side by side must have the same values of the keys that both have."""
        for cell in self.cells.drop_duplicates(METHOD).to_dict("records"):
            if file := cell["settings"].get("enhanced_items"):
                self.mismatches.append(
                    f"{cell_name(cell).rpartition(',')[0]}: its vectors are from a given file, "
                    f"[{file}], and not of its own backbone and language model."
                )
        for place, cells in self.cells.drop_duplicates(METHOD).groupby(METHOD[:2], sort=False):
            made_by = cells["made_by"]
            names = cells["variant"].where(made_by == "", cells["variant"] + " from " + made_by)
            values = pd.DataFrame(cells["effective"].tolist(), index=names)
            if "train_batching" in values:  # which nothing but a backbone's training reads
                without = [_has_no_backbone(variant) for variant in cells["variant"]]
                values.loc[without, "train_batching"] = None
            for name, variant in zip(names, cells["variant"], strict=True):
                values.loc[name, values.columns.intersection(_told_by_the_row(variant))] = None
            differing: dict[tuple, list[str]] = {}  # keys that tell the same methods apart
            for key, column in values.drop(columns="enhancement", errors="ignore").items():
                given = column.dropna()
                if given.nunique() > 1:
                    parts = (*given.index, *pd.factorize(given)[0])
                    differing.setdefault(parts, []).append(key)
            for keys in differing.values():
                given = _without_controls(values[keys].dropna().astype(str).agg(", ".join, axis=1))
                self.mismatches.append(
                    f"{', '.join(place)}: the methods differ in {', '.join(keys)}: "
                    f"{_whose(given, given.index)}. They compare only if what differs was searched "
                    f"for each with the same effort."
                )

    def _check_backbones(self) -> None:
        """A row that starts from a trained backbone is held against Base: it must be that one."""
        for (dataset, backbone, variant, made_by), cells in self.methods.items():
            base = self.method(dataset, backbone, "Base")
            if base is None or made_by or not _starts_from_backbone(variant):
                continue
            of_base = base["cell"].reindex(cells.index)
            seeds = cells.index[of_base.notna() & (cells["backbone_from"] != of_base)]
            if len(seeds):
                self._note(
                    f"{dataset}, {backbone}, {variant}: the backbone of seed "
                    f"{', '.join(map(str, seeds))} is another training than the Base of this report, "
                    f"against which it is held."
                )

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _told_by_the_row(variant: str) -> list[str]:
    """The keys by whose values a control and the method in whose place it stands are what they are."""
    rows = table_rows()
    if (row := rows.get(variant)) is None:
        return []
    controls = [other for other in rows.values() if other.of == variant]
    return [key for key in row.sets if row.control or any(key in other.sets for other in controls)]


def _without_controls(values: pd.Series) -> pd.Series:
    """Without the controls that have the value of the method whose controls they are."""
    rows = table_rows()
    owners = [rows[name].of if name in rows else "" for name in values.index]
    return values[[values.get(of) != value for of, value in zip(owners, values, strict=True)]]


def _has_no_backbone(variant: str) -> bool:
    """Whether a row neither is a backbone nor starts from one."""
    row = table_rows().get(variant)
    return row is not None and not row.of_backbone


def _starts_from_backbone(variant: str) -> bool:
    row = table_rows().get(variant)
    return row is not None and "backbone" in row.stages


def _read_all(folders: Sequence[ResultsFolder]) -> tuple[pd.DataFrame, dict[str, ResultsFolder]]:
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
    made_by = row["embeddings_from"]
    row["made_by"] = "" if made_by in (None, row["backbone"]) else made_by
    if row["status"] == DONE:
        measured = {"valid": row["valid"]}
        measured |= {protocol: row["test"][protocol] for protocol in PROTOCOLS}
        for part, metrics in measured.items():
            row |= {f"{part} {name}": metrics[key] for name, key in METRICS.items()}
    return row


def _chosen(method: pd.DataFrame) -> pd.DataFrame:
    """Of a method's cells those of one configuration, the latest of each seed.

    Never a mean over other settings or data: those with most seeds; of as many, the latest.
    """
    groups = [cells for _, cells in method.groupby("configuration")]
    best = max(groups, key=lambda cells: (cells["seed"].nunique(), cells["finished_at"].max()))
    return best.drop_duplicates("seed", keep="last")


def _whose(values: Sequence[str], names: Sequence[str]) -> str:
    """Every value, and who has it."""
    by_value: dict[str, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        by_value.setdefault(value, []).append(name)
    return "; ".join(
        f"{value} ({', '.join(dict.fromkeys(owners))})" for value, owners in by_value.items()
    )
