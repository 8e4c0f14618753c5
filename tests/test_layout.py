"""The house by rooms: imports point one way, and few rooms know RecBole or transformers."""

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "recbole_tslrec"

# Each room may import those before it. Only the package itself and `__main__` stand above the last.
ROOMS = (
    "store",
    "config",
    "data",
    "backbones",
    "evaluation",
    "language_model",
    "stages",
    "recbole_bridge",
    "paradigms",
    "recommendation",
    "experiments",
    "commands",
)
MOST_LINES = {"file": 400, "class": 200, "function": 60}


def modules() -> dict[str, Path]:
    """The package's files by dotted name."""
    return {
        ".".join(file.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def imported(file: Path) -> set[str]:
    """The modules that a file imports when it runs, also within functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
    return names


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "recbole_tslrec" else None


def test_every_file_is_in_a_room():
    loose = {name for name in modules() if room(name) not in ROOMS}
    assert loose == {"recbole_tslrec", "recbole_tslrec.__main__"}


def test_imports_point_one_way():
    upward = [
        f"{name} imports {other}"
        for name, file in modules().items()
        for other in imported(file)
        if room(name) in ROOMS
        and room(other) in ROOMS
        and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not upward


def test_the_language_model_knows_nothing_of_recbole():
    """A second RecBole is then a second bridge, and what reads its data."""
    for name, file in modules().items():
        if room(name) == "language_model":
            assert not [other for other in imported(file) if other.split(".")[0] == "recbole"], name


def test_one_room_alone_imports_transformers():
    allowed = {"language_model"}
    for name, file in modules().items():
        if room(name) not in allowed:
            packages = {other.split(".")[0] for other in imported(file)}
            assert not packages & {"transformers", "peft", "bitsandbytes"}, name


def test_no_two_modules_import_each_other():
    graph = {name: imported(file) & modules().keys() for name, file in modules().items()}
    circles = [(one, two) for one in graph for two in graph[one] if one in graph[two]]
    assert not [pair for pair in circles if "recbole_tslrec" not in pair]


def test_a_paradigm_is_imported_by_nothing_below_the_experiments():
    below = ROOMS[: ROOMS.index("paradigms")]
    for name, file in modules().items():
        if room(name) in below:
            assert not [other for other in imported(file) if room(other) == "paradigms"], name


def test_a_paradigm_does_without_the_others():
    def paradigm(module: str) -> str | None:
        parts = module.split(".")
        return parts[2] if room(module) == "paradigms" and len(parts) > 2 else None

    pairs = {
        (paradigm(name), paradigm(other))
        for name, file in modules().items()
        if paradigm(name)
        for other in imported(file)
        if paradigm(other)
    }
    assert {pair for pair in pairs if pair[0] != pair[1]} == {
        ("pod", "p5")
    }  # POD writes P5's codes


@pytest.mark.parametrize("name", modules())
def test_no_file_class_or_function_is_long(name):
    text = modules()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES["file"], f"{name} has {len(text.splitlines())}"
    for node in ast.walk(ast.parse(text)):
        kind = {ast.ClassDef: "class", ast.FunctionDef: "function"}.get(type(node))
        if kind:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MOST_LINES[kind], f"{name}: {node.name} has {lines} lines"
