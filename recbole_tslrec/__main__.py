"""``python -m recbole_tslrec <command>``: what goes beyond one RecBole run."""

from __future__ import annotations

import argparse
import sys

from recbole_tslrec.experiments.comparison import compare


def main() -> None:
    """Read the command; keys of the yaml files follow as ``--key=value``, as RecBole reads them."""
    parser = argparse.ArgumentParser(prog="recbole_tslrec", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    comparison = commands.add_parser(
        "compare", help="train Base, CI and TSLRec of one backbone and print one table"
    )
    comparison.add_argument(
        "--backbone", default="SASRec", help="GRU4Rec, Caser, SASRec or FMLPRec"
    )
    comparison.add_argument("--dataset", default="ml-100k", help="name of the data set")
    comparison.add_argument("--config_files", default=None, help="yaml files, separated by spaces")
    args, keys = parser.parse_known_args()
    # RecBole's Config reads sys.argv itself: leave it the keys of the yaml files.
    sys.argv = [sys.argv[0], *keys]
    files = args.config_files.strip().split(" ") if args.config_files else None
    print(compare(args.backbone, args.dataset, files).table())


if __name__ == "__main__":
    main()
