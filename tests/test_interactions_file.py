"""What is wrong with an interactions file is named, with its line, before RecBole reads it."""

import gzip
import re
from pathlib import Path

import pytest
from conftest import write_atomic
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_tslrec.data import check_interactions as interactions_file


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


HEADER = "user_id:token\titem_id:token\ttimestamp:float"
SOUND = "".join(f"u{user}\ti{user + time}\t{time}\n" for user in range(4) for time in range(5))


def write_bytes(folder: Path, content: bytes) -> None:
    (folder / "data" / "odd").mkdir(parents=True)
    (folder / "data" / "odd" / "odd.inter").write_bytes(content)


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "E4SRec"])
@pytest.mark.parametrize(
    ("encoding", "way_out"),
    [
        ("latin-1", "latin-1"),
        ("cp1252", "latin-1"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
    ],
)
def test_another_encoding_is_named_and_taken_where_the_key_says_so(
    encoding, way_out, model, tmp_path, settings
):
    text = f"{HEADER}\n{SOUND}üser\tä\t1\nüser\tö\t2\n"
    write_bytes(tmp_path, text.encode(encoding))
    with pytest.raises(ValueError, match=rf"odd\.inter\].*encoding: {way_out}"):
        Config(model, "odd", config_dict=settings)
    config = Config(model, "odd", config_dict=settings | {"encoding": encoding})
    dataset = create_dataset(config)
    data_preparation(config, dataset)
    assert set(dataset.field2id_token["item_id"][-2:]) == {"ä", "ö"}
    for wrong, message in (("utf-9", "'utf-9'. is not an encoding"), ("hex", "hex. is none that")):
        with pytest.raises(ValueError, match=rf"encoding: \[{message}"):
            Config(model, "odd", config_dict=settings | {"encoding": wrong})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f"{HEADER}\titem_id:token", r"line 1 names the column \[item_id\] twice"),
        (f"{HEADER}\tx:float\tx:token", r"line 1 names the column \[x\] twice"),
        (
            f"{HEADER}\tx:int",
            r"line 1: the column \[x:int\] has the type \[int\].* float, float_seq",
        ),
        (HEADER.replace("user_id:token", "user_id:float"), r"\[user_id\] has the type \[float\]"),
        (
            HEADER.replace("item_id:token", "item_id:token_seq"),
            r"ITEM_ID_FIELD: \[item_id\] has the",
        ),
    ],
)
def test_columns_that_recbole_dies_of_are_named(header, message, tmp_path, settings):
    write_bytes(tmp_path, f"{header}\n{SOUND}".encode())
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


ODD_ROWS = [
    ("u1\0\ti1\t9\n", r"line 22 holds a NUL byte"),
    ("u1\ti1\0x\t9\n", r"line 22 holds a NUL byte"),
    ("u1\ti1\rz\t9\n", r"line 22 holds a carriage return"),
    ("u1\ti1\t9\ru2\ti1\t9\n", r"line 22 holds a carriage return"),
    ('"u1"\ti1\t9\n', r'line 22: the user_id \["u1"\] and \[u1\], further up, are one'),
    ('\nu1\t"i1"\t9\n', r'line 23: the item_id \["i1"\] and \[i1\], further up, are one'),
    ('u1\t"n""w"\t9\nu1\tn"w\t10\n', r'line 23: the item_id \[n"w\] and \["n""w"\]'),
    ('u1\t"new"x\t9\n', r"line 22: '\t' expected after '\"'"),
    ("u1\ti1\t9\tx\n", r"cannot be read: .*Expected 3 fields in line 22, saw 4$"),
    ("u1\ti1\n", r"line 22: the timestamp \[.*\] counts as missing"),
    ("u1\ti1\tinf\n", r"line 22: the timestamp \[inf\] is not a finite number"),
    ("u1\ti1\t1e400\n", r"line 22: the timestamp \[1e400\] is not a finite number"),
    ("u1\ti1\t nan\n", r"line 22: the timestamp \[ nan\] is not a finite number"),
    (f"{HEADER}\n", r"line 22: the timestamp \[timestamp:float\] is not a number"),
]


