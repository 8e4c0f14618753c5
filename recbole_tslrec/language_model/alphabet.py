"""The letters under which candidates stand in a prompt."""

from __future__ import annotations

import string

LETTERS = string.ascii_uppercase


def check_letters(n_candidates: int, otherwise: str) -> None:
    """Raise ValueError if there are more candidates than letters.

    Args:
        otherwise: the setting under which candidates need none, as ``key: value``.
    """
    most = len(LETTERS)
    if n_candidates > most:
        raise ValueError(
            f"n_candidates: [{n_candidates}] are more than the {most} letters. Set n_candidates: "
            f"{most}, or {otherwise}."
        )
