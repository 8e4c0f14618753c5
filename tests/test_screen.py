"""What a run tells: its time beforehand, and at the end a short block."""

import logging
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from recbole.model.sequential_recommender import SASRec

from recbole_tslrec.commands.console import check_is_file, listed
from recbole_tslrec.config.refusals import tell_failure
from recbole_tslrec.evaluation.metrics import METRICS
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.experiments.run.comparison import TimeLeft
from recbole_tslrec.recbole_bridge import summary as last_lines
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recbole_bridge.summary import summary
from recbole_tslrec.store import duration as module
from recbole_tslrec.store.duration import Pace, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (280, "4 min 40 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (-1, "0 s"),
    ],
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


def test_the_rate_is_that_after_the_first_batch(monkeypatch, caplog):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    pace = Pace("Fine-tuning", skip=1, after=2)
    with caplog.at_level(logging.INFO):
        for seconds, done in ((100, 10), (101, 110), (102, 210), (103, 310)):
            clock.now = seconds
            pace.tell(done, total=1210, an_epoch=600)
    assert [record.getMessage() for record in caplog.records] == [
        "Fine-tuning: 100 positions a second so far; 6 s an epoch, 10 s left at most"
    ]


def test_what_is_slow_is_told_in_its_own_unit(monkeypatch, caplog):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    pace = Pace("Summaries", unit="users")
    clock.now = 320.0
    with caplog.at_level(logging.INFO):
        pace.tell(64, total=128)
    assert (
        caplog.records[0].getMessage() == "Summaries: 0.20 users a second so far; 5 min 20 s left"
    )


def test_nothing_is_told_of_what_is_done_already(caplog):
    with caplog.at_level(logging.INFO):
        Pace("Augmentation").tell(10, total=10)
    assert not caplog.records


def cell(backbone="SASRec", variant="Base", dataset="d"):
    return SimpleNamespace(dataset=dataset, backbone=backbone, variant=variant)


def line(seconds, made=0, reused=0, **place):
    return vars(cell(**place)) | {
        "seconds": {
            "training": seconds,
            "evaluation": 0,
            "stages": {"fine_tuning": made, "backbone": reused},
        },
        "reused_stages": ["backbone"],
    }


def test_a_grids_time_is_that_of_its_rows():
    left = TimeLeft([line(10), line(20), line(30, made=10, reused=500, variant="TSLRec")])
    assert left.told([cell(), cell(variant="TSLRec")]) == "; about 55 s left"
    assert left.told([cell(), cell(variant="CI")]) == ""  # of which nothing is known
    left.note(cell(dataset="other"), 90)
    assert left.told([cell()]) == "; 1 min 30 s a cell so far, about 15 s left"
    assert left.told([cell(), cell(variant="CI")]).endswith(", about 1 min 45 s left")
    assert TimeLeft().told([cell()]) == ""


def test_a_failure_that_explains_itself_shows_no_traceback(caplog, capsys):
    for raise_one, shown in (
        (lambda: check_is_file("source", Path("nowhere")), False),
        (lambda: {}["a bug"], True),
    ):
        caplog.clear()
        try:
            raise_one()
        except Exception as error:
            tell_failure("d, SASRec (Base), seed 1", error)
        assert [record.exc_info is not None for record in caplog.records] == [True] * shown
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("d, SASRec (Base), seed 1, failed: ")


def test_a_runs_last_lines(small_data, settings):
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    told = summary(experiment)
    data = (experiment.train_data, experiment.valid_data, experiment.test_data)
    metrics = rank_test_targets(experiment.trainer.model, *data).metrics()
    for protocol, words in (("ranked", "seen items ranked"), ("masked", "seen items masked")):
        (row,) = (one for one in told.splitlines() if words in one)
        assert f"{metrics[protocol]['ndcg@10']:.4f}" in row
    stages = ("backbone", "categories", "fine_tuning", "augmentation", "training and test")
    assert all(re.search(rf"{stage} \d+ s", told) for stage in stages)
    assert f"Model: {experiment.checkpoint}\n" in told
    assert f"recommend --checkpoint={experiment.checkpoint} " in told


