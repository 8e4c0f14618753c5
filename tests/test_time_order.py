"""Histories that RecBole puts in another order than that of the times: who is concerned, said once."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_atomic
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction

from recbole_tslrec.data import time_order
from recbole_tslrec.data.import_.data_import import import_data
from recbole_tslrec.data.time_order import users_out_of_order

NOW = 1_700_000_000
_TIMES = st.one_of(st.integers(NOW, NOW + 300), st.sampled_from([-5, 0.1, 1e39, 2e39]))
_ROWS = st.lists(st.tuples(st.integers(1, 3), _TIMES), min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(time_order, "_SAID", set())


def prepare(dataset: str, settings: dict, model: str = "TSLRec_SASRec"):
    config = Config(model, dataset, config_dict={"train_neg_sample_args": None} | settings)
    return data_preparation(config, create_dataset(config))


@given(_ROWS)
def test_those_are_counted_whom_recboles_sort_puts_in_another_order(rows):
    users, times = (np.array(column) for column in zip(*rows, strict=True))
    times = times.astype(np.float64)
    sorted_by_recbole = Interaction(
        {
            "user": torch.LongTensor(users),
            "time": torch.FloatTensor(times),
            "place": torch.arange(len(rows)),
        }
    )
    sorted_by_recbole.sort(by=["user", "time"])
    places = sorted_by_recbole["place"].numpy()
    wrong = [
        user for user in set(users) if (np.diff(times[places][users[places] == user]) < 0).any()
    ]
    assert users_out_of_order(users, times) == len(wrong)


def write_backwards(tmp_path, name: str, n_users: int = 40, start: int = NOW) -> None:
    """Every user's interactions ten seconds apart, the latest first in the file."""
    rows = [
        (f"u{user}", f"i{(user + place) % 13}", start + 10 * place)
        for user in range(n_users)
        for place in reversed(range(6))
    ]
    write_atomic(tmp_path / "data", name, rows)


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "CI_GRU4Rec", "SASRec", "FMLPRec", "E4SRec"])
def test_it_is_said_once_a_process_with_what_mends_it(model, tmp_path, settings, caplog):
    write_backwards(tmp_path, "late")
    for _ in range(3):
        prepare("late", settings, model)
    assert caplog.text.count("histories of 40 of 40 users of [late]") == 1
    assert "python -m recbole_tslrec import" in caplog.text


def test_users_that_a_filter_takes_out_do_not_count(tmp_path, settings, caplog):
    write_backwards(tmp_path, "late", n_users=12)
    with open(tmp_path / "data" / "late" / "late.inter", "a") as file:
        file.write(f"short\ti1\t{NOW + 1}\nshort\ti2\t{NOW}\n")
    prepare("late", settings | {"user_inter_num_interval": "[5,inf)"})
    prepare("late", settings)
    assert "12 of 12 users" in caplog.text and "13 of 13 users" in caplog.text


def test_what_it_advises_mends_it(tmp_path, settings, caplog):
    write_backwards(tmp_path, "late")
    file = tmp_path / "data" / "late" / "late.inter"
    import_data(file, tmp_path / "data", "imported")
    header, *lines = file.read_text().splitlines()
    lines.sort(key=lambda line: float(line.split("\t")[2]))
    (tmp_path / "data" / "sorted").mkdir()
    (tmp_path / "data" / "sorted" / "sorted.inter").write_text("\n".join([header, *lines]) + "\n")
    write_backwards(tmp_path, "early", start=0)  # float32 tells small numbers apart
    for name in ("imported", "sorted", "early"):
        prepare(name, settings)
    assert "float32" not in caplog.text


def test_ml_100k_stays_as_recbole_reads_it_and_its_users_are_counted(caplog):
    config = Config("TSLRec_SASRec", "ml-100k", config_dict={"gpu_id": ""})
    dataset = create_dataset(config)
    dataset.build()
    rows = pd.read_csv(f"{config['data_path']}/ml-100k.inter", sep="\t")
    rows.columns = [column.split(":")[0] for column in rows]
    time = rows["timestamp"]
    # RecBole's yaml of this data set has normalize_all.
    rows["rounded"] = ((time - time.min()) / (time.max() - time.min())).astype("float32")
    rows = rows.sort_values("rounded", kind="stable")
    wrong = sum((np.diff(of_user) < 0).any() for _, of_user in rows.groupby("user_id")["timestamp"])
    assert f"histories of {wrong} of 943 users of [ml-100k]" in caplog.text


def test_filters_that_leave_nothing_to_train_on_are_named(tmp_path, settings):
    rows = [(f"u{user}", f"i{place}", place) for user in range(9) for place in range(2)]
    rows += [(f"u{user}", f"only{user}", 5) for user in range(9)]
    write_atomic(tmp_path / "data", "thin", rows)
    filtered = settings | {"val_interval": {"timestamp": "[5,inf)"}}
    with pytest.raises(ValueError, match=r"no user of \[thin\] has two interactions.*filters"):
        prepare("thin", filtered)
