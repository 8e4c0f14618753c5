"""How a command ends: one line and exit code 2 on what the user gave, a traceback on a bug."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import recbole_tslrec
from recbole_tslrec import __main__
from recbole_tslrec.commands import run as run_command
from recbole_tslrec.config import refusals
from recbole_tslrec.config.refusals import is_refusal
from recbole_tslrec.store.files import DiskError

TOP = Path(recbole_tslrec.__file__).parents[1]
# A user's screen shows these unless they are asked not to.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TOP), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def screen(small_data, settings, monkeypatch, capsys):
    """Runs a command in this process; its exit code and what the screen shows of it."""
    Path("mine.yaml").write_text(json.dumps(settings))

    def run(*words: str, main=__main__.main):
        monkeypatch.setattr(sys, "argv", ["recbole_tslrec", *words])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    return run


EXPERIMENT = ["--dataset=small", "--config_files=mine.yaml"]
RUN = ["run", "--model=TSLRec_SASRec", *EXPERIMENT]
COMPARE = ["compare", "--variants=Base", *EXPERIMENT]
REFUSED = [
    (["recomend"], "recomend: there is no such command. See --help. Did you mean recommend?"),
    ([*RUN, "--n_categories=1"], "run: n_categories: [1] is not a whole number, 2 or larger."),
    ([*RUN, "--learner=adm"], "run: learner: ['adm'] is not one of adam, "),
    ([*RUN, "--epoch=2"], "run: There is no key [epoch]. Did you mean [epochs]?"),
    ([*RUN, "--epochs", "2"], "run: [--epochs] is neither an option nor a --key=value."),
    ([*RUN, "--topk=5,10"], "run: topk: [(5, 10)] is not "),
    ([*RUN, "--nproc=0"], "run: nproc: [0] is not a whole number, 1 or larger."),
    ([*RUN, "--gpu_id=", "--nproc=2"], "run: nproc: [2] takes a GPU each, "),
    (["run", "--model=SASRex", *EXPERIMENT], "run: There is no model [SASRex]. Did you mean"),
    (["run", "--config_files=nowhere.yaml"], "run: config_files: there is no file [nowhere.yaml]."),
    (
        ["run", "--config_files=properties/papr.yaml"],
        "run: config_files: there is no file [properties/papr.yaml]. Did you mean properties/paper.yaml",
    ),
    (["run", "--config_files=my own.yaml"], "run: config_files: there is no file [my]."),
    ([*RUN[:2], "--config_files=an empty.yaml"], "run: config_files: [an empty.yaml] is not 'key"),
    (["compare", "--config_files=an empty.yaml"], "compare: config_files: [an empty.yaml] is not"),
    (["run", "--config_files=empty.yaml"], "run: config_files: [empty.yaml] is not 'key: value'"),
    # RecBole's own refusals, of its settings and of its data.
    (["run", "--model=NARM", *EXPERIMENT], "run: train_neg_sample_args: loss_type: [CE] takes"),
    (
        [*RUN, "--user_inter_num_interval=[90,inf)"],
        "run: dataset: the filters leave nothing of [small]. Loosen them: user_inter_num_interval: [90",
    ),
    (["run", "--model=SASRec", "--model=NARM"], "run: --model: [SASRec] and [NARM] are given."),
    ([*RUN, "--epochs=1", "--epochs=2"], "run: --epochs: [1] and [2] are given. Give one of them."),
    (
        [*RUN, "--item_text=~"],
        "run: [--item_text=~]: on the command line RecBole reads ~ as a text.",
    ),
    ([*RUN, "--=3"], "run: [--=3] is neither an option nor a --key=value."),
    ([*RUN, "--dataset="], "run: --dataset: [small] and [] are given."),
    (["run", "--dataset=", *EXPERIMENT[1:]], "run: dataset: [''] is not a text."),
    ([*COMPARE, "--weight_decay=-1"], "compare: weight_decay: [-1] is not a number, 0 or larger."),
    ([*COMPARE, "--seed=3"], "compare: [--seed=3] is set for each cell."),
    (["compare", "--variants=Base,tslrec"], "compare: variants: [tslrec] is not one of Base, "),
    (["compare", "--dataset=nowhere"], "compare: dataset: there is no [dataset/nowhere/"),
    (["efficiency", "--dataset=nowhere"], "efficiency: Neither [dataset/nowhere] exists"),
    (["efficiency", "--config_files=nowhere.yaml"], "efficiency: config_files: there is no file"),
    (["stages", "--model=CI_SASRec"], "stages: --model needs --dataset."),
    (["stages", "--model=CI_SASRec", "--dataset=x", "--config_files=y"], "stages: config_files: "),
    (["report", "--results=nowhere", "--output=x"], "report: results: [nowhere] has no cells"),
    (
        ["fold", "--checkpoint=nowhere", "--output=x"],
        "fold: --checkpoint: there is no file [nowhere]. Give the path of one.",
    ),
    (
        ["recommend", "--checkpoint=mine.yaml", "--users=1", "--new_items=nowhere"],
        "recommend: --new_items: there is no file [nowhere].",
    ),
    (
        ["convert", "--checkpoint=nowhere", "--output=x", "--trusted_sha256=0"],
        "convert: --checkpoint: there is no file [nowhere].",
    ),
    (
        ["import", "--source=nowhere", "--dataset=x"],
        "import: --source: there is no file [nowhere].",
    ),
    (
        [*RUN, "--enhanced_items=x"],
        "run: enhanced_items: there is no file [x]. Set enhanced_items to",
    ),
    ([*RUN, "--backbone_checkpoint=x"], "run: backbone_checkpoint: there is no file [x]. Set "),
]


@pytest.mark.parametrize(("words", "line"), REFUSED, ids=lambda words: " ".join(words[:9]))
def test_what_is_refused_ends_with_one_line(words, line, screen):
    for name in ("empty.yaml", "an empty.yaml"):
        Path(name).write_text("# nothing yet\n")
    code, shown = screen(*words)
    assert code == 2 and "Traceback" not in shown
    last = shown.rstrip("\n").split("\n")[-1]
    assert last.startswith(line)


def test_debug_shows_the_traceback_and_recbole_nothing_of_itself(screen):
    with pytest.raises(ValueError, match="n_categories"):
        screen(*RUN, "--n_categories=1", "--debug")
    assert "--debug" not in sys.argv


def test_a_bug_keeps_its_traceback(screen, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr("recbole_tslrec.recbole_bridge.quick_start.run_experiment", broken)
    with pytest.raises(ValueError, match="a bug"):
        screen(*RUN)


def raised(act) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError


def test_what_is_a_refusal():
    assert is_refusal(raised(lambda: open("nowhere")))
    assert is_refusal(raised(lambda: Path("nowhere").stat()))
    assert is_refusal(raised(lambda: __import__("no_such_package")))
    assert is_refusal(DiskError(28, "the disk is full"))
    assert not is_refusal(raised(lambda: np.zeros(2) + np.zeros(3)))
    assert not is_refusal(raised(lambda: cross_entropy(torch.zeros(2, 3), torch.zeros(3).long())))
    assert not is_refusal(ValueError("never raised"))
    # On a line of ours, but by Python.
    assert not is_refusal(raised(lambda: refusals._origin(1)))


@pytest.mark.parametrize(
    ("main", "program"),
    [(__main__.main, "recbole_tslrec run"), (run_command.main, "run_recbole_tslrec.py")],
)
def test_the_help_says_the_programs_name(main, program, monkeypatch, capsys):
    words = ["/x/__main__.py", "run"] if main is __main__.main else ["/x/run_recbole_tslrec.py"]
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {program} [-h]") and "--debug" in shown


def in_a_process(*command, **environment) -> subprocess.CompletedProcess:
    environment = ENVIRONMENT | environment
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=300
    )


def test_what_the_screen_cannot_show_is_escaped():
    done = in_a_process("-m", "recbole_tslrec", "import", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "user item item \\u2026" in done.stdout


def test_where_nobody_reads_on_a_command_ends_without_a_word():
    reads, writes = os.pipe()
    os.close(reads)  # as head does in the end
    start = f"""
