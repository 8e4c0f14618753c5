"""A hash of what a class does, so that what was made by it is not used once its code has changed."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any

from recbole_tslrec.store.files import file_hash

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What holds a method, and under which names.
_HOLDERS = {
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
    property: ("fget", "fset"),
    cached_property: ("func",),
}


def class_code(one: type, but: Collection[str] = ()) -> list[str]:
    """Hashes of the code of a class and of those that it is made of, in no telling order.

    They are of whole files, so that what stands beside a class counts as well. Of a class without one
    (from a notebook, standard input or ``python -c``) they are of its methods and plain attributes
    alone: what it reads of the program around it does not count.

    Args:
        one: the class.
        but: packages whose classes do not count.

    Returns:
        one hash a file, or a class without a file.
    """
    own = [each for each in one.__mro__ if each.__module__.partition(".")[0] not in but]
    return sorted({_of_file(each) or _of_methods(each) for each in own if each is not object})


def _of_file(one: type) -> str | None:
    try:
        return file_hash(Path(inspect.getfile(one)))
    # Not there: TypeError of what is built in, OSError of what has no file, or had one elsewhere.
    except (OSError, TypeError):
        return None


def _of_methods(one: type) -> str:
    content = hashlib.sha256(one.__qualname__.encode())
    for name, value in sorted(vars(one).items()):
        for part in _parts(value):
            content.update(f"{name} {part}\n".encode())
    return content.hexdigest()


def _parts(value: Any) -> Iterator[str]:
    """What tells an attribute's value from another, the same in every process."""
    if isinstance(value, CodeType):
        yield value.co_code.hex()
        for names in (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars):
            yield repr(names)
        for constant in value.co_consts:
            yield from _parts(constant)
    elif isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _parts(each)
    elif isinstance(value, (set, frozenset)):  # which are in another order in each process
        yield from sorted(part for each in value for part in _parts(each))
    elif isinstance(value, dict):
        yield from _parts(list(value.items()))
    elif inspect.isfunction(value):
        within = vars(value).get("__wrapped__")  # what a decorator stands around
        yield from _parts([value.__code__, value.__defaults__, value.__kwdefaults__, within])
    else:
        for name in _HOLDERS.get(type(value), ()):
            yield from _parts(getattr(value, name))
