"""What answers at once: commands that need neither RecBole nor torch load neither."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_tslrec
from recbole_tslrec.__main__ import _parser

TOP = Path(recbole_tslrec.__file__).parents[1]
SLOW = {"torch", "recbole", "transformers", "sklearn"}
COMMANDS = next(
    action.choices
    for action in _parser()[0]._actions
    if isinstance(action, argparse._SubParsersAction)
)


def imported_by(*words: str) -> tuple[set[str], str]:
    """The top-level modules that a command has loaded when it ends, and its output."""
    command = [sys.executable, "-X", "importtime", "-m", "recbole_tslrec", *words]
    environment = {"PYTHONPATH": str(TOP), "PATH": "/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, done.stdout


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_no_help_waits_for_torch(words):
    modules, shown = imported_by(*words, "--help")
    assert "recbole_tslrec" in modules and not modules & SLOW
    usage, description = shown.split("\n\n")[:2]
    assert usage.startswith("usage: recbole_tslrec") and description.rstrip().endswith(".")


def test_neither_do_commands_that_read_files_alone(tmp_path):
    from experiments.synthetic import SyntheticResults

    writer = SyntheticResults(tmp_path / "results", n_users=20, n_items=10)
    for variant in ("Base", "TSLRec"):
        writer.write("beauty", "SASRec", variant, 2020)
    report = ["report", f"--results={tmp_path}/results", f"--output={tmp_path}/report"]
    for words in (["stages"], ["clean"], report):
        modules, _ = imported_by(*words)
        assert not modules & SLOW, words
    assert "TSLRec" in (tmp_path / "report" / "report.md").read_text()


def test_importing_the_package_elsewhere_plugs_in():
    """Only the program itself waits: words like its own do not make another script one."""
    script = "import recbole_tslrec, recbole.trainer as t; print(hasattr(t, 'E4SRecTrainer'))"
    command = [sys.executable, "-W", "ignore", "-c", script, "-m", "recbole_tslrec"]
    environment = {"PYTHONPATH": str(TOP), "PATH": "/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout == "True\n", done.stderr[-2000:]
