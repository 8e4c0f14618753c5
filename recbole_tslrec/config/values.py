"""The values that a key takes: a test, and the words for what passes it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Values:
    """What a key takes: the test that a value must pass, and what an error calls it."""

    accepts: Callable[[Any], bool]
    expected: str

    def check(self, key: str, value: Any) -> None:
        """Raise ValueError for a value that is not one of these."""
        if not self.accepts(value):
            raise ValueError(f"{key}: [{value!r}] is not {self.expected}.")


def near(given: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Known names that a misspelt one looks like, whatever its case; the nearest first."""
    by_form = {name.lower(): name for name in known}
    return [by_form[form] for form in difflib.get_close_matches(given.lower(), by_form, n=most)]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """What an error on an unknown name ends with: a question, or nothing if no known one is near."""
    names = near(given, known)
    return f" Did you mean {' or '.join(names)}?" if names else ""


def one_of(*values: str) -> Values:
    """One of these words, as they are written."""
    return Values(lambda value: value in values, f"one of {', '.join(values)}")


def integer(low: int, high: int | None = None) -> Values:
    """A whole number from ``low`` on, up to ``high`` if that is given; True is none."""

    def accepts(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and low <= value and (high is None or value <= high)

    limit = "" if high is None else f" and {high} or smaller"
    return Values(accepts, f"a whole number, {low} or larger{limit}")


def number(test: Callable[[float], bool], expected: str) -> Values:
    """A finite number that passes the test; True is none."""

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and test(value)

    return Values(accepts, expected)


def text(optional: bool = False) -> Values:
    """A text that is not blank; None, too, if optional."""

    def accepts(value: Any) -> bool:
        return (optional and value is None) or (isinstance(value, str) and value.strip() != "")

    return Values(accepts, "a text" + (" or ~" if optional else ""))


def texts(expected: str) -> Values:
    """A text, or a list of them."""

    def accepts(value: Any) -> bool:
        several = value if isinstance(value, (list, tuple)) else [value]
        return len(several) > 0 and all(isinstance(one, str) and one for one in several)

    return Values(accepts, expected)


YES_OR_NO = Values(lambda value: isinstance(value, bool), "True or False")
ABOVE_0 = number(lambda value: value > 0, "a number above 0")
UP_TO_1 = number(lambda value: 0 <= value <= 1, "a number in [0, 1]")
