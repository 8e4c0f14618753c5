"""What all commands share: how they end on Ctrl-C and on what the user gave, and their help."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import linecache
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_DEBUG = "--debug"
_OURS = Path(__file__).resolve().parents[1]
# Found, not imported: the help need not wait for RecBole and torch.
_RECBOLE = Path(importlib.util.find_spec("recbole").origin).resolve().parent
_RECBOLES_CONFIG = _RECBOLE / "config"


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


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Declare ``--debug`` for the help; :func:`command_line` reads it, and leaves RecBole no trace."""
    parser.add_argument(
        _DEBUG, action="store_true", help="show the traceback of what is refused, too"
    )


def command_line(command: Callable[[], None], name: str | None = None) -> Callable[[], None]:
    """A command that ends with one line where its user is to do something.

    On Ctrl-C the line says how to go on, with exit code 130. What :func:`is_refusal` tells from a bug
    is one line with exit code 2; its traceback goes into the log file, and to the screen under
    ``--debug``. Bugs keep theirs.

    Args:
        command: what runs.
        name: what the line begins with; the first word of the command line if it is not given.
    """

    @functools.wraps(command)
    def run() -> None:
        debug = _DEBUG in sys.argv
        sys.argv = [argument for argument in sys.argv if argument != _DEBUG]
        called = name or next(iter(sys.argv[1:]), "")
        try:
            command()
        except KeyboardInterrupt as stop:
            print(f"\nStopped. {stop}".rstrip(), file=sys.stderr, flush=True)
            logging.shutdown()
            sys.stdout.flush()
            # At once: files and locks are given back by now, and unloading torch and ray takes
            # seconds in which a second Ctrl-C would only make noise.
            os._exit(130)
        except Exception as error:
            if debug or not is_refusal(error):
                raise
            _keep_traceback(error)
            raise _refused(called, error) from None

    return run


def _refused(name: str, error: Exception) -> Refused:
    """Print the one line of an error, and give the exit to be raised."""
    line = f"{name}: {' '.join(str(error).splitlines()) or type(error).__name__}"
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    return Refused(line)


def is_refusal(error: BaseException) -> bool:
    """Whether an error is of what the user gave, or of the machine, and says so itself.

    That is one that we or RecBole raise on purpose, what goes wrong while RecBole reads its settings, a
    package that is missing, and what the operating system says of a file. An error from inside torch,
    or on a line that is no ``raise``, is a bug.
    """
    if isinstance(error, ModuleNotFoundError) or (
        isinstance(error, OSError) and error.errno is not None
    ):
        return True
    file, line = _origin(error.__traceback__)
    if _RECBOLES_CONFIG in file.parents:
        return True
    on_purpose = line.startswith("raise ") and not {_OURS, _RECBOLE}.isdisjoint(file.parents)
    return on_purpose and isinstance(error, (ValueError, OSError, RuntimeError, ImportError))


def _origin(trace: TracebackType | None) -> tuple[Path, str]:
    """The file in which an error was raised, and the line."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return Path(), ""
    last = frames[-1]
    return Path(last.filename).resolve(), linecache.getline(last.filename, last.lineno or 0).strip()


def _keep_traceback(error: Exception) -> None:
    """Write the traceback into the log file, if RecBole has opened one."""
    told = "".join(traceback.format_exception(error))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.makeLogRecord({"msg": told, "levelno": logging.ERROR} | _NAMED))


_NAMED = {"levelname": "ERROR", "name": "recbole_tslrec"}
