"""The page: its contents as json in a template of HTML, CSS and a script."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jinja2

from recbole_tslrec.recbole_bridge.trained_model import load_trained_model
from recbole_tslrec.recommendation.explore.contents import (
    USERS,
    check_known_data,
    check_pair,
    contents_of,
)
from recbole_tslrec.store.files import check_output, write_atomically


def write_page(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    beside: str | os.PathLike | None = None,
    n_users: int = USERS,
    device: str = "cpu",
    data_path: str | os.PathLike | None = None,
    allow_new_data: bool = False,
    llm_trust_remote_code: bool = False,
    show_progress: bool = False,
) -> None:
    """Write one self-contained page of HTML on a trained model, or on two of the same data set.

    Args:
        checkpoint: the trained model; its data set must be there.
        output: the page's file.
        beside: another trained model, to stand beside the first.
        n_users: the most test users on the page; of more, a sample.
        device: where the models work, as torch calls it.
        data_path: the folder in which the data set's own folder lies; None: as in training.
        allow_new_data: whether the data may have other interactions than the models were trained
            with. Their metrics may then be of what they were trained on.
        llm_trust_remote_code: whether Python code that comes with a language model may run.
        show_progress: whether to draw progress bars.

    Raises:
        FileNotFoundError: a checkpoint, its data set, or the folder to write into is not there.
        ValueError: a checkpoint is refused, the two are of other data, or the catalogue is too large.
    """
    if n_users < 1:
        raise ValueError(f"n_users: [{n_users}] is not a whole number, 1 or larger.")
    files = [checkpoint] if beside is None else [checkpoint, beside]
    check_output(output, files)
    trained = [
        load_trained_model(
            file, device, data_path=data_path, llm_trust_remote_code=llm_trust_remote_code
        )
        for file in files
    ]
    check_pair(trained)
    check_known_data(trained, allow_new_data)
    contents = contents_of(trained, n_users, show_progress)
    text = page(contents)
    write_atomically(Path(output).resolve(), lambda file: file.write_text(text, encoding="utf-8"))


def page(contents: dict[str, Any]) -> str:
    """The page of such contents as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    names = " beside ".join(model["name"] for model in contents["models"])
    n_users, n_items = len(contents["users"]["token"]), len(contents["items"]["token"])
    of_users = f"{n_users:,} of {contents['n_test_users']:,} test users"
    return environment.get_template("page.html").render(
        title=f"{contents['dataset']}: {names}",
        summary=f"{of_users}, {n_items:,} items. Recommendations are for the test: of items that a user "
        f"had not had, after all that came before the held-out one.",
        contents=_as_script(contents),
    )


def _as_script(contents: dict[str, Any]) -> jinja2.utils.markupsafe.Markup:
    """Json that may stand within a script element: nothing in it ends the element."""
    text = json.dumps(contents, ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return jinja2.utils.markupsafe.Markup(text)
