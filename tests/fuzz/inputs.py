"""What an input is, what may happen to it, and how it is tried.

An input is *refused by name* (an error that a user can act on, which names the key, file or line),
*ran* (with the right outcome), *raw* (any other error, or one that names nothing of the input) or
*silent* (it ran, and the outcome is wrong).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from conftest import CONFIGS, small_tokenizer, write_atomic
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

REFUSED, RAN, RAW, SILENT = VERDICTS = ("refused by name", "ran", "raw", "silent")
DATASET = "small"
_REFUSALS = (ValueError, OSError, ModuleNotFoundError, SystemExit)
_SECONDS = 20  # of the processor: far more than any input takes that does not hang


class Wrong(Exception):
    """The input ran, and its outcome is not what it must be."""


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        what: the mutation, in a line.
        use: uses the input; raises ``Wrong`` if the outcome is wrong.
        names: a refusal must hold one of these texts.
        may_run: False for an input that must be refused.
        may_refuse: False for one that is valid.
    """

    what: str
    use: Callable[[], None]
    names: Sequence[str]
    may_run: bool = True
    may_refuse: bool = True


class Subject(Protocol):
    """A kind of input. Made once, in a folder of its own, with what its inputs are copies of."""

    def __init__(self, folder: Path): ...

    def input(self, choose: random.Random) -> Input:
        """The next input, which stands in the current folder; all choices are drawn from ``choose``."""
        ...


@dataclass(frozen=True)
class Result:
    """What happened to an input, with the error or the difference in a line."""

    what: str
    verdict: str
    why: str = ""


def make_subject(kind: type[Subject], folder: Path) -> Subject:
    """What a subject's inputs are copies of, in a folder of its own."""
    folder.mkdir()
    with _alone(folder, seed=0):
        return kind(folder)


def try_input(subject: Subject, name: str, seed: int, index: int, folder: Path) -> Result:
    """Make one input in an empty folder, use it there, and judge what happens."""
    choose = random.Random(f"{seed} {name} {index}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with _alone(folder, seed + index):
        one = subject.input(choose)
        result = judge(one)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def judge(one: Input) -> Result:
    """Use an input, and say what happened."""
    try:
        one.use()
    except Wrong as wrong:
        return Result(one.what, SILENT, str(wrong))
    except _Slow as slow:
        return Result(one.what, RAW, str(slow))
    except _REFUSALS as refusal:
        # argparse prints, and ends with a number.
        message = sys.stderr.getvalue() if getattr(refusal, "code", None) == 2 else str(refusal)
        said = f"{type(refusal).__name__}: {message}"
        if not any(name in message for name in one.names):
            return Result(one.what, RAW, f"names none of {list(one.names)}: {said}")
        if not one.may_refuse:
            return Result(one.what, RAW, f"is valid, and refused: {said}")
        return Result(one.what, REFUSED, said)
    except Exception as error:  # what else may come is what is looked for
        return Result(one.what, RAW, f"{type(error).__name__}: {error}")
    return Result(one.what, RAN) if one.may_run else Result(one.what, SILENT, "was accepted")


class _Slow(BaseException):
    """Passes handlers of Exception on its way out."""


@contextlib.contextmanager
def _alone(folder: Path, seed: int):
    """Nothing of one input is left to the next: RecBole reads sys.argv and writes where it stands."""
    before, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.chdir(folder)
    sys.argv = ["fuzz"]
    for name, module in list(sys.modules.items()):
        if name.startswith("recbole_tslrec"):  # what it says once a process it says to every input
            getattr(module, "_SAID", set()).clear()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        logging.disable(logging.NOTSET)
        sys.argv = argv
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def _too_slow(*_) -> None:
    raise _Slow(f"took longer than {_SECONDS} s")


def _quiet():
    """Nothing is printed: bars and warnings of hundreds of inputs would hide the table."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def warnings_of(run: Callable[[], Any]) -> tuple[Any, str]:
    """The outcome, and what was logged as a warning meanwhile."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    logging.getLogger().addHandler(handler)
    try:
        outcome = run()
        return outcome, said.getvalue()
    finally:
        logging.getLogger().removeHandler(handler)
        logging.disable(logging.CRITICAL)


# ---- what several subjects start from -------------------------------------------------------------


def small_rows() -> list[tuple[str, str, int]]:
    """(user, item, time) of 40 users and 30 items with two tastes."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(40):
        items = user % 2 * 15 + generator.integers(0, 15, size=generator.integers(5, 12))
        rows += [(f"u{user}", f"i{item}", 1000 + time) for time, item in enumerate(items)]
    return rows


def write_small_data(folder: Path) -> None:
    """The data set DATASET below ``folder``."""
    write_atomic(folder, DATASET, small_rows())


def write_titled_data(folder: Path) -> None:
    """The same data set, with a title for each item."""
    write_small_data(folder)
    lines = [f"i{item}\tpurchase {item}" for item in range(30)]
    content = "\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n"
    (folder / DATASET / f"{DATASET}.item").write_text(content)


def write_language_model(folder: Path, kind: str = "llama") -> None:
    """A language model of random weights with its tokenizer."""
    import transformers

    torch.manual_seed(0)
    transformers.AutoModel.from_config(CONFIGS[kind]()).save_pretrained(folder)
    closing = "</s>" if kind == "bert" else None
    small_tokenizer(None if kind == "gpt2" else "<s>", closing).save_pretrained(folder)


def small_settings(data: Path, **changes) -> dict:
    """Settings under which every stage takes a moment."""
    return {
        "data_path": str(data),
        "gpu_id": "",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": 6,
        "hidden_size": 16,
        "inner_size": 16,
        "epochs": 1,
        "train_batch_size": 64,
        "valid_metric": "NDCG@10",
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "show_progress": False,
        "state": "INFO",
        "n_categories": 4,
        "sft_epochs": 1,
        "sft_batch_positions": 256,
        "lora_r": 2,
        "n_candidates": 5,
        "llamarec_items": "slots",
        "llamarec_head": "linear",
        "delrec_items": "slots",
        "delrec_soft_vectors": 3,
        "delrec_predictions": 3,
        "delrec_soft_epochs": 1,
    } | changes


def opened(model: str, settings: dict):
    """RecBole's config, data set and three loaders."""
    config = Config(model, DATASET, config_dict=settings)
    dataset = create_dataset(config)
    return config, dataset, data_preparation(config, dataset)
