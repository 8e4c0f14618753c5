"""What of the kept results does not fit together, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from recbole_tslrec.experiments.report.lines import METHOD, cell_name
from recbole_tslrec.recbole_bridge.paradigm import table_rows

if TYPE_CHECKING:
    from recbole_tslrec.experiments.report.results import Results

_OF_A_BACKBONES_TRAINING = ("train_batching", "train_precision", "sampled_loss")


def mismatches(results: Results) -> list[str]:
    """What makes methods that stand side by side not compare."""
    return [*_data(results), *_settings(results)]


def notes(results: Results) -> list[str]:
    """What else is not as one would take it to be."""
    return list(dict.fromkeys((*_circumstances(results), *_backbones(results))))


def _circumstances(results: Results) -> Iterator[str]:
    """A mean over seeds is of one program on one machine, or says so."""
    for key, cells in results.methods.items():
        under = {"on different machines": cells["machine"]}
        versions = pd.DataFrame(cells["versions"].tolist(), index=cells.index)
        for name, of_seeds in versions.fillna("unknown").items():
            under[f"under different versions of {name}"] = of_seeds
        for what, of_seeds in under.items():
            if of_seeds.nunique() > 1:
                whose = _whose(of_seeds, of_seeds.index.map(str))
                yield f"{', '.join(key[:3])}: the seeds ran {what}: {whose}."


def _data(results: Results) -> Iterator[str]:
    """Methods that stand side by side must be of the same files."""
    for dataset, cells in results.cells.groupby("dataset"):
        names = cells["backbone"] + " " + cells["variant"]
        # Not all load the same files: each file is held against itself. Older lines have one hash.
        known = [cell["files"] or {"inter": cell["data"]} for cell in cells.to_dict("records")]
        for kind, hashes in pd.DataFrame(known, index=names).items():
            given = hashes.dropna().str[:8]
            if given.nunique() > 1:
                yield (
                    f"{dataset}: the data set's .{kind} file was changed between the runs, so that "
                    f"these, by its hash, do NOT compare: {_whose(given, given.index)}. Run the same "
                    f"grid again: it does what is missing."
                )


def _settings(results: Results) -> Iterator[str]:
    """Methods that stand side by side must have the same values of the keys that both have."""
    for cell in results.cells.drop_duplicates(METHOD).to_dict("records"):
        if file := cell["settings"].get("enhanced_items"):
            yield (
                f"{cell_name(cell).rpartition(',')[0]}: its vectors are from a given file, "
                f"[{file}], and not of its own backbone and language model."
            )
    for place, cells in results.cells.drop_duplicates(METHOD).groupby(METHOD[:2], sort=False):
        made_by = cells["made_by"]
        names = cells["variant"].where(made_by == "", cells["variant"] + " from " + made_by)
        values = pd.DataFrame(cells["effective"].tolist(), index=names)
        without = [_has_no_backbone(variant) for variant in cells["variant"]]
        values.loc[without, values.columns.intersection(_OF_A_BACKBONES_TRAINING)] = None
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
            yield (
                f"{', '.join(place)}: the methods differ in {', '.join(keys)}: "
                f"{_whose(given, given.index)}. They compare only if what differs was searched "
                f"for each with the same effort."
            )


def _backbones(results: Results) -> Iterator[str]:
    """A row that starts from a trained backbone is held against Base: it must be that one."""
    for (dataset, backbone, variant, made_by), cells in results.methods.items():
        base = results.method(dataset, backbone, "Base")
        if base is None or made_by or not _starts_from_backbone(variant):
            continue
        of_base, its_end = (base[name].reindex(cells.index) for name in ("cell", "finished_at"))
        other = of_base.notna() & (cells["backbone_from"] != of_base)
        # A Base that is made again has the id of the one before.
        earlier = (
            ~other & (cells["finished_at"] != "") & (cells["finished_at"] < its_end.fillna(""))
        )
        for seeds, training in (
            (cells.index[other], "is another training than"),
            (cells.index[earlier], "was trained before"),
        ):
            if len(seeds):
                yield (
                    f"{dataset}, {backbone}, {variant}: the backbone of seed "
                    f"{', '.join(map(str, seeds))} {training} the Base of this report, against which "
                    f"it is held."
                )


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


def _whose(values: Sequence[str], names: Sequence[str]) -> str:
    """Every value, and who has it."""
    by_value: dict[str, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        by_value.setdefault(value, []).append(name)
    return "; ".join(
        f"{value} ({', '.join(dict.fromkeys(owners))})" for value, owners in by_value.items()
    )
