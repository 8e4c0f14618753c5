"""Keys that a user misspelt, and arguments that RecBole would drop unread."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole
import yaml
from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_tslrec.config.fingerprints import WITHOUT_EFFECT_ON_TRAINING
from recbole_tslrec.config.key import KEYS
from recbole_tslrec.config.keys import TRAINING_KEYS

_RECBOLE_KEYS = frozenset(
    [*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, "encoding"]
)


def check_are_texts(given_keys: Mapping[Any, Any]) -> None:
    """Raise ValueError for a key that is no text, as yaml reads ``2024:`` and ``on:``.

    RecBole writes all keys for TensorBoard once a model is trained, and fails there.
    """
    for key in given_keys:
        if not isinstance(key, str):
            raise ValueError(
                f"There is no key [{key!r}]. A key is a text: leave it out, or put it in quotes."
            )


def check_spelling(given_keys: Mapping[Any, Any], known_keys: Mapping[str, Any]) -> None:
    """Raise ValueError for a key the user gave that is unknown but looks like one that is read.

    RecBole takes any key in silence, and a user's own keys stay allowed; but ``n_category=20``,
    ``EPOCHS=1`` or ``hiddeen_act`` must not run for hours with the default of what was meant.

    Args:
        known_keys: those of the model. Keys of another backbone may be given, too: a yaml may serve
            several.
    """
    known = {*known_keys, *KEYS, *_RECBOLE_KEYS, *WITHOUT_EFFECT_ON_TRAINING}
    check_are_texts(given_keys)
    for key in given_keys:
        if key in known:
            continue
        near = _meant_by(key, known_keys)
        if near and key not in _keys_of_recboles_files():
            raise ValueError(f"There is no key [{key}]. Did you mean [{near}]?")


def _meant_by(key: str, known_keys: Mapping[str, Any]) -> str | None:
    """The known key that an unknown one looks like; None if it is like none."""
    ours = [*KEYS, *TRAINING_KEYS]
    by_form = {_form(one): one for one in [*known_keys, *_RECBOLE_KEYS, *ours]}
    if _form(key) in by_form:
        return by_form[_form(key)]
    # RecBole's words are common ones, and other models' keys are made of them.
    others = [*_RECBOLE_KEYS, *known_keys]
    near = difflib.get_close_matches(key, ours, n=1, cutoff=0.8)
    near += difflib.get_close_matches(key, others, n=1, cutoff=0.9)
    near += [one for one in others if sorted(one) == sorted(key)]  # two letters exchanged
    alike = difflib.SequenceMatcher(b=key)

    def likeness(one: str) -> float:
        alike.set_seq1(one)
        return alike.ratio()

    return max(near, key=likeness, default=None)


def _form(key: str) -> str:
    return key.strip().replace("-", "_").lower()


@functools.cache
def _keys_of_recboles_files() -> frozenset[str]:
    """The keys of all RecBole's models and data sets."""
    folder = Path(recbole.__file__).parent / "properties"
    files = [file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml")]
    return frozenset(key for file in files for key in yaml.safe_load(file) or {})


def check_command_line(arguments: Sequence[str]) -> None:
    """Raise ValueError for what RecBole drops unread, or fails at with a SyntaxError.

    That is a known key with a second '=' in it or with yaml's ``~`` for None, and a key that is given
    two values.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            continue
        if "=" in value and (key in KEYS or key in _RECBOLE_KEYS):
            raise ValueError(
                f"[{argument}] is not read from the command line because of its second '='. Give "
                f"{key} in a yaml file."
            )
        if value == "~" and (key in KEYS or key in _RECBOLE_KEYS):
            raise ValueError(
                f"[{argument}]: on the command line RecBole reads ~ as a text. Set --{key}=None."
            )
        if given.setdefault(key, value) != value:
            raise ValueError(f"--{key}: [{given[key]}] and [{value}] are given. Give one of them.")


def check_arguments(arguments: Sequence[str], options: Collection[str]) -> None:
    """Raise ValueError for what a command's own options left over, if it is no key of a yaml file.

    Args:
        arguments: what is left of the command line.
        options: the names of the command's own options. A misspelt one would be taken for a key.
    """
    for argument in arguments:
        key, equals, _ = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key or not equals:
            raise ValueError(f"[{argument}] is neither an option nor a --key=value.")
        near = difflib.get_close_matches(key, options, n=1, cutoff=0.8)
        if near and key not in KEYS and key not in _RECBOLE_KEYS:
            raise ValueError(
                f"There is no option [--{key}]. Did you mean [--{near[0]}]? A key of your own that is "
                f"called so can stand in a yaml file."
            )
    check_command_line(arguments)
