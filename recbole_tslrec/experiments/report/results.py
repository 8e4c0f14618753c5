"""The kept results of a grid of experiments as one table, a row a cell: read, checked, chosen.

``kept_cells.ResultsFolder`` says what a results folder holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_tslrec.evaluation.kept_ranks import (
    RANK_ARRAYS,
    RANK_COLUMNS,
    differing_metrics,
    user_metrics,
)
from recbole_tslrec.experiments.report.lines import (
    METHOD,
    Key,
    cell_name,
    chosen,
    in_order,
    read_all,
)
from recbole_tslrec.experiments.report.mismatches import mismatches, notes
from recbole_tslrec.experiments.run.kept_cells import DONE, ResultsFolder

# What the text and the pictures go by; all metrics are in tables.
MAIN_METRIC = "NDCG@10"
NOVEL = "novel"  # beside the protocols: seen items masked, of targets that are none


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
        found, self._folders = read_all([ResultsFolder(folder) for folder in folders])
        finished = found[found["status"] == DONE]
        self.failed = found[found["status"] != DONE]
        kept = [chosen(method) for _, method in finished.groupby(METHOD)]
        self.cells = pd.concat([finished.iloc[:0], *kept])
        self.replaced = finished.drop(index=self.cells.index)
        self.cells = self.cells.sort_values([*METHOD, "seed"], key=in_order)
        by_method = self.cells.groupby(METHOD, sort=False)
        self.methods: dict[Key, pd.DataFrame] = {
            key: cells.set_index("seed", drop=False) for key, cells in by_method
        }
        self.notes: list[str] = []
        self._indices: dict[str, list[pd.MultiIndex]] = {}
        # The same scores serve every comparison; a process makes one report.
        self.scores = lru_cache(maxsize=None)(self._scores)
        self._ranks: dict[str, pd.DataFrame | None] = {}
        self._check_metrics()
        self.notes += notes(self)
        self.mismatches = mismatches(self)

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

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
