"""``python -m recbole_tslrec <command>``: what goes beyond one RecBole run."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import time
from pathlib import Path

from recbole_tslrec import quick_start
from recbole_tslrec.clean_up import leftovers, remove
from recbole_tslrec.compatibility import convert_checkpoint
from recbole_tslrec.experiments.comparison import compare
from recbole_tslrec.experiments.data_import import import_data
from recbole_tslrec.experiments.interaction_files import FORMS, Columns
from recbole_tslrec.experiments.report import write_report
from recbole_tslrec.model.folding import fold_checkpoint
from recbole_tslrec.storage import fingerprint
from recbole_tslrec.stored_stages import explain, size, stored_stages, table, wanted_by


@quick_start.stoppable
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
    try:
        args.run(args)
    except (OSError, ValueError) as error:
        if args.command not in ("stages", "clean", "convert"):
            raise
        raise SystemExit(f"{args.command}: {error}") from None


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


def _convert(args: argparse.Namespace) -> None:
    convert_checkpoint(args.checkpoint, args.output, args.trusted_sha256)
    print(f"[{args.checkpoint}] saved again as [{args.output}], which is read without trust.")


def _wanted(args: argparse.Namespace) -> tuple[Path, dict]:
    """The folder of stages, and the stages of the experiment if one is given."""
    if args.model is None:
        return args.tslrec_dir or Path("saved/tslrec"), {}
    if args.dataset is None:
        raise SystemExit(f"{args.command}: --model needs --dataset.")
    files = args.config_files.strip().split(" ") if args.config_files else None
    given = {"tslrec_dir": str(args.tslrec_dir)} if args.tslrec_dir else {}
    return wanted_by(args.model, args.dataset, files, given)


def _stages(args: argparse.Namespace) -> None:
    root, wanted = _wanted(args)
    stages = stored_stages(root, args.verify)
    if args.dataset is not None:
        stages = [stage for stage in stages if stage.folder.parent.name == args.dataset]
    print(table(stages, time.time()) if stages else f"Nothing is stored in [{root}].")
    if args.model is not None:
        print(f"\n{args.model} on {args.dataset} under these settings:")
        print("\n".join(explain(wanted, stages)) or "needs no stages")


def _clean(args: argparse.Namespace) -> None:
    root, wanted = _wanted(args)
    found = leftovers(
        root,
        time.time(),
        args.older_than_days,
        args.unused_days,
        {fingerprint(made_from) for made_from in wanted.values()},
        args.checkpoint_dir,
    )
    for leftover in found:
        kept = args.yes and not remove(leftover)
        note = "; kept, since a process has taken it up" if kept else ""
        print(f"{size(leftover.bytes):>10}  {leftover.path}  ({leftover.why}{note})")
    total = size(sum(leftover.bytes for leftover in found))
    if not found:
        print(f"Nothing in [{root}] needs to go.")
    else:
        print(f"{total} removed." if args.yes else f"{total} would go; add --yes to remove it.")


def _report(args: argparse.Namespace) -> None:
    write_report(args.results, args.output)
    print(args.output / "report.html")


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
    _add_housekeeping(commands)
    _add_report(commands)
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


def _add_housekeeping(commands: argparse._SubParsersAction) -> None:
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

    command = commands.add_parser(
        "stages", help="list the stored stages; with --model, why they would be reused or not"
    )
    _add_experiment(command)
    command.add_argument(
        "--verify", action="store_true", help="compare every file's hash, not only its size"
    )
    command.set_defaults(run=_stages)

    command = commands.add_parser(
        "clean", help="show what nothing uses of the stored stages, and with --yes remove it"
    )
    _add_experiment(command)
    command.add_argument("--yes", action="store_true", help="remove it; without, only show it")
    command.add_argument(
        "--older_than_days",
        type=float,
        default=7,
        help="unfinished stages go if untouched for so long and no process is at them (default: 7)",
    )
    command.add_argument(
        "--unused_days",
        type=float,
        default=None,
        help="finished stages go too if no run used them for so long and nothing that stays was "
        "made from them; those of the experiment given by --model stay (default: all stay)",
    )
    command.add_argument(
        "--checkpoint_dir", type=Path, default=Path("saved"), help="RecBole's checkpoint_dir"
    )
    command.set_defaults(run=_clean)


def _add_experiment(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tslrec_dir", type=Path, default=None, help="default: saved/tslrec")
    command.add_argument("--model", default=None, help="an experiment's model")
    command.add_argument("--dataset", default=None, help="an experiment's data set")
    command.add_argument("--config_files", default=None, help="yaml files, separated by spaces")


def _add_report(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "report", help="tables, tests and pictures from a grid's kept results"
    )
    command.add_argument(
        "--results", required=True, type=Path, help="the folder a grid has written"
    )
    command.add_argument("--output", required=True, type=Path, help="where to write the report")
    command.set_defaults(run=_report)


if __name__ == "__main__":
    main()
