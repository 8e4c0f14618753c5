"""``fold`` and ``convert``: trained models for others."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.store.checkpoints import convert_checkpoint


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the commands."""
    command = commands.add_parser(
        "fold",
        help="turn a trained TSLRec_X, CI_X or Norm_X checkpoint into one of RecBole's plain X",
    )
    command.add_argument("--checkpoint", required=True, type=Path, help="the trained model")
    command.add_argument("--output", required=True, type=Path, help="where to write the plain one")
    command.set_defaults(run=_fold)

    command = commands.add_parser(
        "convert", help="save a checkpoint of RecBole alone in the form that is read without trust"
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
    logging.basicConfig(level=logging.INFO)
    fold_checkpoint(args.checkpoint, args.output)


def _convert(args: argparse.Namespace) -> None:
    convert_checkpoint(args.checkpoint, args.output, args.trusted_sha256)
    print(f"[{args.checkpoint}] saved again as [{args.output}], which is read without trust.")
