"""What an .inter file says, read by splitting lines and comparing times; nothing of pandas."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzz.inputs import Wrong


@dataclass(frozen=True)
class Interactions:
    """Users' items in time order, as they fall to training, validation and test.

    Attributes:
        training: by user; one who has a single interaction is not there.
        validation, test: the items held out, by user.
    """

    training: dict[str, list[str]]
    validation: dict[str, str]
    test: dict[str, str]


def plain_readings(
    content: bytes,
    encoding: str,
    separator: str,
    fields: list[str],
    as_time: Callable[[str], float] = float,
) -> list[Interactions]:
    """The columns of these fields (user, item, time), with quotation marks as they stand or taken off.

    None of the two if it is no text, or a column, a value or a time is missing.

    Args:
        as_time: how exact times are.
    """
    readings = []
    for written_as in (str, _bare):
        try:
            readings.append(
                _reading(content.decode(encoding), separator, fields, written_as, as_time)
            )
        except (ValueError, LookupError, TypeError):
            continue
    return readings


def _reading(
    text: str,
    separator: str,
    fields: list[str],
    written_as: Callable[[str], str],
    as_time: Callable[[str], float],
) -> Interactions:
    lines = [line for line in re.split("\r\n|\r|\n", text) if line.strip()]
    header = [column.split(":")[0] for column in lines[0].split(separator)] if lines else []
    places = [header.index(field) for field in fields]
    histories: dict[str, list[tuple[float, str]]] = {}
    for line in lines[1:]:
        values = line.split(separator)
        if len(values) <= max(places):
            raise ValueError(f"too short: {line!r}")
        user, item, time = (written_as(values[place]) for place in places)
        if not user or not item or float(time) != float(time):
            raise ValueError(f"missing: {line!r}")
        histories.setdefault(user, []).append((as_time(time), item))
    in_order = {
        user: [item for _, item in sorted(rows, key=lambda row: row[0])]
        for user, rows in histories.items()
    }
    return Interactions(
        # RecBole holds out rows, of which a user has one less than interactions, and keeps the first.
        {user: items[: max(2, len(items) - 2)] for user, items in in_order.items() if items[1:]},
        {user: items[-2] for user, items in in_order.items() if len(items) >= 4},
        {user: items[-1] for user, items in in_order.items() if len(items) >= 3},
    )


def compare(expected: Sequence[Interactions], found: Interactions) -> None:
    """Raise Wrong if what was found is none of the readings that may be."""
    if found in expected:
        return
    for part in ("training", "validation", "test"):
        here, there = getattr(expected[0], part), getattr(found, part)
        if len(here) != len(there):
            raise Wrong(f"{part}: {len(there)} users, not {len(here)}")
        for user in here:
            if here[user] != there.get(user):
                raise Wrong(f"{part} of [{user}]: {there.get(user)}, not {here[user]}")


def _bare(text: str) -> str:
    """A value as csv takes one between quotation marks."""
    quoted = len(text) > 2 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text
