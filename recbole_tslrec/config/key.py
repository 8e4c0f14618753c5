"""How a key of ours is declared: once, by the room that owns it.

A declaration has the default, the meaning, the values that are taken, and whether the value can change a
result. The yaml files in ``properties/``, the checks, the help on misspelt keys, the fingerprints of
stages and the ids of a comparison's cells follow from it. Who reads a key says so itself: a stage, a
model or a row of a comparison lists it among its ``keys``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

from recbole_tslrec.config.values import Values


class Effect(Enum):
    """What a key can change.

    VALUE: the result depends on its value. FILE: on what the named file holds, wherever it lies.
    MODEL: on the language model that is named. NOTHING: where things lie, or memory against time.
    """

    VALUE = "value"
    FILE = "file"
    MODEL = "model"
    NOTHING = "nothing"


_NO_VALUE = object()  # None is a value


@dataclass(frozen=True)
class Key:
    """One public key.

    Attributes:
        name: as the user gives it.
        default: its value if the user gives none.
        meaning: one line for the yaml.
        values: those that it takes.
        effect: what it can change.
        type: as the yaml says it; the default's if not given.
        only_with: another key, and those of its values without which this one changes nothing.
        unchanged_at: of a key that is newer than stored results, or was not counted in them, the value
            at which nothing has changed: fingerprints stay there. Not given: every value counts.
    """

    name: str
    default: Any
    meaning: str
    values: Values
    effect: Effect = Effect.VALUE
    type: str = ""
    only_with: tuple[str, tuple[Any, ...]] | None = None
    unchanged_at: Any = _NO_VALUE

    def check(self, value: Any) -> None:
        """Raise ValueError for a value that it does not take."""
        self.values.check(self.name, value)

    @property
    def comment(self) -> str:
        """Type and meaning, as RecBole's yaml files have them."""
        kind = self.type or ("str" if self.default is None else type(self.default).__name__)
        return f"({kind}) {self.meaning}"


@dataclass(frozen=True)
class KeyGroup:
    """Keys that are read together, under one heading of a yaml."""

    title: str
    keys: tuple[Key, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.keys)


def names_of(groups: Iterable[KeyGroup]) -> tuple[str, ...]:
    """The names of the groups' keys."""
    return tuple(name for group in groups for name in group.names)


# Every declared key by name: what a misspelt one is compared with.
KEYS: dict[str, Key] = {}


def declare(title: str, *keys: Key) -> KeyGroup:
    """Make keys known.

    Raises:
        ValueError: one of them is declared already.
    """
    for key in keys:
        if key.name in KEYS:
            raise ValueError(f"The key [{key.name}] is declared twice.")
        key.check(key.default)
        KEYS[key.name] = key
    return KeyGroup(title, keys)


# ---- what follows from them -----------------------------------------------------------------------


def counts(name: str, value: Any) -> bool:
    """Whether a key of this value enters a fingerprint; at some values what was stored stays valid."""
    return value != KEYS[name].unchanged_at


def has_what_it_needs(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a key changes anything under these values of the others, as far as ``only_with`` says."""
    needed = KEYS[name].only_with
    return needed is None or values[needed[0]] in needed[1]


def result_values(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values, of these keys, on which a result depends: for a fingerprint."""
    values = {name: config[name] for name in names if KEYS[name].effect is Effect.VALUE}
    return {name: value for name, value in values.items() if counts(name, value)}


# ---- what is written of them ----------------------------------------------------------------------


def defaults(groups: Iterable[KeyGroup]) -> dict[str, Any]:
    """The values of the groups' keys if none is given."""
    return {key.name: key.default for group in groups for key in group.keys}


def as_yaml(heading: str, groups: Iterable[KeyGroup]) -> str:
    """The yaml of some groups, a line a key with its type and meaning, as RecBole's own are written.

    Args:
        heading: the comment at its top, of any number of lines.
    """
    by_title: dict[str, list[Key]] = {}
    for group in groups:
        by_title.setdefault(group.title, []).extend(group.keys)
    lines = [f"# {line}" for line in heading.strip().splitlines()]
    for title, keys in by_title.items():
        lines += ["", f"# {title}"] if title else [""]
        for key in keys:
            entry = f"{key.name}: {_value_text(key.default)}"
            lines.append(f"{entry:<31} # {key.comment}")
    return "\n".join(lines) + "\n"


def _value_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "~" if value is None else str(value)
    if isinstance(value, str) and any(mark in value for mark in " :{'"):
        return f'"{value}"'
    written = str(value)
    # YAML 1.1, which PyYAML reads, takes 1e-05 for a text; RecBole's own loader does not.
    return written if yaml.safe_load(written) == value else f"{value:.10f}".rstrip("0")
