"""A report is written once, as Markdown from a template; its one page of HTML is that, rendered."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jinja2
import pandas as pd
from markdown_it import MarkdownIt

from recbole_tslrec.config.built_in import built_in
from recbole_tslrec.config.key import KEYS
from recbole_tslrec.experiments.run.tables import seeds_text
from recbole_tslrec.store.files import write_atomically

# Keys whose value tells the cells of one table apart by intent.
_VARYING = ("seed", "enhancement", "enhanced_items", "backbone_checkpoint")


@dataclass(frozen=True)
class Block:
    """A table or a picture; title and caption are the template's.

    Attributes:
        name: of its files.
        numbers: what its CSV file holds, in full precision.
        cells: those that it is of, rows of ``Results.cells``.
        table: its texts, Markdown; None for a picture.
        png: the picture.
    """

    name: str
    numbers: pd.DataFrame
    cells: pd.DataFrame
    table: pd.DataFrame | None = None
    png: bytes | None = None

    def markdown(self, title: str) -> str:
        """The table, or the link to the picture."""
        if self.table is None:
            return f"![{escape(title)}]({quote(self.name)}.png)"
        return self.table.to_markdown(index=False, disable_numparse=True, tablefmt="github")

    def made(self) -> list[str]:
        """How the numbers came about: seeds, settings, machines, versions, commands."""
        seeds, cells = sorted(set(self.cells["seed"])), self.cells
        versions = {", ".join(map(" ".join, one.items())) for one in cells["versions"]}
        return [
            f"{seeds_text(len(seeds))}: {', '.join(map(str, seeds))}",
            f"Settings: {_settings_text(cells)}",
            f"Machine: {'; '.join(sorted(set(cells['machine'])))}",
            f"Versions: {'; '.join(sorted(versions))}",
            *(f"Made by: {command}" for command in _commands(cells["command"])),
        ]

    def write(self, folder: Path) -> None:
        """Write the picture and the numbers."""
        as_text = self.numbers.map(lambda v: json.dumps(v) if isinstance(v, dict | list) else v)
        _write(folder / f"{self.name}.csv", as_text.to_csv(index=False).encode())
        if self.png is not None:
            _write(folder / f"{self.name}.png", self.png)


def _commands(given: Iterable[str]) -> list[str]:
    """Each once, in whatever order its options stood."""
    by_options: dict[tuple[str, ...], str] = {}
    for command in sorted(set(given)):
        start, *options = re.split(r"\s+(?=--)", command)
        by_options.setdefault((start, *sorted(options)), command)
    return list(by_options.values())


def escape(text: Any) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = re.sub(r"\s+", " ", str(text)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text).replace(">", "&gt;")


def render(template: str, **values: Any) -> str:
    """A template of this package as Markdown; what it is given is escaped unless marked safe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, _Safe) else escape(value),
    )
    environment.filters["safe"] = _Safe
    text = environment.get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


class _Safe(str):
    """Markdown."""


def page(markdown: str, picture: Callable[[str], bytes]) -> str:
    """One page of HTML that asks for nothing else: the pictures are inside.

    Args:
        markdown: may hold HTML.
        picture: the content of a picture by its file's name.
    """
    parser = MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable("table")
    tokens = parser.parse(markdown)
    for image in (one for token in tokens for one in token.children or () if one.type == "image"):
        content = base64.b64encode(picture(unquote(image.attrs["src"]))).decode()
        image.attrs["src"] = f"data:image/png;base64,{content}"
    body = parser.renderer.render(tokens, parser.options, {})
    title = re.search("<h1>(.*)</h1>", body)[1]
    frame = jinja2.Environment(loader=jinja2.PackageLoader(__package__)).get_template("page.html")
    return frame.render(title=title, body=body)


def write_document(folder: Path, markdown: str, blocks: list[Block]) -> None:
    """Write ``report.md``, ``report.html``, the pictures and the CSV files into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        block.write(folder)
    pictures = {f"{block.name}.png": block.png for block in blocks}
    _write(folder / "report.md", markdown.encode())
    _write(folder / "report.html", page(markdown, pictures.__getitem__).encode())


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _settings_text(cells: pd.DataFrame) -> str:
    """What was given, then the values that differ, with how many cells have which.

    Of RecBole's keys only those that were given: the rest are its defaults for the model and data.
    """
    given = {key for settings in cells["settings"] for key in settings}
    shown = (given | KEYS.keys() | {*built_in().keys}) - set(_VARYING)
    values: dict[str, Counter] = {}
    for effective in cells["effective"]:
        for key, value in effective.items():
            if key in shown:
                values.setdefault(key, Counter())[value] += 1
    shared, differing = [], []
    for key, counts in sorted(values.items()):
        if len(counts) > 1:
            each = ", ".join(f"{value} ({n} cells)" for value, n in counts.most_common())
            differing.append(f"{key}: {each}")
        elif key in given:
            shared.append(f"{key}: {next(iter(counts))}")
    text = f"given: {', '.join(shared) or 'none'}"
    text += f". Differing: {'; '.join(differing)}" if differing else ""
    return f"{text}. Every value of every cell: cells.csv"