import os, sys, types
package = types.ModuleType("recbole_tslrec")  # without RecBole, whose import takes seconds
package.__path__ = [{str(TOP / "recbole_tslrec")!r}]
sys.modules["recbole_tslrec"] = package
from recbole_tslrec.commands.console import command_line as run
"""
    for command, read_on, end in (
        ("print('a line\\n' * 10**5)", False, (1, "")),
        ("print('a line')", False, (1, "")),
        ("sys.exit(print('a help') or 0)", False, (1, "")),
        (f"os.write({writes}, b'elsewhere')", True, (2, "it: [Errno 32] Broken pipe\n")),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"{start}run(lambda: {command}, 'it')()"],
            stdout=subprocess.DEVNULL if read_on else writes,
            stderr=subprocess.PIPE,
            pass_fds=[writes],
            text=True,
            env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"},
        )
        assert (done.returncode, done.stderr) == end
    os.close(writes)


def test_a_users_screen(small_data, settings):
    Path("mine.yaml").write_text(json.dumps(settings | {"enhancement": "random"}))
    script = [TOP / "run_recbole_tslrec.py", *RUN[1:]]
    done = in_a_process("-m", "recbole_tslrec", *RUN, "word")
    assert done.stderr.startswith("run: [word] is neither an option")
    done = in_a_process(*script, "--seed=abc")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "run: seed: ['abc'] is not a whole number in [0, 2**32).\n"
    assert not Path("log").exists()
    Path("mine.yaml").rename("my own.yaml")
    done = in_a_process(*script[:-1], "--config_files=my own.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pkg_resources" not in done.stderr and "test result" in done.stderr


def test_the_traceback_of_what_is_refused_late_is_in_the_log_file(small_data, settings):
    Path("mine.yaml").write_text(json.dumps(settings))
    late = ["--topk=[31]", "--valid_metric=NDCG@31"]
    done = in_a_process("-m", "recbole_tslrec", *RUN, *late)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.endswith(
        "run: topk: [31] is more than the 30 items of the data set [small]. Give fewer.\n"
    )
    (log,) = Path("log").rglob("*.log")
    assert "Traceback" in log.read_text() and "in check_topk" in log.read_text()
