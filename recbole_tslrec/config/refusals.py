"""What a command refuses, told from a bug: the one is a line on the screen, the other a traceback."""

from __future__ import annotations

import importlib.util
import linecache
import logging
import traceback
from pathlib import Path
from types import TracebackType

_OURS = Path(__file__).resolve().parents[1]
# Found, not imported: the help need not wait for RecBole and torch.
_RECBOLE = Path(importlib.util.find_spec("recbole").origin).resolve().parent
_RECBOLES_CONFIG = _RECBOLE / "config"
_NAMED = {"levelname": "ERROR", "name": "recbole_tslrec"}  # what RecBole's formatter asks for


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


def tell_failure(what: str, error: Exception) -> None:
    """Say that something failed, while others go on: a refusal in one line, a bug with its traceback.

    The traceback of a refusal goes into the log file.
    """
    if is_refusal(error):
        keep_traceback(error)
    else:
        logging.getLogger(__name__).error(f"{what} failed.", exc_info=error)
    print(f"{what}, failed: {error}", flush=True)


def keep_traceback(error: Exception) -> None:
    """Write the traceback into the log file, if RecBole has opened one."""
    told = "".join(traceback.format_exception(error))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logging.makeLogRecord({"msg": told, "levelno": logging.ERROR} | _NAMED))
