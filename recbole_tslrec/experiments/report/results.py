"""The kept results of a grid of experiments: one cell a trained model, read and checked.

A results folder holds ``cells.jsonl`` (a json object a line and cell; a later line of a cell replaces
an earlier), ``ranks/<cell>.npz`` (the rank of every test user's target) and, for some cells,
``items/<cell>.npz`` (see ``item_record``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_tslrec.backbones.specification import BACKBONES
from recbole_tslrec.evaluation.ranks import METRICS, PROTOCOLS
from recbole_tslrec.experiments.run.cells import FORMAT
from recbole_tslrec.experiments.run.kept_cells import (
    DONE,
    RANK_COLUMNS,
    differing_metrics,
    read_arrays,
    read_lines,
)
from recbole_tslrec.recbole_bridge.paradigm import variants

CELLS = "cells.jsonl"
# What the text and the pictures go by; all metrics are in tables.
MAIN_METRIC = "NDCG@10"
_RANK_ARRAYS = ("user", "item", "rank", "rank_masked", "training_length", "item_count")


@dataclass(frozen=True, eq=False)
class KeptCell:
    """One line of ``cells.jsonl``: a model that was trained and evaluated, or failed to be."""

    cell: str
    dataset: str
    backbone: str
    variant: str
    seed: int
    status: str
    data: str
    configuration: str
    embeddings_from: str | None = None
    backbone_from: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    effective: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    valid: dict[str, float] = field(default_factory=dict)
    test: dict[str, dict[str, float]] = field(default_factory=dict)
    epochs: int | None = None
    seconds: dict[str, Any] = field(default_factory=dict)
    reused_stages: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    command: str = ""
    finished_at: str = ""

    @property
    def made_by(self) -> str | None:
        """The other backbone whose enhanced embeddings were used; None if its own, or none."""
        return None if self.embeddings_from == self.backbone else self.embeddings_from

    def __str__(self) -> str:
        made_by = f", embeddings from {self.made_by}" if self.made_by else ""
        return f"{self.dataset}, {self.backbone}, {self.variant}{made_by}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Method:
    """Finished cells that differ in their seed only."""

    dataset: str
    backbone: str
    variant: str
    made_by: str | None
    cells: dict[int, KeptCell]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self.cells))

    def values(self, metric: str, protocol: str) -> dict[int, float]:
        """A test metric, ``NDCG@10`` for one, by seed."""
        return {seed: self.cells[seed].test[protocol][METRICS[metric]] for seed in self.seeds}

    def valid(self, metric: str) -> dict[int, float]:
        return {seed: self.cells[seed].valid[METRICS[metric]] for seed in self.seeds}

    def mean(self, metric: str, protocol: str) -> float:
        return float(np.mean(list(self.values(metric, protocol).values())))


class Results:
    """A results folder.

    Attributes:
        methods: by (data set, backbone, variant, the backbone that made the embeddings or None).
        failed: cells without a result.
        replaced: finished cells that are left out: those of other settings or data than the method's
            others, and of one seed all but the latest.
        notes: what did not fit together, a sentence each.
        mismatches: what makes methods that stand side by side not compare, a sentence each.
    """

    def __init__(self, folder: Path, cells: Iterable[KeptCell]):
        self.folder = Path(folder)
        self.failed: list[KeptCell] = []
        self.replaced: list[KeptCell] = []
        self.notes: list[str] = []
        self.mismatches: list[str] = []
        self.methods: dict[tuple[str, str, str, str | None], Method] = {}
        finished: dict[tuple, dict[str, list[KeptCell]]] = {}
        for cell in sorted(cells, key=lambda cell: cell.finished_at):
            if cell.status != DONE:
                self.failed.append(cell)
                continue
            key = (cell.dataset, cell.backbone, cell.variant, cell.made_by)
            finished.setdefault(key, {}).setdefault(cell.configuration, []).append(cell)
        # Sorted: pictures and tables have one order, whatever finished first.
        for key, by_settings in sorted(finished.items(), key=lambda item: str(item[0])):
            # Never a mean over other settings or data: those with most seeds; of as many, the latest.
            chosen = {cell.seed: cell for cell in max(by_settings.values(), key=_seeds_and_end)}
            self.methods[key] = Method(*key, cells=chosen)
            self.replaced += [
                cell
                for group in by_settings.values()
                for cell in group
                if chosen.get(cell.seed) is not cell
            ]
        self._indices: dict[str, list[pd.MultiIndex]] = {}
        # The same scores serve every comparison; a process makes one report.
        self.ranks = lru_cache(maxsize=None)(self._read_ranks)
        self.scores = lru_cache(maxsize=None)(self._scores)
        self._check_metrics()
        self._check_circumstances()
        self._check_data()
        self._check_settings()

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read a results folder.

        Raises:
            FileNotFoundError: there is no ``cells.jsonl``.
            ValueError: a line is not a cell of this format; names file and line.
        """
        path = Path(folder) / CELLS
        if not path.is_file():
            raise FileNotFoundError(
                f"results: [{folder}] has no {CELLS}. Give the folder that a grid has written."
            )
        cells: dict[str, KeptCell] = {}
        lines, half = read_lines(path)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                cell = _read_cell(line, f"{path}, line {number}")
                cells[cell.cell] = cell
        if half.strip():
            getLogger().warning(
                f"{path}, line {len(lines) + 1}, is half a line, of a run that is writing it or was "
                f"killed; left out."
            )
        return cls(folder, cells.values())

    @property
    def cells(self) -> list[KeptCell]:
        """The cells that the report is of."""
        return [cell for method in self.methods.values() for cell in method.cells.values()]

    @property
    def datasets(self) -> list[str]:
        return sorted({key[0] for key in self.methods})

    def backbones(self, dataset: str | None = None) -> list[str]:
        """The backbones of a data set, or of all, in the order of ``BACKBONES``."""
        found = {key[1] for key in self.methods if dataset in (None, key[0])}
        return sorted(found, key=lambda name: (*_place(name, list(BACKBONES)), name))

    def variants(self, dataset: str | None = None, backbone: str | None = None) -> list[str]:
        """The variants with embeddings of their own backbone, or none, in the order of a table."""
        found = {
            key[2]
            for key in self.methods
            if key[3] is None and dataset in (None, key[0]) and backbone in (None, key[1])
        }
        return sorted(found, key=lambda name: (*_place(name, list(variants())), name))

    def method(self, dataset, backbone, variant, made_by=None) -> Method | None:
        return self.methods.get((dataset, backbone, variant, made_by))

    def items(self, cell: KeptCell) -> dict[str, np.ndarray] | None:
        """The arrays of ``items/<cell>.npz``, if there are any."""
        return read_arrays(self.folder / "items" / f"{cell.cell}.npz")

    def _read_ranks(self, cell: KeptCell) -> pd.DataFrame | None:
        """``ranks/<cell>.npz``, one row a user, by (user, item) in the order of the tokens.

        Raises:
            ValueError: an array is missing, or a user is there twice.
        """
        path = self.folder / "ranks" / f"{cell.cell}.npz"
        arrays = read_arrays(path)
        if arrays is None:
            return None
        missing = [name for name in _RANK_ARRAYS if name not in arrays]
        if missing:
            raise ValueError(f"[{path}] has no {', '.join(missing)}.")
        order = np.argsort(arrays["user"], kind="stable")
        users, items = arrays["user"][order], arrays["item"][order]
        if (users[1:] == users[:-1]).any():
            raise ValueError(f"[{path}] has a user twice; one target a user is expected.")
        columns = {name: arrays[name][order] for name in _RANK_ARRAYS[2:]}
        return pd.DataFrame(columns, index=self._index(cell.dataset, users, items))

    def _index(self, dataset: str, users: np.ndarray, items: np.ndarray) -> pd.MultiIndex:
        """One index object for all cells of the same users and items: equal at a glance."""
        index = pd.MultiIndex.from_arrays([users, items], names=["user", "item"])
        known = self._indices.setdefault(dataset, [])
        for one in known:
            if one.equals(index):
                return one
        known.append(index)
        return index

    def _scores(self, method: Method, protocol: str, seeds: tuple[int, ...]) -> pd.DataFrame | None:
        """Every user's metrics, the mean over the seeds; users that are not in all seeds are out.

        Returns:
            float64, a column a metric; None if a cell has no ranks.
        """
        frames = []
        for seed in seeds:
            ranks = self.ranks(method.cells[seed])
            if ranks is None:
                return None
            frames.append(user_metrics(ranks[RANK_COLUMNS[protocol]]))
        if not frames:
            return None
        common = frames[0].index
        for frame in frames[1:]:
            if not common.equals(frame.index):
                common = common.intersection(frame.index)
        if any(len(frame) != len(common) for frame in frames):
            sizes = ", ".join(str(len(frame)) for frame in frames)
            self._note(
                f"{method.dataset}, {method.backbone}, {method.variant}: the seeds have {sizes} "
                f"test users, {len(common)} of them in common with the same test item; only those "
                f"enter the tests over users."
            )
            frames = [frame.loc[common] for frame in frames]
        values = np.mean([frame.to_numpy() for frame in frames], axis=0)
        return pd.DataFrame(values, index=common, columns=frames[0].columns)

    def _check_metrics(self) -> None:
        """The metrics of a line must be those of its ranks."""
        for cell in self.cells:
            ranks = self.ranks(cell)
            if ranks is None:
                self._note(f"{cell}: no ranks are kept; the tests over users leave it out.")
                continue
            differing = differing_metrics(cell.test, ranks)
            for what in differing:
                self._note(f"{cell}: {what}.")
            if differing:
                getLogger().warning(
                    f"{cell}: {len(differing)} metrics in {CELLS} are not those of its kept ranks; the "
                    f"report's last section lists them."
                )

    def _check_circumstances(self) -> None:
        """A mean over seeds is of one program on one machine, or says so."""
        for method in self.methods.values():
            cells = [method.cells[seed] for seed in method.seeds]
            under = {"on different machines": {cell.seed: cell.machine for cell in cells}}
            for name in dict.fromkeys(name for cell in cells for name in cell.versions):
                versions = {cell.seed: cell.versions.get(name, "unknown") for cell in cells}
                under[f"under different versions of {name}"] = versions
            for what, by_seed in under.items():
                seeds: dict[str, list[str]] = {}
                for seed, value in by_seed.items():
                    seeds.setdefault(value, []).append(str(seed))
                if len(seeds) > 1:
                    self._note(
                        f"{method.dataset}, {method.backbone}, {method.variant}: the seeds ran {what}: "
                        f"{_whose(seeds)}."
                    )

    def _check_data(self) -> None:
        """Methods that stand side by side must be of the same files."""
        for dataset in self.datasets:
            by_data: dict[str, list[str]] = {}
            for cell in self.cells:
                if cell.dataset == dataset:
                    by_data.setdefault(cell.data[:8], []).append(f"{cell.backbone} {cell.variant}")
            if len(by_data) > 1:
                self.mismatches.append(
                    f"{dataset}: the data set's files were changed between the runs, so that these, by "
                    f"the files' hash, do NOT compare: {_whose(by_data)}. Run the same grid again: it "
                    f"does what is missing."
                )

    def _check_settings(self) -> None:
        """Methods that stand side by side must have the same values of the keys that both have."""
        for dataset in self.datasets:
            for backbone in self.backbones(dataset):
                values: dict[str, dict[str, list[str]]] = {}
                for method in self._side_by_side(dataset, backbone):
                    name = method.variant + (f" from {method.made_by}" if method.made_by else "")
                    for key, value in next(iter(method.cells.values())).effective.items():
                        if key != "enhancement":  # the variant itself
                            values.setdefault(key, {}).setdefault(value, []).append(name)
                for key, by_value in values.items():
                    if len(by_value) > 1:
                        self.mismatches.append(
                            f"{dataset}, {backbone}: the methods differ in {key}: {_whose(by_value)}. "
                            f"They compare only if it was searched for each with the same effort."
                        )

    def _side_by_side(self, dataset: str, backbone: str) -> list[Method]:
        """The methods of a backbone in the order of a table, those with another's embeddings last."""
        own = [self.method(dataset, backbone, name) for name in self.variants(dataset, backbone)]
        here = self.methods.values()
        return own + [
            one
            for one in here
            if (one.dataset, one.backbone) == (dataset, backbone) and one.made_by
        ]

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _whose(names_by_value: Mapping[str, Sequence[str]]) -> str:
    """Every value, and who has it."""
    return "; ".join(
        f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in names_by_value.items()
    )


