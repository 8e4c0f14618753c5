"""The three forms: what is read, what is refused, and that RecBole's reader gives it back."""

import csv
import io
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tslrec.data.import_.interaction_files import (
    Columns,
    read_interactions,
    recognise,
)
from recbole_tslrec.data.import_.interactions import Interactions
from recbole_tslrec.data.import_.text_files import UNREADABLE

HEADER = "user,item,time\n"


def read(path: Path, form: str = "", columns: Columns | None = None) -> dict[str, list[str]]:
    """Histories by user."""
    return histories(read_interactions(path, form or recognise(path), columns or Columns()))


def histories(interactions: Interactions) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item in zip(interactions.user, interactions.item, strict=True):
        found.setdefault(interactions.users[user], []).append(interactions.items[item])
    return found


# All of unicode but what separates; close relatives come often: "1", "01", "1.0", " 1".
_TOKENS = st.one_of(
    st.sampled_from(
        ["1", "01", "1.0", " 1", "1 ", "ü", "u\u0308", '"', '""', "'", "a,b", "x" * 9999]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n\0"), min_size=1),
).filter(lambda token: token.strip() and token not in UNREADABLE)
_LOGS = st.lists(st.tuples(_TOKENS, _TOKENS, st.integers(-2, 4)), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 4)), min_size=1, max_size=12))
def test_times_are_places_among_all_times(rows):
    """Beside a naive numbering: equal times of one user follow each other, of two users are equal."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        lines = [f"{user},i{number},{time}\n" for number, (user, time) in enumerate(rows)]
        path.write_text(HEADER + "".join(lines))
        found = read_interactions(path, "csv", Columns())
    keys = {}
    for number, (user, time) in enumerate(rows):
        keys[f"i{number}"] = (time, rows[:number].count((user, time)))
    places = {key: place for place, key in enumerate(sorted(set(keys.values())))}
    expected = [places[keys[item]] for item in found.items[found.item]]
    assert found.time.tolist() == expected
    core = found.k_core(2, 1)
    left = {place: number for number, place in enumerate(sorted(set(core.time.tolist())))}
    assert core.table()["timestamp:float"].tolist() == [left[place] for place in core.time]


@given(_LOGS)
def test_a_log_comes_back_from_recboles_file_token_by_token(rows):
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):  # stable, as the reader must be
        expected.setdefault(user, []).append(item)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("user", "item", "time"), *rows])
        interactions = read_interactions(path, "csv", Columns())
    assert histories(interactions) == expected
    # As RecBole reads it (Dataset._load_feat): this separator, this engine, these types.
    text = interactions.table().to_csv(sep="\t", index=False, lineterminator="\n")
    dtype = {"user_id:token": str, "item_id:token": str, "timestamp:float": float}
    back = pd.read_csv(io.StringIO(text), delimiter="\t", dtype=dtype, engine="python")
    pd.testing.assert_frame_equal(back, interactions.table().astype({"timestamp:float": float}))


def test_what_recbole_takes_for_missing_is_what_we_refuse(tmp_path):
    for token in UNREADABLE - {"[PAD]"}:
        text = io.StringIO(f"a\tb\n{token}\t1\n")
        assert pd.read_csv(text, sep="\t", dtype=str, engine="python")["a"].isna().all(), token
    assert UNREADABLE - {"[PAD]"} == set(pd._libs.parsers.STR_NA_VALUES) - {""}


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1 2 3\n", "sequences"),
        ("user:1 item:token\n", "sequences"),
        ("user_id:token\titem_id:token\ttime:float\n", "atomic"),
        ("user\titem\ttime\n", "csv"),
        ("user;item;time\n", "csv"),
        ('\ufeff"user","item","time"\n', "csv"),
    ],
)
def test_the_form_is_recognised_by_the_first_line(text, form, tmp_path):
    path = tmp_path / "data"
    path.write_text(text, encoding="utf-8")
    assert recognise(path) == form


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("reviewerID,asin,unixReviewTime,rating", Columns()),
        ("uid\tbusiness_id\tdate\tstars", Columns()),
        ("Kunde;Artikel;Zeit;Wert", Columns("Kunde", "Artikel", "Zeit")),
        ("user,item,time,date", Columns(time="time")),
        ("\ufeffuserId,movieId,timestamp,rating\r", Columns()),
    ],
)
def test_columns_are_found_by_common_names_or_given_ones(header, columns, tmp_path):
    separator = next(mark for mark in "\t;," if mark in header)
    rows = [separator.join(row) for row in (["u", "i", "2", "5"], ["u", "j", "1", "5"])]
    (tmp_path / "log").write_text("\n".join([header, rows[0], "", rows[1]]), encoding="utf-8")
    assert read(tmp_path / "log", columns=columns) == {"u": ["j", "i"]}


def test_iso_dates_with_a_zone_or_without_and_large_numbers(tmp_path):
    path = tmp_path / "log.csv"
    times = {
        "c": "2014-01-02 00:00Z",
        "b": "2014-01-02T00:30:00+01:00",
        "a": "2014-01-01 23:00:00-00",
    }
    path.write_text("user,item,date\n" + "".join(f"1,{i},{t}\n" for i, t in times.items()))
    assert read(path) == {"1": ["a", "b", "c"]}
    path.write_text("user,item,date\n1,b,2014-01-02\n1,c,2014-01-02 10:00:00.5\n1,a,2014-01-01\n")
    assert read(path) == {"1": ["a", "b", "c"]}
    # Nanoseconds since 1970, one apart: equal as float.
    path.write_text("user,item,time\n1,b,1400000000000000002\n1,a,1400000000000000001\n")
    assert read(path) == {"1": ["a", "b"]}


@pytest.mark.parametrize(
    "times",
    [
        ["18446744073709551617", "18446744073709551616", "1"],
        ["1400000000000000002", "1400000000000000001", "1.5"],
        ["1400000000.1234567892", "1400000000.1234567891", "-1e3"],
        ["1.0", " 1", "1", "1e0", "0.5"],  # the same; they keep the file's order
    ],
)
def test_numbers_that_a_float_cannot_tell_apart_are_in_order(times, tmp_path):
    rows = [f"1,{place},{time}\n" for place, time in enumerate(times)]
    (tmp_path / "log.csv").write_text(HEADER + "".join(rows))
    expected = sorted(range(len(times)), key=lambda place: Decimal(times[place]))
    assert read(tmp_path / "log.csv") == {"1": [str(place) for place in expected]}


def test_spaces_that_are_no_ascii_belong_to_a_sequences_token(tmp_path):
    (tmp_path / "s").write_text("1  a\u00a0b\t01 \r\n2 1\u2028\n", encoding="utf-8")
    assert read(tmp_path / "s", "sequences") == {"1": ["a\u00a0b", "01"], "2": ["1\u2028"]}


MALFORMED = [
    ("sequences", "1 2 3\n4\n", r"data, line 2: \[4\] is not a user and items"),
    ("sequences", "1 2 3\n\n", "line 2"),
    ("sequences", "1 2\n2 3\n1 4\n", r"line 3: user \[1\] has line 1 already"),
    ("sequences", "", "no interactions"),
    ("sequences", "1 2 3\r4 5 6\r", r"data, line 1: holds a carriage return .* End all lines with"),
    ("sequences", "1 2\r\n2 3\r4\r\n", "line 2: holds a carriage return"),
    ("sequences", "1 2\n2 NaN\n", r"line 2: the item \[NaN\] would be a missing value"),
    ("csv", HEADER, "no interactions"),
    ("csv", HEADER.replace("\n", "\r") + "1,2,3\r", "line 1: holds a carriage return"),
    ("csv", HEADER + '"1\r",2,3\n', "line 2: holds a carriage return"),
    ("atomic", "user:token\titem:token\ttime:float\r1\t2\t3\r", "line 1: holds a carriage return"),
    ("csv", "", "none of the columns"),
    ("csv", HEADER + "1,2,3\n1,2\n", "data, line 3: 2 columns, where the header has 3"),
    ("csv", HEADER + "1,2,3,4\n", "line 2: 4 columns"),
    ("csv", HEADER + "1,2,3\n1,,3\n", r"line 3: the item \[\] is empty"),
    ("csv", HEADER + " ,2,3\n", r"line 2: the user \[ \] is empty"),
    ("csv", HEADER + '\n1,"2\n2",3\n', r"line 3: the item \[2\n2\] holds a tab, a line break"),
    ("csv", HEADER + "1,2\t2,3\n", "line 2: the item .* holds a tab"),
    ("csv", HEADER + '1,"2,3\n1,2,3\n', "line 2: unexpected end of data"),
    ("csv", HEADER + "[PAD],2,3\n", r"the user \[\[PAD\]\] would be"),
    ("csv", HEADER + '1,2,3\n1,"2\n', "line 3"),
    (
        "csv",
        HEADER + "1,2,3\n\n1,2,soon\n",
        r"line 4: the time \[soon\] is no number, as the times",
    ),
    ("csv", HEADER + "1,2,3\n1,2,2014-01-01\n", r"line 3: the time \[2014-01-01\] is no number"),
    ("csv", HEADER + "1,2,2014-01-01\n1,2,7\n", r"line 3: the time \[7\] is no ISO date without a"),
    ("csv", HEADER + "1,2,2014-01-01 00:00Z\n1,2,2014-01-01\n", "line 3: .* is no ISO date with a"),
    ("csv", HEADER + "1,2,nan\n", r"line 2: the time \[nan\] is neither a number nor"),
    ("csv", HEADER + "1,2,\n", r"line 2: the time \[\]"),
    ("csv", HEADER + "1,2,inf\n", r"line 2: the time \[inf\]"),
    ("csv", "user,item,time,date\n1,2,3,4\n", r"2 of the columns \['user'.* is the time column"),
    ("csv", "user,thing,time\n1,2,3\n", r"none of .*'thing'.* is the item column.*--item_column"),
    ("atomic", "user\titem\ttime\n1\t2\t3\n", "data, line 1: not a RecBole header"),
    ("atomic", "user_id:token\titem_id:token\n1\t2\n", "none of .* is the time column"),
]


@pytest.mark.parametrize(("form", "text", "message"), MALFORMED)
def test_malformed_input_is_named(form, text, message, tmp_path):
    (tmp_path / "data").write_text(text, newline="")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "data", form)


@pytest.mark.parametrize("form", ["sequences", "csv"])
def test_a_line_that_is_not_utf8_is_named(form, tmp_path):
    separator = b"," if form == "csv" else b" "
    rows = [b"user item time", b"1 2 3", b"4 \xe9 3"]
    (tmp_path / "data").write_bytes(b"\n".join(rows).replace(b" ", separator))
    with pytest.raises(ValueError, match="data, line 3: not UTF-8 .* iconv"):
        read(tmp_path / "data", form)


def test_columns_of_sequences_are_refused(tmp_path):
    (tmp_path / "data").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="sequences, which have no columns"):
        read(tmp_path / "data", columns=Columns(user="a"))
