"""``patches``: what the package changes in RecBole and torch."""

from __future__ import annotations

import argparse

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import add_command


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    command = add_command(
        commands, "patches", "list what the package changes in RecBole and torch, and why"
    )
    command.set_defaults(run=_patches)


def _patches(args: argparse.Namespace) -> None:
    plug_in()
    from recbole_tslrec.recbole_bridge.patches import table

    print(table())
