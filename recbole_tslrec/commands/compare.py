"""``compare``: a grid of experiments (paper §5)."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_tslrec import plug_in
from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.commands.console import PROGRAM, add_command
from recbole_tslrec.recbole_bridge.paradigm import (
    MAIN_VARIANTS,
    controls,
    set_by_all,
    table_rows,
    variants,
)

if TYPE_CHECKING:
    from recbole_tslrec.experiments.run.grid import Grid


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    command = add_command(
        commands,
        "compare",
        "train variants of backbones on data sets over seeds, keep every result, print tables",
        "The same command goes on where an earlier one was stopped.",
        epilog="Any key of the yaml files can be given as --key=value.",
    )
    command.add_argument("--dataset", default="ml-100k", help="name of the data set")
    command.add_argument("--datasets", help="several of them, separated by commas")
    command.add_argument("--backbone", default="SASRec", help=", ".join(BACKBONES))
    command.add_argument("--backbones", help="several of them, separated by commas")
    command.add_argument(
        "--variants", "--variant", default=",".join(MAIN_VARIANTS), help=", ".join(table_rows())
    )
    command.add_argument(
        "--controls",
        action="store_true",
        help=f"add the variants' controls, of {', '.join(controls())}; those of item texts if item_text "
        "is given",
    )
    command.add_argument("--seeds", type=int, default=1, help="how many, from 2020 on")
    command.add_argument(
        "--config_files",
        default="",
        help="yaml files, separated by spaces; {dataset} is replaced, and {paradigm} for each row",
    )
    command.add_argument(
        "--results", type=Path, default=Path("results"), help="the folder of what is finished"
    )
    command.add_argument("--search", help="keys to search, as 'key=[value,value] key=[value]'")
    command.add_argument("--search_file", type=Path, help="or as a file for RecBole's HyperTuning")
    command.add_argument(
        "--search_budget", type=int, default=10, help="the most trials of every variant"
    )
    command.add_argument(
        "--reuse", action="store_true", help="add TSLRec with other backbones' embeddings"
    )
    command.add_argument(
        "--keep_checkpoints", action="store_true", help="keep the trained models of all variants"
    )
    command.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    plug_in()
    from recbole_tslrec.experiments.run.comparison import compare
    from recbole_tslrec.experiments.run.search import declare
    from recbole_tslrec.store import processes

    if processes.count() > 1:
        raise ValueError(
            "torchrun: compare runs in one process; start it several times on one --results folder to "
            "share the work. torchrun is for single experiments."
        )
    try:
        search = declare(args.search, args.search_file, args.search_budget)
        comparison = compare(_grid(args), args.results, search, args.keep_checkpoints)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"What is finished is kept in [{args.results}]; the same command goes on from there."
        ) from None
    print(comparison.tables())
    results = shlex.quote(str(args.results))
    print(f"\nNext: python -m {PROGRAM} report --results={results} --output=report")
    for cell, error in comparison.failed:
        print(f"compare: failed: {cell.dataset}, {cell.method}, seed {cell.seed}: {error}")
    return 1 if comparison.failed else 0


def _grid(args: argparse.Namespace) -> Grid:
    """The grid that the command line asks for; takes RecBole's keys out of ``sys.argv``."""
    from recbole_tslrec.experiments.run.grid import Grid
    from recbole_tslrec.recbole_bridge.config_files import command_line_settings, config_file_names

    for argument in sys.argv[1:]:
        if argument.removeprefix("--").split("=")[0] in set_by_all(variants().values()):
            raise ValueError(
                f"[{argument}] is set for each cell. Give --seeds=<how many>, --datasets, "
                f"--backbones, --variants or --results."
            )
    settings = command_line_settings()
    if args.seeds < 1:
        raise ValueError(f"seeds: [{args.seeds}] is not a whole number, 1 or larger.")
    grid = Grid(
        datasets=(args.datasets or args.dataset).split(","),
        backbones=(args.backbones or args.backbone).split(","),
        variants=args.variants.split(","),
        seeds=range(2020, 2020 + args.seeds),  # RecBole's default seed, and the next ones
        config_files=config_file_names(args.config_files),
        settings=settings,
        reuse=args.reuse,
    )
    if not args.controls:
        return grid
    # Those of item texts are added where every data set has them.
    possible = [controls(grid.given(dataset), grid.variants) for dataset in grid.datasets]
    added = [name for name in controls() if all(name in names for names in possible)]
    return replace(grid, variants=list(dict.fromkeys([*grid.variants, *added])))
