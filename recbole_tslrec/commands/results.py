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
        "--results", default=Path("results"), type=Path, help="the folder that a grid has written"
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
        "time and memory of TSLRec and E4SRec on one language model (the paper's Figure 3)",
        "Measures a few batches of each and multiplies: no model is trained to the end.",
    )
    command.add_argument("--dataset", default="ml-100k", help="name of the data set")
    command.add_argument("--config_files", default="", help="yaml files, separated by spaces")
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


def _report(args: argparse.Namespace) -> None:
    try:
        from recbole_tslrec.experiments.report.report import write_report
    except ModuleNotFoundError as error:  # of the extra; RecBole itself needs none of it
        if error.name not in ("jinja2", "markdown_it"):
            raise
        raise ModuleNotFoundError(
            f"The report needs {error.name}: pip install 'recbole_tslrec[report]'."
        ) from error
    write_report(args.results, args.output)
    print(args.output / "report.html")


def _pack(args: argparse.Namespace) -> None:
    from recbole_tslrec.experiments.run.packing import pack

    print(f"{pack(args.results) / 2**20:.1f} MiB in {args.results}")


def _efficiency(args: argparse.Namespace) -> None:
    plug_in()
    from recbole_tslrec.experiments import efficiency
    from recbole_tslrec.recbole_bridge.quick_start import given_config_files

    scale = efficiency.scale_of(
        args.dataset,
        given_config_files(args.config_files),
        size=args.size,
        quantization=args.quantization,
        batch_positions=args.batch_positions,
    )
    print(efficiency.run(scale, args.dataset, args.turns, args.output))
