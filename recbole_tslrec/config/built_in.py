"""What the built-in paradigms hold, by name alone: for commands that answer without RecBole and torch.

``make keys`` writes ``built_in.json`` from the declarations, and a test holds it to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Row:
    """What a table and a picture say of a row of a comparison.

    Attributes:
        name: as ``--variants`` takes it.
        title: as a table calls it.
        control: whether it stands in the place of a method, to show what that method adds.
        stages: the names of all that it goes through, in order.
        of: the row in whose place a control stands; empty for one that stands beside all.
        sets: the keys that make the row what it is.
        rivals: rows that it is tested against besides Base and its own controls.
        of_backbone: whether it is a backbone with something added, or starts from a trained one.
        ranked_alone: whether its figures with seen items masked say nothing.
        tested_alone: whether its validation is that of the method in whose place it stands.
    """

    name: str
    title: str
    control: bool
    stages: tuple[str, ...]
    of: str
    sets: tuple[str, ...]
    rivals: tuple[str, ...]
    of_backbone: bool
    ranked_alone: bool
    tested_alone: bool


@dataclass(frozen=True)
class BuiltIn:
    """Names of what comes with the package.

    Attributes:
        rows: of a comparison, in the order of a table.
        stages: what a stage's folder may be called.
        keys: all declared ones.
    """

    rows: tuple[Row, ...]
    stages: tuple[str, ...]
    keys: tuple[str, ...]

    def as_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"


@cache
def built_in() -> BuiltIn:
    """What the file says."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    lists = ("stages", "sets", "rivals")
    rows = (Row(**row | {key: tuple(row[key]) for key in lists}) for row in found["rows"])
    return BuiltIn(tuple(rows), tuple(found["stages"]), tuple(found["keys"]))


_more_stages: set[str] = set()


def note_stages(names: Iterable[str]) -> None:
    """Make names of stages known, those of a user's own paradigm among them."""
    _more_stages.update(names)


def stage_names() -> list[str]:
    """What a stage's folder may be called: the built-in names, and those noted since."""
    return sorted({*built_in().stages, *_more_stages})