def user_metrics(ranks: pd.Series) -> pd.DataFrame:
    """HR and NDCG of every user from the rank of the one target, from 1; float64, a column a metric."""
    columns = {}
    for name in METRICS:
        kind, _, k = name.partition("@")
        gain = 1.0 if kind == "HR" else 1 / np.log2(1 + ranks)
        columns[name] = np.where(ranks <= int(k), gain, 0.0)
    return pd.DataFrame(columns, index=ranks.index)


def _read_cell(line: bytes, where: str) -> KeptCell:
    try:
        content = json.loads(line)
        version = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is not a cell: {error!r}") from error
    if version != FORMAT:
        raise ValueError(
            f"{where}: format [{version}]; this program reads [{FORMAT}]. Run the grid "
            f"again, or make the report with the version that wrote it."
        )
    known = {one.name for one in fields(KeptCell)}
    try:
        cell = KeptCell(**{key: value for key, value in content.items() if key in known})
        if cell.status == DONE:
            for measured in (cell.valid, *(cell.test[protocol] for protocol in PROTOCOLS)):
                for key in METRICS.values():
                    if not isinstance(measured[key], (int, float)):
                        raise TypeError(f"{key}: [{measured[key]!r}] is not a number")
    except (TypeError, KeyError) as error:
        raise ValueError(f"{where} lacks a part of a cell: {error}") from error
    return cell


def _seeds_and_end(cells: Sequence[KeptCell]) -> tuple[int, str]:
    return len({cell.seed for cell in cells}), max(cell.finished_at for cell in cells)


def _place(name: str, order: Sequence[str]) -> tuple[int]:
    return (order.index(name) if name in order else len(order),)
