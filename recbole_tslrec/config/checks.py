"""The checks of a paradigm's keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.keys import KEYS, Effect


def check_values(config: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of our keys whose value is not one it takes.

    A key that the experiment's model does not have is not there.
    """
    for name, key in KEYS.items():
        if name in config:
            key.check(config[name])


def check_files(config: Mapping[str, Any]) -> None:
    """Raise FileNotFoundError for a file of the user's that is not there."""
    for name, key in KEYS.items():
        path = config.get(name) if key.effect is Effect.FILE else None
        if path is not None and not os.path.isfile(path):  # False, too, of a name that cannot be
            raise FileNotFoundError(
                f"{name}: there is no file [{path}]. Set {name} to one that is there, or leave it out."
            )
