"""``fold`` and ``convert``: trained models for others."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import add_command, add_data_path, check_is_file


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the commands."""
    command = add_command(
        commands,
        "fold",
        "turn a trained TSLRec_X, CI_X or Norm_X checkpoint into one of RecBole's plain X",
        "The plain model gives the same scores, and RecBole alone can read it.",
    )
    command.add_argument("--checkpoint", required=True, type=Path, help="the trained model")
    command.add_argument("--output", required=True, type=Path, help="where to write the plain one")
    add_data_path(command)
    command.set_defaults(run=_fold)

    command = add_command(
        commands,
        "convert",
        "save a checkpoint of RecBole alone in the form that is read without trust",
        "A file that RecBole wrote without this package may hold code; this one does not.",
    )
    command.add_argument("--checkpoint", required=True, type=Path, help="the old file")
    command.add_argument("--output", required=True, type=Path, help="where to write the new one")
    command.add_argument(
        "--trusted_sha256",
        required=True,
        help="the old file's SHA-256: to give it is to trust whoever made the file, since reading "
        "it may run any program",
    )
    command.set_defaults(run=_convert)


def _fold(args: argparse.Namespace) -> None:
    check_is_file("checkpoint", args.checkpoint)
    plug_in()
    from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint

    fold_checkpoint(args.checkpoint, args.output, args.data_path)
    print(f"[{args.checkpoint}] folded into a plain model of RecBole: [{args.output}]")


def _convert(args: argparse.Namespace) -> None:
    check_is_file("checkpoint", args.checkpoint)
    plug_in()
    from recbole_tslrec.store.checkpoints import convert_checkpoint

    convert_checkpoint(args.checkpoint, args.output, args.trusted_sha256)
    print(f"[{args.checkpoint}] saved again as [{args.output}], which is read without trust.")