@pytest.mark.parametrize(("rows", "message"), ODD_ROWS)
def test_rows_that_recbole_would_read_otherwise_are_named(rows, message, tmp_path, settings):
    write_bytes(tmp_path, f"{HEADER}\n{SOUND}{rows}".encode())
    with pytest.raises(ValueError, match=rf"odd\.inter\] {message}"):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize(("rows", "message"), ODD_ROWS[:8])
def test_they_are_named_in_any_block(rows, message, block, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(interactions_file, "_CHARACTERS_AT_ONCE", block)
    monkeypatch.setattr(interactions_file, "_ROWS_AT_ONCE", block)
    test_rows_that_recbole_would_read_otherwise_are_named(rows, message, tmp_path, settings)


def test_ends_of_lines_in_any_block(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(interactions_file, "_CHARACTERS_AT_ONCE", 1)
    write_bytes(tmp_path, f"{HEADER}\n{SOUND}".replace("\n", "\r\n").encode())
    Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_rows_longer_than_the_first_line_are_named(tmp_path, settings):
    write_bytes(
        tmp_path, f"{HEADER}\n{SOUND}".replace("\n", "\t\n").replace("t\t\n", "t\n", 1).encode()
    )
    with pytest.raises(ValueError, match=r"line 2 has more columns than line 1 names"):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_a_loaded_column_of_numbers_holds_numbers(tmp_path, settings):
    rows = SOUND.replace("\n", "\t5\n") + "u1\ti1\t9\tgood\n"
    write_bytes(tmp_path, f"{HEADER}\trating:float\n{rows}".encode())
    Config("TSLRec_SASRec", "odd", config_dict=settings)  # the column is not loaded
    with pytest.raises(ValueError, match=r"line 22: the rating \[good\] is not a number"):
        Config("TSLRec_SASRec", "odd", config_dict=settings | {"load_col": {"inter": "*"}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: \[''\] are no columns"),
        (HEADER.encode(), "there are no interactions"),
        (f"{HEADER}\n\n".encode(), "there are no interactions"),
        (f"{HEADER}\n{SOUND}".encode("utf-16-be"), "line 1 holds NUL bytes.* encoding: utf-16-be"),
        (bytes(range(256)), r"odd.inter\] is not in the encoding \[utf-8\]"),
        (gzip.compress(SOUND.encode(), mtime=0), "It is compressed: unpack it with gzip -d"),
        (
            f"{HEADER}\nu1\ti1\t1\nu2\ti1\t2\nu3\ti1\t3\n".encode(),
            "no user has two interactions, so there is nothing to train on",
        ),
        (f"{HEADER}\n{SOUND}".replace("\n", "\r").encode(), "line 1 holds a carriage return"),
    ],
)
def test_a_file_without_histories_is_named(content, message, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(interactions_file, "_ROWS_AT_ONCE", 1)
    write_bytes(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_a_folder_of_the_files_name_is_named(tmp_path, settings):
    (tmp_path / "data" / "odd" / "odd.inter").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"odd.inter\] is a folder"):
        Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_a_users_two_interactions_count_in_different_blocks(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(interactions_file, "_ROWS_AT_ONCE", 1)
    write_bytes(tmp_path, f"{HEADER}\nu1\ti1\t1\nu2\ti1\t1\nu1\ti2\t2\n".encode())
    Config("TSLRec_SASRec", "odd", config_dict=settings)


def test_quoted_tokens_of_one_spelling_are_taken_as_recbole_reads_them(tmp_path, settings):
    rows = '"v"\t"i""2"\t-1\n"v"\t"a\tb"\t1e39\nv 2\ti"1\t3\nv 2\t"u1"\t 4\n'
    write_bytes(tmp_path, f"{HEADER}\n{SOUND}{rows}".encode())
    config = Config("TSLRec_SASRec", "odd", config_dict=settings)
    dataset = create_dataset(config)
    assert {"a\tb", "u1"} <= set(dataset.field2id_token["item_id"])


@pytest.mark.parametrize("separator", [",", "|", " ", "::"])
def test_other_separators_are_taken(separator, tmp_path, settings):
    text = f"{HEADER}\n{SOUND}".replace("\t", separator)
    write_bytes(tmp_path, text.encode())
    config = Config("TSLRec_SASRec", "odd", config_dict=settings | {"field_separator": separator})
    assert create_dataset(config).user_num == 4 + 1


@pytest.mark.parametrize("separator", ["||", "", None])
def test_a_separator_that_pandas_would_take_otherwise_is_named(separator, tmp_path, settings):
    write_bytes(tmp_path, f"{HEADER}\n{SOUND}".replace("\t", "||").encode())
    with pytest.raises(ValueError, match=r"field_separator: \["):
        Config("TSLRec_SASRec", "odd", config_dict=settings | {"field_separator": separator})


def test_a_separator_beyond_ascii_is_read_as_any_other(tmp_path, settings):
    folder = tmp_path / "data" / "odd"
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in WELL]
    (folder / "odd.inter").write_text("\n".join(lines).replace("\t", "é"), encoding="utf-8")
    config = Config("Norm_SASRec", "odd", config_dict=settings | {"field_separator": "é"})
    assert create_dataset(config).item_num == 5  # four, and padding


@pytest.mark.parametrize(("cell", "taken"), [("1 2.5", True), ("", True), ("1 x", False)])
def test_lists_of_numbers_hold_numbers(cell, taken, tmp_path, settings):
    header = "user_id:token\titem_id:token\ttimestamp:float\tmore:float_seq"
    rows = [(*row, "1 2") for row in WELL]
    write_atomic(tmp_path / "data", "odd", [*rows, ("u", "i1", 3, cell)], header)
    everything = settings | {"load_col": {"inter": "*"}}
    if taken:
        create_dataset(Config("Norm_SASRec", "odd", config_dict=everything))
        return
    with pytest.raises(ValueError, match=r"odd.inter\] line 11: the more \[1 x\] holds \[x\]"):
        Config("Norm_SASRec", "odd", config_dict=everything)
    Config("Norm_SASRec", "odd", config_dict=settings)  # which does not load it


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"val_interval": {"x": "[0,1]"}}, r"val_interval: \[x\] is none of the loaded columns"),
        ({"val_interval": {"timestamp": ["a"]}}, r"val_interval: \[timestamp\] holds numbers"),
        ({"val_interval": {"item_id": "[0,1]"}}, r"val_interval: \[item_id\] holds tokens"),
        ({"USER_ID_FIELD": "item_id"}, r"USER_ID_FIELD and ITEM_ID_FIELD: both are \[item_id\]"),
        ({"load_col": {"inter": "user_id item_id timestamp"}}, "load_col: inter: .* not a list"),
        ({"load_col": {"inter": "*", "item": None}}, r"load_col: item: .* leave \[item\] out"),
    ],
)
def test_keys_that_do_not_fit_the_columns_are_refused(keys, message, small_data, settings):
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", small_data, config_dict=settings | keys)


