"""Which values a key takes, said a second time: by the docs, not by the code that is tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# What no key, or hardly any, takes.
JUNK: list[Any] = [None, True, False, "", " ", "abc", "1", "None", "nan", "-1", "é", "x" * 3000]
JUNK += [-1, 0, 1, 2, 10**12, 10**30, 1.5, -0.5, 0.0, 1e12, 1e-12, math.nan, math.inf, -math.inf]
JUNK += [[], [1], ["a"], [None], [[1]], {}, {"a": 1}, (), (1, 2), b"abc", 1 + 2j]
JUNK += ["[1, 2]", "true", "1e-3", "0x10", np.float64(0.1), np.int64(3), np.float64("nan")]
_HUGE = 10**9  # sizes of which no machine has the memory


@dataclass(frozen=True)
class Key:
    """A key of one model.

    Attributes:
        model: which model reads it.
        examples: values near the edge of what it takes.
        judge: of a value as Python has it: True if it is valid, False if it must be refused, None if
            either is right, since another data set or machine may bear it.
    """

    model: str
    examples: Sequence[Any]
    judge: Callable[[Any], bool | None]


def plain(value: Any) -> Any:
    """NumPy's numbers are as good as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def whole(
    low: int, high: int = _HUGE, model: str = "Norm_SASRec", above: bool | None = None
) -> Key:
    """A whole number; ``above`` is the judgement of one above ``high``."""

    def judge(value: Any) -> bool | None:
        if _is_number(value, float) and value.is_integer():
            return None if value >= low else False  # 3.0 may count as 3
        if not _is_number(value, int) or value < low:
            return False
        return True if value <= high else above

    edges = [low - 1, low, low + 1, 7, float(low), str(low), -(10**9), high, 10**18]
    return Key(model, edges, judge)


def number(
    low: float = 0, high: float = math.inf, beside: Sequence = (), model: str = "Norm_SASRec"
) -> Key:
    """A number from ``low`` to ``high``, but for those in ``beside``."""

    def judge(value: Any) -> bool | None:
        if not _is_number(value, int, float) or not math.isfinite(value):
            return False
        if value < low or value > high or value in beside:
            return False
        return True if value <= 1 else None  # may train badly

    edges = [low, high, low - 1e-3, high + 1e-3, (low + min(high, low + 1)) / 2, str(low)]
    return Key(model, edges, judge)


def some(
    valid: Sequence, maybe: Sequence = (), wrong: Sequence = (), model: str = "Norm_SASRec"
) -> Key:
    """One of these values; those in ``wrong`` are tried, too, and no other is right."""

    def judge(value: Any) -> bool | None:
        for right, values in ((True, valid), (None, maybe)):
            if any(type(value) is type(one) and value == one for one in values):
                return right
        return False

    names = [one for one in valid if isinstance(one, str)][:1]
    near = [form(name) for name in names for form in (str.upper, "{} ".format, lambda one: [one])]
    return Key(model, [*valid, *maybe, *wrong, *near], judge)


def boolean(model: str = "Norm_SASRec", true: bool | None = True, seen: bool = False) -> Key:
    """Yes or no; ``seen``: of what is shown alone, where any value may do."""

    def judge(value: Any) -> bool | None:
        if value is True:
            return true
        return True if value is False else None if seen or value in (0, 1, None) else False

    return Key(model, [True, False, "yes", "no", 0, 1, 2, None], judge)


def text(model: str = "TSLRec_SASRec") -> Key:
    """Words for a prompt; very many leave no room."""

    def judge(value: Any) -> bool | None:
        if not isinstance(value, str) or not value.strip():
            return False
        return True if len(value) < 60 else None

    return Key(model, ["predict", "{n_categories}", "{", "{x}", "%s", "a\nb", "\0"], judge)


def folder(model: str = "Norm_SASRec") -> Key:
    """Where something can be written."""

    def judge(value: Any) -> bool | None:
        if value in ("a/b", "é", "."):
            return True
        return None if isinstance(value, str) and value.strip() else False

    return Key(model, ["a/b", "é", ".", "/proc/no"], judge)


def anything(*examples: Any) -> Key:
    """Nothing depends on it that could be wrong."""
    return Key("Norm_SASRec", examples, lambda value: True if value == examples[0] else None)
