"""Files of users and histories: what they hold, which line is broken; and where results are written."""

from pathlib import Path

import pandas as pd
import pytest

from recbole_tslrec.recommendation.output import write_tables
from recbole_tslrec.recommendation.requests import read_histories, read_users

HISTORIES = {"a": ["1", "2"], "b": ["3"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "a 1 2\nb\t3\n"),
        ("lines.jsonl", '{"user": "a", "history": ["1", 2]}\n{"user": "b", "history": ["3"]}'),
    ],
)
def test_both_forms_of_histories(name, text):
    Path(name).write_text(text)
    assert read_histories(Path(name)) == HISTORIES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("h.txt", "a 1\nb\n", r"h.txt, line 2: \[b\] is not a name and items"),
        ("h.txt", "a 1\n\nb 1\n", r"h.txt, line 2: \[\] is not"),
        ("h.txt", "a 1\na 2\n", r"h.txt, line 2: \[a\] has line 1 already"),
        ("h.txt", "", "h.txt: has no histories"),
        (
            "h.jsonl",
            '{"user": "a", "history": ["1"]}\n{"user": "b"',
            r"h.jsonl, line 2: \[\{\"user",
        ),
        ("h.jsonl", '{"user": "a", "history": []}', "h.jsonl, line 1: "),
        ("h.jsonl", '{"user": 1, "history": ["1"]}', "h.jsonl, line 1: "),
        ("h.jsonl", '["a", "1"]', "h.jsonl, line 1: "),
        ("h.jsonl", '{"user": "a", "history": ["1", null]}', "h.jsonl, line 1: "),
        ("h.jsonl", '{"user": "a", "history": [true]}', "h.jsonl, line 1: "),
        ("h.jsonl", '{"user": "a", "history": [1.5]}', "h.jsonl, line 1: "),
        ("h.jsonl", "[" * 100_000, "h.jsonl, line 1: "),
        ("h.txt", b"a 1\nb \xff\n", "h.txt, line 2: not UTF-8"),
    ],
)
def test_a_broken_line_is_named(name, text, message):
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^{message}"):
        read_histories(Path(name))


def test_users_are_lines():
    Path("users.txt").write_text("a\nb c\n")
    assert read_users(Path("users.txt")) == ["a", "b c"]
    for text, message in (("a\n\n", "line 2: there is no user"), ("", "has no users")):
        Path("users.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_users(Path("users.txt"))


def test_a_link_is_written_through(tmp_path):
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    link.symlink_to(real)
    assert write_tables([pd.DataFrame({"item": ["a"]})], link) == 1
    assert link.is_symlink() and real.read_text() == "item\na\n"
