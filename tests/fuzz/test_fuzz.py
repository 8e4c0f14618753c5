"""A short run of the command that tries odd inputs, and its judgement; the long one is in fuzz.py."""

import pytest

from fuzz.fuzz import SUBJECTS, fuzz, lines, table
from fuzz.inputs import RAN, RAW, REFUSED, SILENT, Input, Result, Wrong, judge
from fuzz.key_tables import OURS
from fuzz.plain_reading import Interactions, compare, plain_readings
from recbole_tslrec.config.key import KEYS
from recbole_tslrec.config.keys import TRAINING_KEYS


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_input_is_raw_or_silent(subject, tmp_path):
    results = {subject: fuzz(subject, seed=1, indices=range(10), folder=tmp_path)}
    assert not lines(results, seed=1), table(results)


def test_a_seed_gives_the_same_inputs(tmp_path):
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        runs.append(fuzz("interactions", seed=7, indices=range(5), folder=tmp_path / name))
    assert runs[0] == runs[1]


def raising(error):
    def use():
        raise error

    return use


@pytest.mark.parametrize(
    "use, limits, verdict",
    [
        (lambda: None, {}, RAN),
        (lambda: None, {"may_run": False}, SILENT),
        (raising(Wrong("other histories")), {}, SILENT),
        (raising(ValueError("epochs: [0] is not a whole number")), {}, REFUSED),
        (raising(SystemExit("epochs: [0] is not a whole number")), {}, REFUSED),
        (raising(ValueError("epochs: [1] is not a whole number")), {"may_refuse": False}, RAW),
        (raising(ValueError("could not convert string to float")), {}, RAW),
        (raising(SystemExit(1)), {}, RAW),
        (raising(KeyError("epochs")), {}, RAW),
    ],
)
def test_the_judgement(use, limits, verdict):
    result = judge(Input("epochs", use, ["epochs"], **limits))
    assert isinstance(result, Result) and result.verdict == verdict


def test_the_plain_reading_is_in_the_order_of_float64_times():
    rows = [("u", "a", "1700000001"), ("u", "b", "1700000000"), ("u", "c", "1700000003")]
    rows += [("u", "d", "1700000002"), ("v", '"a"', "1"), ("v", "b", "1")]
    content = "\n".join(["i:token\tt:float\tu:token", *("\t".join((i, t, u)) for u, i, t in rows)])
    bare, marked = {"u": ["b", "a"], "v": ["a", "b"]}, {"u": ["b", "a"], "v": ['"a"', "b"]}
    expected = [Interactions(training, {"u": "d"}, {"u": "c"}) for training in (marked, bare)]
    assert plain_readings(content.encode(), "utf-8", "\t", ["u", "i", "t"]) == expected
    with pytest.raises(Wrong, match="training of"):
        compare(expected, Interactions({"u": ["a", "b"], "v": ["a", "b"]}, {"u": "d"}, {"u": "c"}))
    damages = content.replace("\t1\t", "\tx\t"), content + "\nv", content.replace("u:", "w:")
    for damage in damages:
        assert not plain_readings(damage.encode(), "utf-8", "\t", ["u", "i", "t"])


def test_every_key_of_ours_is_tried():
    assert set(OURS) == {*KEYS, *TRAINING_KEYS}