def test_a_test_is_of_one_pass(small_data, settings, monkeypatch):
    settings = settings | {"train_neg_sample_args": None}
    sampled = {"eval_args": {"order": "TO", "mode": "uni10"}}
    experiment = run_experiment("SASRec", small_data, config_dict=settings | sampled)
    assert "| hit@5" in summary(experiment) and "masked" not in summary(experiment)
    full = run_experiment("SASRec", small_data, config_dict=settings)
    data = (full.train_data, full.valid_data, full.test_data)
    assert full.by_protocol == rank_test_targets(full.trainer.model, *data).metrics()
    monkeypatch.setattr(last_lines, "rank_test_targets", None)
    assert "masked" in summary(full)
    full.checkpoint = "my own.pth"
    assert "recommend --checkpoint='my own.pth' " in summary(full)
    full.test_result = None
    assert "nobody to test" in summary(full)


def test_what_reads_no_histories_is_not_said_to_recommend(small_data, settings):
    run = run_experiment("BPR", small_data, config_dict={**settings, "eval_args": {"mode": "full"}})
    assert "Model: " in summary(run) and "Next: " not in summary(run)


def test_a_long_test_of_a_reranker_is_not_repeated(small_data, settings, monkeypatch):
    experiment = run_experiment("SASRec", small_data, config_dict=settings | CE)
    experiment.by_protocol, ranked = None, []
    monkeypatch.setattr(SASRec, "protocol_scores", None, raising=False)  # as a reranker has it
    monkeypatch.setattr(
        last_lines,
        "rank_test_targets",
        lambda *_: ranked.append(1) or SimpleNamespace(metrics=BOTH),
    )
    assert "masked" in summary(experiment) and ranked
    experiment.test_seconds = 3600
    told = summary(experiment)
    assert "masked" not in told and "| test, seen items ranked" in told and "hit@5" in told


CE = {"train_neg_sample_args": None}


def BOTH() -> dict:
    return {one: dict.fromkeys(METRICS.values(), 0.5) for one in ("ranked", "masked")}


def test_the_log_is_recboles_and_comes_once_nothing_is_refused(small_data, settings):
    def logged() -> str:
        """What is in the log files; they start anew."""
        files = list(Path("log").rglob("*.log"))
        texts = [file.read_text() for file in files]
        shutil.rmtree("log")
        return "".join(texts)

    wrong = settings | {"llm_instruction": "history " * 70}
    with pytest.raises(ValueError, match="no room"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=wrong, describe=True)
    assert "Hyper Parameters" not in logged()
    run_experiment("TSLRec_SASRec", small_data, config_dict=settings, describe=True)
    told = logged()
    parts = ("General Hyper Parameters", "number of users", "FLOPs", "test result", "best valid")
    for part in (*parts, "running environment"):
        assert told.count(part) == 1, part
    assert told.index("Hyper Parameters") < told.index("Stage backbone: start")
    (unread,) = [line for line in told.splitlines() if "[TSLRec_SASRec] does not read" in line]
    assert "llamarec_head, " in unread and "n_categories" not in unread


def test_a_model_that_scores_no_single_items_is_described(small_data, settings):
    keys = settings | {"train_neg_sample_args": None, "reranker_CAN_NUM": 5}
    run_experiment("SASRecCPR", small_data, config_dict=keys, describe=True)
    (file,) = Path("log").rglob("*.log")
    assert "not counted" in file.read_text() and "test result" in file.read_text()


def test_tokens_stand_between_commas_and_a_known_one_may_have_them():
    assert listed("u1,u2,") == ["u1", "u2"]
    assert listed("Doe, Jane", {"Doe, Jane", "u1"}) == ["Doe, Jane"]


def test_a_run_leaves_the_programs_own_log_and_no_thread_behind(small_data, settings):
    root, own = logging.getLogger(), logging.NullHandler()
    threads = set(threading.enumerate())
    root.addHandler(own)
    try:
        for _ in range(2):
            run_experiment("CI_SASRec", small_data, config_dict=settings)
        assert own in root.handlers
        files = [one for one in root.handlers if isinstance(one, logging.FileHandler)]
        assert len(files) == 1 and files[0] is root.handlers[1]  # RecBole's alone, before the own
    finally:
        root.removeHandler(own)
    left = set(threading.enumerate()) - threads
    assert not [one for one in left if "tensorboard" in type(one).__module__]
