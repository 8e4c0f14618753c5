"""``recommend`` and ``similar`` on the command line."""

import json
import os
import re
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from trained import make_toy

from recbole_tslrec import Recommender
from recbole_tslrec.__main__ import main
from recbole_tslrec.recommendation.output import write_tables


@pytest.fixture
def command(monkeypatch, capsys):
    toy = make_toy("SASRec")

    def run(name: str, *words: str) -> str:
        words = [name, f"--checkpoint={toy.checkpoint}", *words]
        monkeypatch.setattr(sys, "argv", ["recbole_tslrec", *words])
        main()
        return capsys.readouterr().out

    run.recommender = Recommender(toy.checkpoint)
    return run


def test_three_users_on_the_screen(command):
    printed = command("recommend", "--users=u1,u2,u3", "--k=2").splitlines()
    assert printed[0].split() == ["user", "rank", "item", "score", "title"]
    expected = command.recommender.recommend(["u1", "u2", "u3"], k=2)
    assert [line.split()[2] for line in printed[2:]] == expected["item"].tolist()
    assert expected["title"][0] in printed[2]


def test_tables_without_a_row_leave_no_line():
    rows = pd.DataFrame({"user": ["u1"], "item": ["i1"]})
    for name, expected in (
        ("a.csv", "user,item\nu1,i1\n"),
        ("a.jsonl", '{"user":"u1","item":"i1"}\n'),
    ):
        assert write_tables([rows[:0], rows, rows[:0]], Path(name)) == 1
        assert Path(name).read_text() == expected
    assert write_tables([rows[:0]], Path("none.jsonl")) == 0
    assert Path("none.jsonl").read_text() == ""


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_files_in_files_out(command, form):
    Path("h.jsonl").write_text('{"user": "new", "history": ["i1", "i2"]}\n')
    Path("u.txt").write_text("u1\nlone\n")
    for option, choices in (
        ("--histories_file=h.jsonl", {"histories": {"new": ["i1", "i2"]}}),
        ("--users_file=u.txt", {"users": ["u1", "lone"]}),
        ("--history=i1,i2", {"histories": {"history": ["i1", "i2"]}}),
        ("--all_users", {}),
    ):
        printed = command("recommend", option, f"--output=best.{form}", "--seen", "--k=3")
        expected = command.recommender.recommend(**choices, seen=True, k=3)
        assert printed == f"{len(expected):,} rows in best.{form}\n"
        if form == "csv":
            found = pd.read_csv("best.csv")
        else:
            lines = Path("best.jsonl").read_text().splitlines()
            found = pd.DataFrame([json.loads(line) for line in lines])
        pd.testing.assert_frame_equal(
            found, expected, check_exact=False, rtol=1e-5, check_dtype=False
        )


def test_similar(command):
    printed = command("similar", "--items=i1,i2", "--k=2", "--under=text").splitlines()
    expected = command.recommender.similar(["i1", "i2"], k=2, under="text")
    assert [line.split()[2] for line in printed[2:]] == expected["neighbour"].tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--users=u1,nobody"], "recommend: users: 'nobody' is not in the data set [toy]"),
        (["--users=u1", "--output=best.xlsx"], "recommend: output: [best.xlsx] ends in neither"),
        (["--users=u1", "--output=no/best.csv"], "recommend: output: there is no folder"),
        (["--users=u1", "--output=folder.csv"], "recommend: output: [/"),
        (["--histories_file=h.jsonl", "--output=h.jsonl"], "recommend: output: [/"),
        (["--users=u1", "--data_path=no"], "recommend: data_path: there is no [no/toy/toy.inter]"),
        (["--histories_file=h.txt"], "recommend: h.txt, line 2: [new] is not a name and items"),
        (["--users_file=no.txt"], "recommend: --users_file: there is no file [no.txt]."),
        (["--users_file=folder.csv"], "recommend: --users_file: there is no file [folder.csv]."),
        (["--users=u1", "--k=21"], "recommend: k: [21] is not"),
    ],
)
def test_what_is_refused_is_one_line(command, words, message, monkeypatch, capsys):
    Path("h.txt").write_text("a i1\nnew\n")
    Path("h.jsonl").write_text('{"user": "new", "history": ["i1", "i2"]}\n')
    Path("folder.csv").mkdir()
    with pytest.raises(SystemExit) as stopped:
        command("recommend", *words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith(message) and error.count("\n") == 1


def test_nothing_to_show_is_said(command):
    assert command("recommend", "--users=all").startswith("There is nothing to show: they have had")
    assert len(command("recommend", "--users=all,lone", "--k=2").splitlines()) == 4
    titles = "\n".join(f"i{item}\tword{item}" for item in range(20))
    Path("data/toy/toy.item").write_text(f"item_id:token\ttitle:token_seq\n{titles}\n")
    printed = command("similar", "--items=i1,i2", "--under=text")
    assert printed == "There is nothing to show: no other item shares a word with these.\n"
    with pytest.raises(SystemExit):
        command("similar", "--items=", "--output=none.csv")
    assert not Path("none.csv").exists()


def test_a_token_with_commas_in_it_stands_alone(command, capsys):
    odd = make_toy("SASRec", {"u1\t": "u 1,x\t", "i1\t": "i,1\t"})
    given = ["--k=1", f"--checkpoint={odd.checkpoint}"]
    assert "u 1,x" in command("recommend", "--users=u 1,x", *given)
    assert "i,1" in command("similar", "--items=i,1", *given)
    assert "history" in command("recommend", "--history=i,1", *given)
    for words, told in (
        (
            ["recommend", "--users=u 1,x,u2"],
            "users: 'u 1', 'x' are .* several in --users_file, one a line.",
        ),
        (
            ["recommend", "--history=i,1,i2"],
            "items 'i', '1' are .* several in a .jsonl --histories_file.",
        ),
        (["similar", "--items=i,1,i2"], "items: 'i', '1' are .* a token with a comma in it alone."),
    ):
        with pytest.raises(SystemExit):
            command(*words, *given)
        assert re.search(f"{told}$", capsys.readouterr().err.strip())


def test_a_pipe_is_read_once(command, capsys):
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("u1\n",), daemon=True)
    writer.start()
    assert "u1" in command("recommend", "--users_file=pipe", "--k=1")
    writer.join()
    with pytest.raises(SystemExit):
        command("recommend", "--users=u1", "--new_items=pipe")
    assert "--new_items: [pipe] is a pipe or a device, and is read more" in capsys.readouterr().err


def test_titles_of_digits_stay_as_they_are(command):
    titles = "\n".join(f"i{item}\t12.50" for item in range(20))
    Path("data/toy/toy.item").write_text(f"item_id:token\ttitle:token_seq\n{titles}\n")
    assert command("recommend", "--users=u1", "--k=1").splitlines()[2].split()[4] == "12.50"


def test_one_kind_of_users_at_a_time(command, capsys):
    for words in ([], ["--users=u1", "--all_users"], ["--users=u1", "--epochs=3"]):
        with pytest.raises(SystemExit) as stopped:
            command("recommend", *words)
        assert stopped.value.code == 2
