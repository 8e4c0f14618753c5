"""What all commands share: how they end on Ctrl-C and on what the user gave, and their help."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from recbole_tslrec.config.refusals import is_refusal, keep_traceback

PROGRAM = "recbole_tslrec"
_DEBUG = "--debug"


class Refused(SystemExit):
    """The end of a command on what the user gave: exit code 2, the line is printed already."""

    def __init__(self, line: str):
        super().__init__(line)
        self.code = 2


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Names an option's default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ""):
            return action.help
        return super()._get_help_string(action)


def add_command(
    commands: argparse._SubParsersAction, name: str, summary: str, more: str = "", **options
) -> argparse.ArgumentParser:
    """Declare a command.

    Args:
        summary: what it does, for the list of commands and the top of its own help.
        more: sentences for its own help alone.
        **options: as argparse's parsers take them.
    """
    sentence = f"{summary[0].upper()}{summary[1:]}."
    return commands.add_parser(
        name, help=summary, description=f"{sentence} {more}".strip(), **options
    )


def add_data_path(parser: argparse.ArgumentParser) -> None:
    """The option of commands that open a trained model."""
    parser.add_argument(
        "--data_path",
        type=Path,
        help="the folder in which the data set's folder lies (default: as in training)",
    )


def check_is_file(option: str, path: Path, read_once: bool = False) -> None:
    """Raise an error that names the option where no file is that can be read.

    Args:
        read_once: whether it is read once, from end to end, so that a pipe will do: ``<(…)`` of a shell.

    Raises:
        FileNotFoundError: there is none, or a folder.
        ValueError: it is a pipe, and would be empty when it is read again.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"--{option}: there is no file [{path}]. Give the path of one.")
    if not (read_once or path.is_file()):
        raise ValueError(
            f"--{option}: [{path}] is a pipe or a device, and is read more than once. Give the path of "
            f"a file."
        )


def listed(text: str, known: Collection[str] = ()) -> list[str]:
    """What stands between commas; a known token that has commas in it is one."""
    return [text] if text in known else [part for part in text.split(",") if part]


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Declare ``--debug`` for the help; :func:`command_line` reads it, and leaves RecBole no trace."""
    parser.add_argument(
        _DEBUG, action="store_true", help="show the traceback of what is refused, too"
    )


def command_line(command: Callable[[], None], name: str | None = None) -> Callable[[], None]:
    """A command that ends with one line where its user is to do something.

    On Ctrl-C the line says how to go on, with exit code 130. What :func:`is_refusal` tells from a bug
    is one line with exit code 2; its traceback goes into the log file, and to the screen under
    ``--debug``. Bugs keep theirs. Where nobody reads on, as behind ``| head``, it ends with exit code 1
    and no word. What standard output cannot encode is escaped there.

    Args:
        command: what runs.
        name: what the line begins with; the first word of the command line if it is not given.
    """

    @functools.wraps(command)
    def run() -> None:
        debug = _DEBUG in sys.argv
        sys.argv = [argument for argument in sys.argv if argument != _DEBUG]
        called = name or next(iter(sys.argv[1:]), "")
        if hasattr(sys.stdout, "reconfigure"):  # standard error does so already
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            command()
            if not _is_read():
                sys.exit(1)
        except SystemExit:  # a help ends so, too
            if not _is_read():
                raise SystemExit(1) from None
            raise
        except KeyboardInterrupt as stop:
            print(f"\nStopped. {stop}".rstrip(), file=sys.stderr, flush=True)
            logging.shutdown()
            _is_read()  # os._exit leaves what is on its way where it is
            # At once: files and locks are given back by now, and unloading torch and ray takes
            # seconds in which a second Ctrl-C would only make noise.
            os._exit(130)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and not _is_read("\n"):
                raise SystemExit(1) from None
            if debug or not is_refusal(error):
                raise
            keep_traceback(error)
            _is_read()
            raise _refused(called, error) from None

    return run


def _is_read(more: str = "") -> bool:
    """Whether somebody reads what is on its way to standard output; if not, more of it goes nowhere."""
    try:
        print(more, end="", flush=True)
    except BrokenPipeError:
        # Or Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _refused(name: str, error: Exception) -> Refused:
    """Print the one line of an error, and give the exit to be raised."""
    line = f"{name}: {' '.join(str(error).splitlines()) or type(error).__name__}"
    print(line, file=sys.stderr, flush=True)
    return Refused(line)
