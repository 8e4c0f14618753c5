"""With real processes: who comes second waits and reuses, or takes over from one that was killed."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from recbole_tslrec.store.locks import is_held, lock_files, read_owner
from recbole_tslrec.store.store import Store


def _make_slowly(root, seconds):
    def make(folder):
        (folder / "half").write_text("from the first")
        time.sleep(seconds)
        (folder / "result").write_text("first")

    Store(root).get("stage", {}, make)


def make_second(folder):
    (folder / "result").write_text((folder / "half").read_text())


@pytest.fixture
def first(tmp_path):
    """Starts a process that makes the stage for so many seconds; returns when it has begun."""
    started = []

    def start(seconds):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_make_slowly, args=(tmp_path, seconds))
        process.start()
        started.append(process)
        while not list(tmp_path.glob("stage-*.partial/half")):
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def stage_folder(root):
    (partial,) = root.glob("stage-*.partial")
    return partial.with_suffix("")


def test_the_second_waits_for_the_first_and_says_for_whom(first, tmp_path, caplog):
    process = first(1)
    folder = stage_folder(tmp_path)
    assert is_held(folder) and read_owner(folder).pid == process.pid
    with caplog.at_level("INFO"):
        stage = Store(tmp_path).get("stage", {}, make_second)
    assert stage.reused and (stage.folder / "result").read_text() == "first"
    assert f"process {process.pid} on {socket.gethostname()}, since 20" in caplog.text
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_second_takes_over_when_the_first_is_killed(first, tmp_path, caplog):
    process = first(60)
    folder = stage_folder(tmp_path)
    threading.Timer(0.5, os.kill, (process.pid, signal.SIGKILL)).start()
    start = time.monotonic()
    with caplog.at_level("INFO"):
        stage = Store(tmp_path).get("stage", {}, make_second)
    assert time.monotonic() - start < 20
    assert not stage.reused and (stage.folder / "result").read_text() == "from the first"
    assert f"was being made by process {process.pid}" in caplog.text and "taken over" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_dead_owner_is_not_waited_for(first, tmp_path, caplog):
    process = first(60)
    process.kill()
    process.join()
    folder = stage_folder(tmp_path)
    assert not is_held(folder) and not read_owner(folder).is_alive
    stage = Store(tmp_path).get("stage", {}, make_second)
    assert not stage.reused and "Waiting" not in caplog.text


def test_of_another_machine_it_says_how_to_take_over(first, tmp_path, caplog):
    first(1)
    folder = stage_folder(tmp_path)
    lock_file, owner_file = lock_files(folder)
    owner = json.loads(owner_file.read_text())
    owner_file.write_text(json.dumps(owner | {"host": "elsewhere"}))
    Store(tmp_path).get("stage", {}, make_second)
    assert "on elsewhere" in caplog.text and f"remove [{lock_file}]" in caplog.text


def test_only_one_of_many_makes_the_stage_though_the_lock_file_goes_each_time(tmp_path):
    context = multiprocessing.get_context("fork")
    made = context.Value("i", 0)

    def work():
        for round in range(5):

            def make(folder):
                with made.get_lock():
                    made.value += 1
                time.sleep(0.02)

            Store(tmp_path).get("stage", {"round": round}, make)

    processes = [context.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert made.value == 5 and not list(tmp_path.glob(".*"))