@pytest.mark.parametrize(
    ("model", "longest", "taken"),
    [("SASRec", 2, False), ("SASRec", 3, True), ("SASRec", 9, True)]
    + [(name, 9, False) for name in ("FMLPRec", "BSARec", "Caser")]
    + [("FMLPRec", 3, True)],
)
def test_ready_made_lists_of_another_length_are_refused(model, longest, taken, settings):
    folder = Path("data/made")
    folder.mkdir(parents=True)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    parts = ["train", "valid", "test"]
    for part in parts:
        (folder / f"made.{part}.inter").write_text(f"{header}\nu1\ti1 i2\ti3\nu2\ti1 i2 i3\ti4\n")
    keys = {"benchmark_filename": parts, "alias_of_item_id": ["item_id_list"]}
    keys |= {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}}
    keys |= {"MAX_ITEM_LIST_LENGTH": longest, "train_neg_sample_args": None}
    config = Config(model, "made", config_dict=settings | keys)
    if taken:
        assert len(data_preparation(config, create_dataset(config))) == 3
        return
    with pytest.raises(
        ValueError, match=rf"MAX_ITEM_LIST_LENGTH: \[{longest}\] .* 3 items .*: 3\."
    ):
        data_preparation(config, create_dataset(config))


def test_filters_by_value_that_fit_are_taken(small_data, settings):
    for kept in ({"item_id": ["i1", "i2"]}, {"timestamp": "[0,inf)"}):
        config = Config("TSLRec_SASRec", small_data, config_dict=settings | {"val_interval": kept})
        assert len(create_dataset(config)) > 0
