"""What tells a class from the same one with other code, wherever it was defined."""

import subprocess
import sys

import pytest
import torch

from recbole_tslrec.backbones.class_code import class_code

SOURCE = """
import functools
from recbole.model.sequential_recommender.sasrec import SASRec

def twice(function):
    @functools.wraps(function)
    def call(*arguments):
        return 2 * function(*arguments)
    return call

class Mine(SASRec):
    scale, kinds = 1.5, {"a", "b", "c"}

    @twice
    def forward(self, item_seq, item_seq_len, more=0):
        return super().forward(item_seq, item_seq_len) * 3

    @property
    def width(self):
        return max(each for each in (self.hidden_size, 4))

    @staticmethod
    def rest():
        return {"one", "two"} & {"two", "three"}

    odd = object()
"""
SHOW = "from recbole_tslrec.backbones.class_code import class_code; print(class_code(Mine))"
CHANGES = {
    "return super": "return -super",
    "* 3": "* 4",
    "more=0": "more=1",
    "1.5": "2.5",
    '"c"}': '"d"}',
    "(self.hidden_size, 4)": "(self.hidden_size, 5)",
    '"three"': '"four"',
}


def without_a_file(source: str) -> list[str]:
    """As a notebook defines a class."""
    space = {"__name__": "__main__"}
    exec(compile(source, "<cell>", "exec"), space)
    return class_code(space["Mine"])


@pytest.fixture(autouse=True)
def no_file(monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)


def test_a_class_without_a_file_is_told_by_its_methods():
    assert without_a_file(SOURCE) == without_a_file("\n\n" + SOURCE + "\nSOMETHING = 1")
    assert len(without_a_file(SOURCE)) == len({*without_a_file(SOURCE)}) > 2  # RecBole's have files


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_it_is_noticed(change):
    assert SOURCE.count(change) == 1
    assert without_a_file(SOURCE) != without_a_file(SOURCE.replace(change, CHANGES[change]))


def test_the_same_in_every_process():
    """Sets of texts are in another order in each."""
    by_input = [sys.executable, "-W", "ignore", "-"]
    program = f"{SOURCE}\n{SHOW}"
    done = subprocess.run(by_input, input=program, capture_output=True, text=True, check=True)
    assert done.stdout == f"{without_a_file(SOURCE)}\n"


def test_with_a_file_it_is_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number, addition in enumerate(["", "\nFACTOR = 2\n"]):
        (tmp_path / f"mine_{number}.py").write_text(SOURCE + addition)
        found.append(class_code(__import__(f"mine_{number}").Mine))
    assert found[0] != found[1]
    (tmp_path / "mine_0.py").unlink()
    assert class_code(sys.modules["mine_0"].Mine) != found[0]  # no error


def test_packages_that_do_not_count():
    class Mine(torch.nn.Module):
        pass

    assert len(class_code(Mine, but=("torch",))) == 1
    assert class_code(Mine, but=("torch", Mine.__module__)) == []
    assert class_code(int)  # built in
