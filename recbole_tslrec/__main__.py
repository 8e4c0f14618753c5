"""``python -m recbole_tslrec <command>``: what goes beyond one RecBole run."""

from __future__ import annotations

import argparse
import functools
import sys

from recbole_tslrec import plug_in
from recbole_tslrec.commands import (
    checkpoints,
    compare,
    data,
    patches,
    recommend,
    results,
    run,
    stages,
    summaries,
)
from recbole_tslrec.commands.console import PROGRAM, HelpWithDefaults, add_debug, command_line
from recbole_tslrec.config.values import did_you_mean

# They run no experiment of RecBole's. Nor do stages and clean, unless one is given.
_WITHOUT_KEYS = (
    "import",
    "report",
    "fold",
    "convert",
    "patches",
    "recommend",
    "similar",
    "explore",
)


@command_line
def main() -> None:
    """Read the command; keys of the yaml files follow as ``--key=value``, as RecBole reads them."""
    if sys.argv[1:2] == ["run"]:  # RecBole's own command line follows
        del sys.argv[1]
        run.run_command(f"{PROGRAM} run")
        return
    parser, names = _parser()
    command = next(iter(sys.argv[1:]), "-")
    if command not in names and not command.startswith("-"):
        raise ValueError(f"there is no such command. See --help.{did_you_mean(command, names)}")
    args, keys = parser.parse_known_args()
    if keys:
        _check(keys, args, parser)
    # RecBole's Config reads sys.argv itself: leave it the keys of the yaml files.
    sys.argv = [sys.argv[0], *keys]
    code = args.run(args)
    if code:
        sys.exit(code)


def _check(keys: list[str], args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what the command's options left over if it is no key that it would read."""
    without_experiment = args.command in ("stages", "clean") and args.model is None
    if without_experiment or args.command in _WITHOUT_KEYS:
        parser.error(f"{args.command} has no {' '.join(keys)}; see {args.command} --help")
    plug_in()
    from recbole_tslrec.config.spelling import check_arguments

    check_arguments(keys, vars(args))


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The program's parser, and the names of its commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="What goes beyond one RecBole run. Each command has its own --help.",
    )
    # No abbreviations: RecBole's --seed is not short for --seeds.
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        parser_class=functools.partial(
            argparse.ArgumentParser,
            allow_abbrev=False,
            formatter_class=HelpWithDefaults,
        ),
    )
    commands.add_parser("run", help="one experiment with RecBole's command line; see run --help")
    for group in (compare, recommend, results, data, checkpoints, stages, summaries, patches):
        group.add(commands)
    for command in commands.choices.values():
        add_debug(command)
    return parser, list(commands.choices)


if __name__ == "__main__":
    main()
