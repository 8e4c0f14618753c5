"""What is wrong with an interactions file is named, with its line, before RecBole reads it."""

import re

import pytest
from conftest import write_atomic
from recbole.config import Config

from recbole_tslrec import interactions_file


def test_a_data_set_without_times_is_refused(tmp_path, settings):
    rows = [("u1", "i1"), ("u1", "i2")]
    write_atomic(tmp_path / "data", "timeless", rows, "user_id:token\titem_id:token")
    with pytest.raises(ValueError, match=r"TIME_FIELD: \[timestamp\] is not a column.*timeless"):
        Config("TSLRec_SASRec", "timeless", config_dict=settings)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "user_id\titem_id\ttimestamp",
            r"plain.inter\] line 1: .*name:type and parted by .*import",
        ),
        ("user_id:token,item_id:token,timestamp:float", r"plain.inter\] line 1: .*parted by"),
        ("\ufeffuser_id:token\titem_id:token\ttimestamp:float", r"byte order mark.* utf-8-sig"),
        ("user:token\titem_id:token\ttimestamp:float", r"USER_ID_FIELD: \[user_id\] is not a col"),
        ("user_id:token\titem:token\ttimestamp:float", r"ITEM_ID_FIELD: \[item_id\] is not a col"),
        ("user_id:token\titem_id:token\ttimestamp:token", r"TIME_FIELD: .* type \[token\]"),
    ],
)
def test_a_first_line_that_is_not_recboles_is_refused(header, message, tmp_path, settings):
    write_atomic(tmp_path / "data", "plain", [("u1", "i1", 1)], header)
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", "plain", config_dict=settings)


def test_a_time_that_is_no_number_is_refused(tmp_path, settings):
    write_atomic(tmp_path / "data", "dated", [*WELL, ("u", "i", "2024-01-02")])
    message = r"dated.inter\] line 11: the timestamp \[2024-01-02\] is not a number"
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", "dated", config_dict=settings)


def test_all_columns_may_be_loaded_and_three_not_left_out(small_data, settings):
    everything = settings | {"load_col": {"inter": "*"}}
    Config("TSLRec_SASRec", small_data, config_dict=everything)
    for column in ("user_id", "item_id", "timestamp"):
        left_out = {"load_col": None, "unload_col": {"inter": [column]}}
        with pytest.raises(ValueError, match=rf"unload_col.*\[{column}\]"):
            Config("TSLRec_SASRec", small_data, config_dict=settings | left_out)


@pytest.mark.parametrize(
    "load_col", [{"inter": ["item_id", "timestamp"]}, {"item": ["item_id"]}, {"inter": ["user_id"]}]
)
def test_what_load_col_leaves_out_is_named(load_col, small_data, settings):
    message = r"load_col: inter .* leaves out the .*_FIELD \[.*Give load_col: {inter: \[.*timestamp"
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", small_data, config_dict=settings | {"load_col": load_col})


def test_of_a_data_set_that_recbole_does_not_know_the_times_are_loaded(small_data, settings):
    given = {key: value for key, value in settings.items() if key != "load_col"}
    given["train_neg_sample_args"] = None
    for model in ("SASRec", "TSLRec_SASRec"):
        config = Config(model, small_data, config_dict=given)
        assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    own = Config("TSLRec_SASRec", "ml-100k", config_dict={"gpu_id": ""})["load_col"]
    assert own["inter"] == ["user_id", "item_id", "rating", "timestamp"]
    text = given | {"load_col": "{inter: [user_id, item_id, timestamp]}"}
    with pytest.raises(ValueError, match=r"load_col: \[{inter.*--load_col=\"{'inter': \['user_id'"):
        Config("TSLRec_SASRec", small_data, config_dict=text)


def test_a_time_column_that_is_not_loaded_is_refused(small_data, settings):
    unloaded = settings | {"load_col": {"inter": ["user_id", "item_id"]}}
    with pytest.raises(ValueError, match=r"load_col.*\[timestamp\]"):
        Config("TSLRec_SASRec", small_data, config_dict=unloaded)


MISSING = ["nan", "NaN", "NA", "N/A", "None", "null", "", "#N/A", "<NA>"]
WELL = [("v", f"i{time % 4}", time) for time in range(9)]


@pytest.mark.parametrize("token", MISSING)
@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_what_pandas_takes_for_missing_is_named_before_recbole_drops_it(
    token, column, tmp_path, settings
):
    row = {"user_id": "u", "item_id": "i", "timestamp": 3} | {column: token}
    write_atomic(tmp_path / "data", "odd", [*WELL, tuple(row.values()), *WELL])
    message = rf"odd\.inter\] line 11: the {column} \[{re.escape(token)}\] counts as missing"
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_blank_lines_count_when_a_line_is_named(tmp_path, settings):
    folder = tmp_path / "data" / "odd"
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", "", "u1\ti1\t1", " ", "", "u1\tNA\t2"]
    (folder / "odd.inter").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"line 6: the item_id \[NA\] counts as missing"):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_a_missing_token_is_named_in_any_block(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(interactions_file, "_ROWS_AT_ONCE", 4)
    write_atomic(tmp_path / "data", "odd", [*WELL, ("u", "None", 3)])
    with pytest.raises(ValueError, match=r"line 11: the item_id \[None\]"):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("u", '"Hello', 1), ("u", 'World"', 2)],
            r"line 2: the item_id \[\"?Hello.*\n.*quotation",
        ),
        ([("u", '"Hello', 1), ("u", "World", 2)], r"odd.inter\] cannot be read"),
    ],
)
def test_a_quotation_mark_that_swallows_lines_is_refused(rows, message, tmp_path, settings):
    write_atomic(tmp_path / "data", "odd", rows)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_tokens_that_only_look_odd_are_taken(tmp_path, settings):
    odd = ["none", "Nan", "1e3", "True", "[PAD]", " a", "a b", "ü", "x" * 5000, 'in"side', "\u2028"]
    rows = [("u", token, time) for time, token in enumerate(odd)]
    write_atomic(tmp_path / "data", "odd", rows)
    Config("TSLRec_SASRec", "odd", config_dict=settings)
