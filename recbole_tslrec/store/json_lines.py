"""A file of one JSON object a line, to which several processes append, whatever kills them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from filelock import FileLock


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """A file's lines, and what stands after the last of them: half a line, or nothing.

    A last JSON object that only lacks its newline, as an editor may leave it, is a line. Takes no lock
    and writes nothing.
    """
    *lines, last = path.read_bytes().split(b"\n")
    return ([*lines, last], b"") if _is_object(last) else (lines, last)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object a line, to which several processes append.

    Attributes:
        path: the file.
        key: the entry that tells the objects apart.
        check: raises ValueError for an object that is not as it is written; told file and line.
    """

    path: Path
    key: str
    check: Callable[[Mapping[str, Any], str], None]

    def read(self) -> dict[str, dict[str, Any]]:
        """The objects by their key, the last of each; writes nothing.

        Half a line at the end is of a run that was killed, or is being written: left out.

        Raises:
            ValueError: a line is not such an object, or an entry of another type; says which.
        """
        if not self.path.is_file():
            return {}
        lines = {}
        for number, line in enumerate(read_lines(self.path)[0], start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
                lines[content[self.key]] = content
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"[{self.path}], line {number}, is not an object with [{self.key}]. Remove the "
                    f"line; what it stood for is then done again."
                ) from error
            self.check(content, f"[{self.path}], line {number}")
        return lines

    def append(self, content: dict[str, Any]) -> None:
        """Add an object and flush it to disk."""
        line = (json.dumps(content, ensure_ascii=False) + "\n").encode()
        with self._locked():
            _append(self.path, self._closed_end() + line)

    def _closed_end(self) -> bytes:
        """What the next line needs before it. Half a line is moved to a file beside this one.

        Under the lock it can only be a dead process's.
        """
        if not self.path.is_file():
            return b""
        _, half = read_lines(self.path)
        if not half.strip():
            return b"" if self.path.read_bytes()[-1:] in (b"", b"\n") else b"\n"
        dropped = self.path.with_name(f"{self.path.name}.dropped")
        _append(dropped, half + b"\n")
        os.truncate(self.path, self.path.stat().st_size - len(half))
        getLogger(__name__).warning(
            f"[{self.path}] ended in a half-written line, of a run that was killed: it is in "
            f"[{dropped}] now."
        )
        return b""

    def _locked(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))


def _append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
