"""A report as text, tables and pictures, written as Markdown, as one page of HTML, and as CSV."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd
from tabulate import tabulate

from recbole_tslrec.store.store import write_atomically

BEST, SECOND = "best", "second"


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Attributes:
        mark: ``BEST`` (bold), ``SECOND`` (underlined) or nothing.
        below: small text in a line of its own.
    """

    text: str
    mark: str = ""
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table and the numbers behind it.

    Attributes:
        name: of its CSV file.
        caption: what it shows and how to read it.
        made: how its numbers were made, a line each.
        columns: (group, column), side by side; columns without a group have an empty one.
        rows: as many entries as there are columns.
        numbers: what the CSV holds, in full precision.
    """

    name: str
    title: str
    caption: str
    made: list[str]
    columns: list[tuple[str, str]]
    rows: list[list[Entry]]
    numbers: pd.DataFrame

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of the columns and how many columns each spans; none if no column has one."""
        groups: list[tuple[str, int]] = []
        for group, _ in self.columns:
            if groups and groups[-1][0] == group:
                groups[-1] = (group, groups[-1][1] + 1)
            else:
                groups.append((group, 1))
        return groups if any(group for group, _ in groups) else []


@dataclass(frozen=True)
class Picture:
    """A picture and the numbers behind it; ``name`` is that of its PNG and its CSV file."""

    name: str
    title: str
    caption: str
    made: list[str]
    png: bytes
    numbers: pd.DataFrame


@dataclass
class Section:
    """A heading and what stands below it: a paragraph, a list of points, a table or a picture."""

    title: str
    blocks: list[str | list[str] | Table | Picture] = field(default_factory=list)


@dataclass
class Document:
    title: str
    sections: list[Section]

    def write(self, folder: Path) -> None:
        """Write ``report.md``, ``report.html``, the pictures and the CSV files into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, (Table, Picture)):
                    _write(folder / f"{block.name}.csv", block.numbers.to_csv(index=False))
                if isinstance(block, Picture):
                    _write(folder / f"{block.name}.png", block.png)
        _write(folder / "report.md", self.markdown())
        _write(folder / "report.html", self.html())

    def markdown(self) -> str:
        """GitHub's Markdown; the pictures are files beside it."""
        parts = [f"# {_escape(self.title)}"]
        for section in self.sections:
            parts.append(f"## {_escape(section.title)}")
            parts += [_markdown_block(block) for block in section.blocks]
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """One page that asks for nothing else: the pictures are inside."""
        environment = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        environment.filters["kind"] = _kind
        environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
        return environment.from_string(_PAGE).render(document=self, style=_STYLE)


def _write(path: Path, content: str | bytes) -> None:
    content = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _kind(block: str | list[str] | Table | Picture) -> str:
    return {str: "text", list: "points", Table: "table", Picture: "picture"}[type(block)]


def _markdown_block(block: str | list[str] | Table | Picture) -> str:
    if isinstance(block, str):
        return _escape(block)
    if isinstance(block, list):
        return "\n".join(f"* {_escape(point)}" for point in block)
    if isinstance(block, Picture):
        body = f"![{_escape(block.title)}]({quote(block.name)}.png)"
    else:
        headers = [
            f"{_escape(group)}<br>{_escape(column)}" if group else _escape(column)
            for group, column in block.columns
        ]
        rows = [[_markdown_entry(entry) for entry in row] for row in block.rows]
        body = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    made = "\n".join(f"* {_escape(line)}" for line in [*block.made, f"Numbers: {block.name}.csv"])
    details = f"<details><summary>How this was made</summary>\n\n{made}\n\n</details>"
    return f"### {_escape(block.title)}\n\n{body}\n\n{_escape(block.caption)}\n\n{details}"


def _markdown_entry(entry: Entry) -> str:
    text = _escape(entry.text)
    # GitHub takes <u> out, and shows <ins> underlined.
    text = {BEST: f"**{text}**", SECOND: f"<ins>{text}</ins>"}.get(entry.mark, text)
    return f"{text}<br><sub>{_escape(entry.below)}</sub>" if entry.below else text


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text).replace(">", "&gt;")


def entries(values: Sequence[str]) -> list[Entry]:
    """A row of plain texts."""
    return [Entry(value) for value in values]


_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 2.5rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; white-space: nowrap;
         border-bottom: 1px solid #ddd; vertical-align: top; }
thead th { border-bottom: 1px solid #888; } th[colspan] { text-align: center; }
tr.first td { border-top: 1px solid #888; }
small { color: #555; } u { text-underline-offset: .15em; }
img { display: block; width: 100%; max-width: 60rem; min-width: 36rem; height: auto; }
details { font-size: .85rem; color: #444; } summary { cursor: pointer; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ document.title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1>{{ document.title }}</h1>
{% for section in document.sections %}
<h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block | kind == "text" %}
<p>{{ block }}</p>
{% elif block | kind == "points" %}
<ul>
{% for point in block %}
<li>{{ point }}</li>
{% endfor %}
</ul>
{% else %}
<h3>{{ block.title }}</h3>
<div class="wide">
{% if block | kind == "picture" %}
<img alt="{{ block.title }}. {{ block.caption }}" src="data:image/png;base64,{{ block.png | base64 }}">
{% else %}
<table>
<thead>
{% if block.groups %}
<tr>{% for group, span in block.groups %}<th colspan="{{ span }}">{{ group }}</th>{% endfor %}</tr>
{% endif %}
<tr>{% for _, column in block.columns %}<th>{{ column }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in block.rows %}
<tr{% if row[0].text and not loop.first %} class="first"{% endif %}>
{%- for entry in row -%}
<td>
{%- if entry.mark == "best" %}<b>{{ entry.text }}</b>
{%- elif entry.mark == "second" %}<u>{{ entry.text }}</u>
{%- else %}{{ entry.text }}{% endif %}
{%- if entry.below %}<br><small>{{ entry.below }}</small>{% endif -%}
</td>
{%- endfor -%}
</tr>
{% endfor %}
</tbody>
</table>
{% endif %}
</div>
<p>{{ block.caption }}</p>
<details><summary>How this was made</summary>
<ul>
{% for line in block.made %}
<li>{{ line }}</li>
{% endfor %}
<li>Numbers: {{ block.name }}.csv</li>
</ul>
</details>
{% endif %}
{% endfor %}
{% endfor %}
</body>
</html>
"""
