"""The house is as docs/design.md draws it: every file has its place, and imports point one way."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "recbole_tslrec"


def modules() -> dict[str, Path]:
    """The package's modules by dotted name, without the package's own."""
    files = [file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"]
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}


def drawn() -> list[str]:
    """The modules in the order of the list in docs/design.md."""
    text = (TOP / "docs" / "design.md").read_text(encoding="utf-8")
    listing = re.search(r"never the reverse\.\n\n```\n(.*?)```", text, re.DOTALL)[1]
    names, folder = [], ""
    for line in listing.splitlines():
        head, _, rest = line.partition(" ")
        if head.endswith(".py"):
            names += re.findall(r"(\w+)\.py", line)
            continue
        folder = head if head.endswith("/") else folder  # else the line goes on with the last one
        names += [f"{folder[:-1].replace('/', '.')}.{word}" for word in re.findall(r"\w+", rest)]
    return [name for name in dict.fromkeys(names) if name in modules()]


def imported(file: Path) -> set[str]:
    """The modules of the package that a file imports when it runs, also within functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            names |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return {name.removeprefix("recbole_tslrec.") for name in names} & modules().keys()


def test_every_file_has_its_place():
    assert sorted(drawn()) == sorted(modules())


def test_imports_point_one_way():
    place = {name: number for number, name in enumerate(drawn())}
    upward = [
        f"{name} imports {other}, which stands below it"
        for name, file in modules().items()
        for other in imported(file)
        if place[other] >= place[name]
    ]
    assert not upward
