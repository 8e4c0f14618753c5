"""``patches``: what the package changes in RecBole and torch."""

from __future__ import annotations

import argparse

from recbole_tslrec.recbole_bridge.patches import table


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "patches", help="list what the package changes in RecBole and torch, and why"
    )
    command.set_defaults(run=lambda args: print(table()))
