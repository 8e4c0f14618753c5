"""What the stages on disk are, whether they are whole, and why an experiment would not reuse them.

Only manifests are read, and no stage is run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_tslrec.config.built_in import stage_names
from recbole_tslrec.store.files import file_hash, fingerprint
from recbole_tslrec.store.locks import Owner, is_held, read_owner
from recbole_tslrec.store.store import MANIFEST, UNFINISHED, OtherFormat, read_manifest

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredStage:
    """A folder of a stage.

    Attributes:
        folder: where it is; it ends in ``.partial`` if the stage is unfinished.
        name: of the stage.
        made_from: what it was, or was to be, made from; None if that cannot be read.
        manifest: of a finished stage, None of an unfinished or damaged one.
        problem: why a finished stage cannot be used, None if it can.
        broken: whether that is because of what its files are, and not of a disk that cannot be read now.
        bytes: its size on disk.
        last_used: seconds since 1970; of an unfinished one when something was last written.
        held: whether a living process is making it.
        owner: who that is, or was when it was killed.
    """

    folder: Path
    name: str
    made_from: dict[str, Any] | None
    manifest: dict[str, Any] | None
    problem: str | None
    broken: bool
    bytes: int
    last_used: float
    held: bool
    owner: Owner | None

    @property
    def unfinished(self) -> bool:
        return self.folder.suffix == ".partial"

    @property
    def parents(self) -> set[str]:
        """Fingerprints of what the stages before it were made from, and hashes of other things."""
        values = (self.made_from or {}).values()
        return {value for value in values if isinstance(value, str) and _HASH.fullmatch(value)}


def stage_folders(root: Path) -> list[Path]:
    """The folders of stages below ``tslrec_dir``, by data set and name; links are not followed."""
    return _folders(root, f"({'|'.join(stage_names())})")


def _folders(root: Path, names: str) -> list[Path]:
    """Those whose stages have such names, a regular expression."""
    name = re.compile(rf"{names}-[0-9a-f]{{16}}(\.partial)?")
    return [
        folder
        for dataset in sorted(root.iterdir())
        if dataset.is_dir() and not dataset.is_symlink()
        for folder in sorted(dataset.iterdir())
        if name.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
    ]


def parents_of_others(root: Path) -> set[str]:
    """As ``StoredStage.parents``, of stages whose names are not known here: a user's own paradigm's."""
    found: set[str] = set()
    for folder in set(_folders(root, r"[^.].*")) - set(stage_folders(root)):
        with suppress(FileNotFoundError):
            found |= _read(folder, verify=False).parents
    return found


def stored_stages(root: Path, verify: bool = False) -> list[StoredStage]:
    """Every stage below ``tslrec_dir``.

    Args:
        root: the folder.
        verify: whether to compare every file's hash; else files must be there in their size.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"tslrec_dir: there is no folder [{root}].")
    stages = []
    for folder in stage_folders(root):
        with suppress(FileNotFoundError):  # finished, and so renamed, or removed meanwhile
            stages.append(_read(folder, verify))
    return stages


def _read(folder: Path, verify: bool) -> StoredStage:
    made_from = manifest = problem = None
    broken = False
    final = folder.with_suffix("") if folder.suffix == ".partial" else folder
    seen = _seen(folder)
    times = [status.st_mtime for status in seen]
    if folder.suffix == ".partial":
        made_from = _unfinished_made_from(folder)
        last_used = max(times)
    else:
        try:
            manifest = read_manifest(folder)
            made_from = manifest["made_from"]
            problem = _damage(folder, manifest, verify)
            broken = problem is not None
        except ValueError as error:
            # Of another version of this program: that one may be in use, too.
            problem, broken = str(error), not isinstance(error, OtherFormat)
        except OSError as error:  # a network disk that is away for a moment: no reason to remove it
            problem = str(error)
        path = folder / MANIFEST
        last_used = path.stat().st_mtime if path.is_file() else max(times)
    return StoredStage(
        folder,
        folder.name.rpartition("-")[0],
        made_from,
        manifest,
        problem,
        broken,
        sum(status.st_size for status in seen[1:]),
        last_used,
        is_held(final),
        read_owner(final),
    )


def _seen(folder: Path) -> list[os.stat_result]:
    """Of the folder, first, and of each file in it; a living run may take some away meanwhile."""
    found = [folder.stat()]
    for place, _, names in os.walk(folder):  # which takes no notice of folders that go
        for path in (Path(place, name) for name in names):
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    found.append(path.stat())
    return found


def _unfinished_made_from(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError):
        return None


def _damage(folder: Path, manifest: dict[str, Any], verify: bool) -> str | None:
    for file, expected in manifest["files"].items():
        path = folder / file
        if not path.is_file():
            return f"[{path}] is missing"
        # Manifests of earlier versions give no sizes.
        if path.stat().st_size != manifest.get("sizes", {}).get(file, path.stat().st_size):
            return f"[{path}] has another size than it had"
        if verify and file_hash(path) != expected:
            return f"[{path}] is altered"
    return None


# ---- the table ------------------------------------------------------------------------------------


