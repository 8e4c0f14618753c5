"""``run``: RecBole's command line, one experiment."""

from __future__ import annotations

import argparse
import sys

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import HelpWithDefaults, add_debug, command_line


def main() -> None:
    """The command line of RecBole's ``run_recbole.py``; ``--any_key=value`` is read by RecBole."""
    command_line(run_command, "run")()


def run_command(prog: str | None = None) -> None:
    """Run the experiment that ``sys.argv`` describes.

    Args:
        prog: the program's name in the help, if it is not the script's.

    Raises:
        ValueError, OSError, ...: what the experiment refuses, or a bug.
    """
    args, keys = _run_parser(prog).parse_known_args()
    plug_in()
    from recbole_tslrec.config.spelling import check_arguments, check_command_line
    from recbole_tslrec.recbole_bridge.config_files import given_config_files
    from recbole_tslrec.recbole_bridge.quick_start import run_experiment
    from recbole_tslrec.recbole_bridge.summary import summary

    check_arguments(keys, vars(args))
    check_command_line(sys.argv[1:])  # options, too: RecBole reads them again
    config_files = given_config_files(args.config_files)
    if args.nproc == 1 and args.world_size <= 0:
        print(summary(run_experiment(args.model, args.dataset, config_files, describe=True)))
        return
    _check_processes(args, config_files)
    from recbole.quick_start import run

    run(
        args.model,
        args.dataset,
        config_file_list=config_files,
        nproc=args.nproc,
        world_size=args.world_size,
        ip=args.ip,
        port=args.port,
        group_offset=args.group_offset,
    )


def _run_parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train and evaluate a model of RecBole or recbole_tslrec.",
        epilog="Any key of the yaml files can be given as --key=value.",
        allow_abbrev=False,  # a key of RecBole's is not short for an option
        formatter_class=HelpWithDefaults,
    )
    parser.add_argument("--model", "-m", default="TSLRec_SASRec", help="name of the model")
    parser.add_argument("--dataset", "-d", default="ml-100k", help="name of the data set")
    parser.add_argument("--config_files", default="", help="yaml files, separated by spaces")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    parser.add_argument("--ip", default="localhost", help="address of the master machine")
    parser.add_argument("--port", default="5678", help="port of the master machine")
    parser.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    parser.add_argument(
        "--group_offset", type=int, default=0, help="rank of the first process here"
    )
    add_debug(parser)
    return parser


def _check_processes(args: argparse.Namespace, config_files: list[str]) -> None:
    """Raise what each process would raise after it is started, with a traceback in a traceback."""
    if args.nproc < 1:
        raise ValueError(f"nproc: [{args.nproc}] is not a whole number, 1 or larger.")
    import torch
    from recbole.config import Config

    config = Config(args.model, args.dataset, config_files)
    n_gpus = min(len(config["gpu_id"].split(",")), torch.cuda.device_count())
    if args.nproc > n_gpus:
        raise ValueError(
            f"nproc: [{args.nproc}] takes a GPU each, and gpu_id: [{config['gpu_id']!r}] names "
            f"{n_gpus} that can be used. Set nproc=1, or gpu_id to several: --gpu_id=0,1."
        )
