"""Writes the yaml files, the page of keys and the list of names (``make keys``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from recbole_tslrec.config import built_in
from recbole_tslrec.config.built_in import BuiltIn
from recbole_tslrec.config.key import Effect, Key, as_yaml
from recbole_tslrec.config.keys import TRAINING_GROUPS
from recbole_tslrec.recbole_bridge.config_files import properties_folder
from recbole_tslrec.recbole_bridge.paradigm import (
    PARADIGMS,
    Variant,
    chain,
    staged_models,
    table_rows,
    variants,
)

_CHANGES = {
    Effect.VALUE: "the result",
    Effect.FILE: "the result, by the file's content",
    Effect.MODEL: "the result, by the model's files",
    Effect.NOTHING: "where or how, not the result",
}


_OVERALL = """Keys that the plug-in adds to every sequential model, RecBole's own among them.
Written by `make keys` from the declarations in the code."""


def yaml_files() -> dict[Path, str]:
    """What each paradigm's yaml is to hold."""
    overall = {properties_folder() / "overall.yaml": as_yaml(_OVERALL, TRAINING_GROUPS)}
    return overall | {
        properties_folder() / f"{name}.yaml": as_yaml(paradigm.heading, paradigm.keys)
        for name, paradigm in PARADIGMS.items()
    }


def page() -> str:
    """``docs/keys.md``: every key, what it takes, what it can change, and who reads it."""
    parts = [
        "# Keys",
        "",
        "Every key of ours, by the paradigm whose models have it. Written by `make keys` from the "
        "declarations in the code. RecBole's own keys are in RecBole's documentation.",
        "",
        "What a key means stands beside it in `properties/<paradigm>.yaml`; of the first table in "
        "`properties/overall.yaml`.",
        "",
        "* *can change*: whether another value makes another result, and so another stage or cell.",
        "* *read by*: the stages, and the rows of `compare`, whose result depends on the key.",
        "",
        "## Every sequential model",
        "",
        _table([_row(key) for group in TRAINING_GROUPS for key in group.keys]),
    ]
    for name, paradigm in PARADIGMS.items():
        rows = [
            [*_row(key), ", ".join(_readers(name, key.name))]
            for group in paradigm.keys
            for key in group.keys
        ]
        parts += ["", f"## {name}", "", _table(rows)]
    return "\n".join(parts) + "\n"


def _row(key: Key) -> list[str]:
    default = "`~`" if key.default is None else f"`{key.default}`"
    return [f"`{key.name}`", default, key.values.expected, _CHANGES[key.effect]]


def _table(rows: list[list[str]]) -> str:
    headers = ["key", "default", "takes", "can change", "read by"]
    return tabulate(rows, headers[: len(rows[0])], tablefmt="github")


def names() -> BuiltIn:
    """``config/built_in.json``: what is known without RecBole."""
    stages = {stage.name for row in variants().values() for stage in chain(row.stages)}
    stages |= {model.lower() for model in staged_models()}
    keys = {key for paradigm in PARADIGMS.values() for key in paradigm.defaults()}
    return BuiltIn(tuple(table_rows().values()), tuple(sorted(stages)), tuple(sorted(keys)))


def _readers(paradigm: str, key: str) -> list[str]:
    """The stages of a paradigm that read a key, and its rows of a comparison that do so themselves.

    POD's codes may be made of a backbone though none of its rows does: then the stages of others count.
    """
    rows = PARADIGMS[paradigm].variants
    names = _stages_that_read(key, rows) + [row.name for row in rows if key in row.keys]
    return list(dict.fromkeys(names or _stages_that_read(key, variants().values()))) or ["all"]


def _stages_that_read(key: str, rows: Iterable[Variant]) -> list[str]:
    stages = dict.fromkeys(stage for row in rows for stage in chain(row.stages))
    return [stage.name for stage in stages if key in stage.keys]


def main() -> None:
    """Write them."""
    docs = properties_folder().parent / "docs" / "keys.md"
    for path, text in {**yaml_files(), docs: page(), built_in.FILE: names().as_json()}.items():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