def table(stages: Sequence[StoredStage], now: float) -> str:
    """One line a stage, as text."""
    by_content = {fingerprint(s.made_from): s for s in stages if s.made_from is not None}
    rows = [
        [
            stage.folder.parent.name,
            stage.folder.name,
            stage.manifest["made_at"] if stage.manifest else "",
            _summary(stage, by_content),
            f"{stage.bytes / 1e6:.1f}",
            f"{stage.manifest['seconds']:.0f}" if stage.manifest else "",
            _state(stage, now),
        ]
        for stage in stages
    ]
    headers = ["data set", "stage", "made at", "from", "MB", "seconds", "state"]
    return tabulate(rows, headers, disable_numparse=True)


def _state(stage: StoredStage, now: float) -> str:
    if not stage.unfinished:
        return "whole" if stage.problem is None else f"NOT USABLE: {stage.problem}"
    if stage.held:
        return f"being made by {stage.owner or 'a process'}"
    days = (now - stage.last_used) / 86400
    return f"unfinished, untouched for {days:.1f} days; its process has ended"


def _summary(stage: StoredStage, by_content: Mapping[str, StoredStage]) -> str:
    """What tells one stage from another, from it and from the stages before it."""
    found: dict[str, str] = {}
    for made_from in _chain(stage.made_from, by_content):
        model = made_from.get("language_model")
        if isinstance(model, dict):
            local = f"files {fingerprint(model)[:8]}"
            found.setdefault("llm", str(model.get("hub", local)))
        if isinstance(made_from.get("backbone"), str) and not _HASH.fullmatch(
            made_from["backbone"]
        ):
            found.setdefault("backbone", made_from["backbone"])
        settings = made_from.get("settings", {})
        for key, name in (("n_categories", "K"), ("seed", "seed"), ("lora_r", "lora_r")):
            value = made_from.get(key, settings.get(key))
            if value is not None:
                found.setdefault(name, str(value))
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _chain(
    made_from: dict[str, Any] | None, by_content: Mapping[str, StoredStage]
) -> Iterator[dict[str, Any]]:
    """A stage's ``made_from``, and those of the stages before it as far as they are stored."""
    while made_from is not None:
        yield made_from
        values = (value for value in made_from.values() if isinstance(value, str))
        before = [by_content[value] for value in values if value in by_content]
        made_from = before[0].made_from if before else None


# ---- why a stage is not reused ----------------------------------------------------------------------


def explain(wanted: Mapping[str, dict[str, Any]], stored: Sequence[StoredStage]) -> list[str]:
    """Line by line, which stages of an experiment would be reused, and for the others why not.

    Args:
        wanted: for every stage of the experiment, in order, what it would be made from.
        stored: the stages of the same data set.
    """
    present = {fingerprint(made_from): made_from for made_from in wanted.values()}
    by_content = {fingerprint(s.made_from): s.made_from for s in stored if s.made_from is not None}
    lines = []
    usable = [
        name
        for name, made_from in wanted.items()
        if any(_is_finished(stage, name, made_from) and stage.problem is None for stage in stored)
    ]
    last = usable[-1] if usable else None
    before_last = list(wanted)[: list(wanted).index(last)] if last else []
    for name, made_from in wanted.items():
        if name in before_last:
            lines.append(f"{name}: not needed, since {last} is there")
            continue
        finished = [s for s in stored if _is_finished(s, name, made_from)]
        same = [s for s in stored if s.name == name and s.made_from == made_from]
        if finished:
            problem = finished[0].problem
            lines.append(
                f"{name}: would be reused from [{finished[0].folder}]"
                if problem is None
                else f"{name}: would be refused: {problem}"
            )
            continue
        if same:
            lines.append(f"{name}: unfinished, would go on in [{same[0].folder}]")
            continue
        others = [s for s in stored if s.name == name and s.made_from is not None]
        differences = [
            (list(_differences(name, s.made_from, made_from, by_content, present)), s)
            for s in others
        ]
        if not differences:
            lines.append(f"{name}: would be made; none is stored")
            continue
        nearest, stage = min(differences, key=lambda pair: len(pair[0]))
        lines.append(f"{name}: would be made; the nearest, [{stage.folder.name}], differs in")
        lines += [f"    {difference}" for difference in nearest]
    return lines


def _is_finished(stage: StoredStage, name: str, made_from: dict[str, Any]) -> bool:
    return not stage.unfinished and stage.name == name and stage.made_from == made_from


def _differences(
    stage: str,
    stored: Mapping[str, Any],
    present: Mapping[str, Any],
    stored_by_content: Mapping[str, dict[str, Any]],
    present_by_content: Mapping[str, dict[str, Any]],
    path: str = "",
) -> Iterator[str]:
    """``stage: key: stored value → present value``, going up to the stage in which a key differs."""
    for key in [*stored, *(key for key in present if key not in stored)]:
        before, now = stored.get(key), present.get(key)
        if before == now:
            continue
        above = stored_by_content.get(str(before)), present_by_content.get(str(now))
        if path == "" and None not in above:
            yield from _differences(key, *above, stored_by_content, present_by_content)
        elif isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(
                stage, before, now, stored_by_content, present_by_content, f"{path}{key}."
            )
        else:
            name = f"{path}{key}".removeprefix("settings.")
            yield f"{stage}: {name}: {_short(before)} → {_short(now)}"


def _short(value: Any) -> str:
    if isinstance(value, str) and _HASH.fullmatch(value):
        return f"content {value[:8]}…"
    if isinstance(value, dict):
        return "{" + ", ".join(value) + "}"
    return "(none)" if value is None else str(value)


def size(n_bytes: int) -> str:
    """A size for people, in MB or GB."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
