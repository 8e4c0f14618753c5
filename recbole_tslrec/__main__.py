"""``python -m recbole_tslrec <command>``: what goes beyond one RecBole run."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from pathlib import Path

from recbole_tslrec import quick_start
from recbole_tslrec.experiments.comparison import compare
from recbole_tslrec.experiments.data_import import import_data
from recbole_tslrec.experiments.interaction_files import FORMS, Columns
from recbole_tslrec.model.folding import fold_checkpoint


def main() -> None:
    """Read the command; keys of the yaml files follow as ``--key=value``, as RecBole reads them."""
    if sys.argv[1:2] == ["run"]:  # RecBole's own command line follows
        del sys.argv[1]
        quick_start.main()
        return
    parser = _parser()
    args, keys = parser.parse_known_args()
    if keys and args.command == "import":  # has no keys of yaml files: these are misspelt options
        parser.error(f"import has no {' '.join(keys)}; see import --help")
    # RecBole's Config reads sys.argv itself: leave it the keys of the yaml files.
    sys.argv = [sys.argv[0], *keys]
    args.run(args)


def _compare(args: argparse.Namespace) -> None:
    if any(key.startswith("--seed=") for key in sys.argv):
        raise SystemExit("compare: --seed would be the same for all; give --seeds=<how many>.")
    files = args.config_files.strip().split(" ") if args.config_files else None
    seeds = range(2020, 2020 + args.seeds)  # RecBole's default seed, and the next ones
    comparison = compare(args.backbone, args.dataset, files, seeds=seeds, controls=args.controls)
    print(comparison.table())


def _fold(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO)
    fold_checkpoint(args.checkpoint, args.output)


def _import(args: argparse.Namespace) -> None:
    try:
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
    except (OSError, ValueError) as error:
        raise SystemExit(f"import: {error}") from None
    print(done)


def _efficiency(args: argparse.Namespace) -> None:
    from recbole_tslrec.experiments import efficiency  # imports transformers

    files = args.config_files.strip().split(" ") if args.config_files else None
    scale = efficiency.scale_of(
        args.dataset,
        files,
        size=args.size,
        quantization=args.quantization,
        batch_positions=args.batch_positions,
    )
    print(efficiency.run(scale, args.dataset, args.turns, args.output))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recbole_tslrec", description=__doc__)
    # No abbreviations: RecBole's --seed is not short for --seeds.
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        parser_class=functools.partial(argparse.ArgumentParser, allow_abbrev=False),
    )
    commands.add_parser("run", help="one experiment with RecBole's command line; see run --help")

    command = commands.add_parser(
        "compare", help="train Base, CI and TSLRec of one backbone and print one table"
    )
    command.add_argument("--backbone", default="SASRec", help="GRU4Rec, Caser, SASRec or FMLPRec")
    command.add_argument("--dataset", default="ml-100k", help="name of the data set")
    command.add_argument("--config_files", default=None, help="yaml files, separated by spaces")
    command.add_argument(
        "--seeds", type=int, default=1, help="how many seeds; more show the spread"
    )
    command.add_argument(
        "--controls", action="store_true", help="add TSLRec with other vectors in place of h^v"
    )
    command.set_defaults(run=_compare)

    command = commands.add_parser(
        "efficiency",
        help="time and memory of TSLRec and E4SRec on one language model (the paper's Figure 3)",
    )
    command.add_argument("--dataset", default="ml-100k", help="name of the data set")
    command.add_argument("--config_files", default=None, help="yaml files, separated by spaces")
    command.add_argument(
        "--size",
        default="small",
        help="llama2-13b, llama2-7b, qwen2.5-0.5b, smollm2-135m, small, or a folder or hub id whose "
        "configuration is read; its weights are random",
    )
    command.add_argument("--quantization", default="none", choices=["none", "int8", "nf4"])
    command.add_argument(
        "--batch_positions", type=int, default=1024, help="positions of a batch, both sides"
    )
    command.add_argument("--turns", type=int, default=8, help="batches of each way to measure")
    command.add_argument(
        "--output", type=Path, default=Path("efficiency"), help="folder for table and picture"
    )
    command.set_defaults(run=_efficiency)

    command = commands.add_parser(
        "fold", help="turn a trained TSLRec_X or CI_X checkpoint into one of RecBole's plain X"
    )
    command.add_argument("--checkpoint", required=True, type=Path, help="the trained model")
    command.add_argument("--output", required=True, type=Path, help="where to write the plain one")
    command.set_defaults(run=_fold)
    _add_import(commands)
    return parser


def _add_import(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "import", help="turn a data set into RecBole's files, and print its row of Table 1"
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


if __name__ == "__main__":
    main()
