"""``report``, ``pack`` and ``efficiency``: what is kept of a grid, as tables and pictures (paper §5)."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import add_command


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the commands."""
    command = add_command(
        commands,
        "report",
        "tables, tests and pictures from a grid's kept results",
        "Trains nothing: it reads what compare has kept.",
    )
    command.add_argument(
        "--results",
        default="results",
        help="the folder that a grid has written, or several, with commas between them",
    )
    command.add_argument(
        "--output", default=Path("report"), type=Path, help="the folder to write the report into"
    )
    command.set_defaults(run=_report)

    command = add_command(
        commands,
        "pack",
        "make a folder of results small: one file a data set, without what no report reads",
        "No compare may be writing to it meanwhile.",
    )
    command.add_argument(
        "--results", required=True, type=Path, help="a folder that a grid has written"
    )
    command.set_defaults(run=_pack)

    command = add_command(
        commands,
        "efficiency",
        "what each paradigm asks of a language model: time and memory (the paper's Figure 3)",
        "Computes a sample of each part and extrapolates: no model is trained to the end.",
        epilog="Any key of the yaml files can be given as --key=value. Without --llm the language model "
        "is random:small; see docs/efficiency.md.",
    )
    command.add_argument("--dataset", default="ml-100k", help="name of the data set")
    command.add_argument("--backbone", default="SASRec", help="beside which the rows stand")
    command.add_argument(
        "--variants",
        "--variant",
        help="the rows of a comparison to measure; if not given, each model that has a language model",
    )
    command.add_argument(
        "--config_files",
        default="",
        help="yaml files, separated by spaces; {dataset} is replaced, and {paradigm} for each row",
    )
    command.add_argument("--turns", type=int, default=8, help="batches of each part to time")
    command.add_argument(
        "--ablation", action="store_true", help="add the same computed without our own means"
    )
    command.add_argument(
        "--output", type=Path, default=Path("efficiency"), help="folder for table and picture"
    )
    command.set_defaults(run=_efficiency)


def _report(args: argparse.Namespace) -> None:
    try:
        from recbole_tslrec.experiments.report.report import write_report
    except ModuleNotFoundError as error:  # of the extra; RecBole itself needs none of it
        missing = (error.name or "").partition(".")[0]
        if missing not in ("jinja2", "markdown_it", "matplotlib"):
            raise
        raise ModuleNotFoundError(
            f"The report needs {missing}: pip install 'recbole_tslrec[report]'."
        ) from error
    given = args.results  # a folder's name may have a comma
    folders = [given] if Path(given).is_dir() else [one for one in given.split(",") if one]
    write_report([Path(folder) for folder in folders], args.output)
    print(args.output / "report.html")


def _pack(args: argparse.Namespace) -> None:
    from recbole_tslrec.experiments.run.packing import pack

    print(f"{pack(args.results) / 2**20:.1f} MiB in {args.results}")


def _efficiency(args: argparse.Namespace) -> None:
    plug_in()
    from recbole_tslrec.experiments import efficiency
    from recbole_tslrec.experiments.run.grid import Grid
    from recbole_tslrec.recbole_bridge.config_files import command_line_settings, config_file_names

    settings = command_line_settings()
    if args.turns < 1:
        raise ValueError(f"turns: [{args.turns}] is not a whole number, 1 or larger.")
    grid = Grid(
        datasets=[args.dataset],
        backbones=[args.backbone],
        variants=args.variants.split(",") if args.variants else efficiency.measured_rows(),
        config_files=config_file_names(args.config_files),
        settings=settings,
    )
    print(efficiency.run(grid, args.turns, args.ablation, args.output))
