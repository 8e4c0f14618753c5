"""Keys that a user misspelt, and arguments that RecBole would drop unread."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)

from recbole_tslrec.config.checks import BATCHING_KEYS
from recbole_tslrec.config.fingerprints import WITHOUT_EFFECT_ON_TRAINING
from recbole_tslrec.config.keys import KEYS

_RECBOLE_KEYS = frozenset(
    [*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments]
)


def check_spelling(given_keys: Mapping[str, Any], known_keys: Mapping[str, Any]) -> None:
    """Raise ValueError for a key the user gave that is unknown but looks like one of ours or RecBole's.

    RecBole takes any key in silence, and a user's own keys stay allowed; but ``n_category=20`` or
    ``epoch=1`` must not run for hours with the default of ``n_categories`` or ``epochs``.

    Args:
        known_keys: those of the model. Keys of another backbone may be given, too: a yaml may serve
            several.
    """
    known = {*known_keys, *KEYS, *_RECBOLE_KEYS, *WITHOUT_EFFECT_ON_TRAINING}
    for key in given_keys:
        if key in known:
            continue
        near = difflib.get_close_matches(key, [*KEYS, *BATCHING_KEYS], n=1, cutoff=0.8)
        # RecBole's words are common ones, and other models' keys are made of them.
        near += difflib.get_close_matches(key, _RECBOLE_KEYS, n=1, cutoff=0.9)
        if near:
            raise ValueError(f"There is no key [{key}]. Did you mean [{near[0]}]?")


def check_command_line(arguments: Sequence[str]) -> None:
    """Raise ValueError for a known key with a second '=' in it: RecBole would drop it unread."""
    for argument in arguments:
        key, _, value = argument.removeprefix("--").partition("=")
        known = key in KEYS or key in _RECBOLE_KEYS
        if argument.startswith("--") and known and "=" in value:
            raise ValueError(
                f"[{argument}] is not read from the command line because of its second '='. Give "
                f"{key} in a yaml file."
            )


def check_arguments(arguments: Sequence[str], options: Collection[str]) -> None:
    """Raise ValueError for what a command's own options left over, if it is no key of a yaml file.

    Args:
        arguments: what is left of the command line.
        options: the names of the command's own options. A misspelt one would be taken for a key.
    """
    for argument in arguments:
        key, equals, _ = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise ValueError(f"[{argument}] is neither an option nor a --key=value.")
        near = difflib.get_close_matches(key, options, n=1, cutoff=0.8)
        if near and key not in KEYS and key not in _RECBOLE_KEYS:
            raise ValueError(
                f"There is no option [--{key}]. Did you mean [--{near[0]}]? A key of your own that is "
                f"called so can stand in a yaml file."
            )
    check_command_line(arguments)
