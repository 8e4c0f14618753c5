"""``import``: data sets as RecBole's files (paper §5.1)."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_tslrec.commands.console import add_command, check_is_file
from recbole_tslrec.data.import_ import FORMS


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    command = add_command(
        commands,
        "import",
        "turn a data set into RecBole's files, and print its row of Table 1",
        "Users and items with few interactions can be left out; times become places in their order.",
    )
    command.add_argument("--source", required=True, type=Path, help="the file of interactions")
    command.add_argument("--dataset", required=True, help="the name that the data set gets")
    command.add_argument(
        "--data_path", default=Path("dataset"), type=Path, help="RecBole's data_path"
    )
    command.add_argument(
        "--form",
        default="auto",
        choices=["auto", *FORMS],
        help="lines 'user item item …', a CSV or TSV log with times, or RecBole's .inter",
    )
    for role in ("user", "item", "time"):
        command.add_argument(
            f"--{role}_column", help=f"the column of the {role}, if it has no common name"
        )
    command.add_argument("--item_text", type=Path, help="lines item, tab, text; or RecBole's .item")
    command.add_argument(
        "--min_user", type=int, default=1, help="the fewest interactions of a user that is kept"
    )
    command.add_argument(
        "--min_item", type=int, default=1, help="the fewest interactions of an item that is kept"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace files that are there with other content"
    )
    command.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    check_is_file("source", args.source)
    if args.item_text is not None:
        check_is_file("item_text", args.item_text)
    from recbole_tslrec.data.import_.data_import import import_data
    from recbole_tslrec.data.import_.interaction_files import Columns

    done = import_data(
        args.source,
        args.data_path,
        args.dataset,
        form=args.form,
        columns=Columns(args.user_column, args.item_column, args.time_column),
        item_text=args.item_text,
        min_user=args.min_user,
        min_item=args.min_item,
        overwrite=args.overwrite,
    )
    print(done)
