"""Item texts: which are read, how they are joined, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import recbole
from conftest import write_atomic
from recbole.config import Config
from support.stages import pipeline_of
from test_pipeline import histories, write_histories

from recbole_tslrec.data.import_.data_import import import_data
from recbole_tslrec.data.item_catalogue import Catalogue, read_catalogue

HEADER = "item_id:token\ttitle:token_seq\tgenres:token_seq\tbrand:token\tprice:float\tv:float_seq"
FILE = {
    "data_path": "data/small",
    "dataset": "small",
    "ITEM_ID_FIELD": "item_id",
    "field_separator": "\t",
    "seq_separator": " ",
    "encoding": None,
}
ROWS = ["a\tToy  Story\tChildren's Comedy\tDisney\t3.5\t1 2", "b\tGoldenEye\t\tNA\t\t"]


def write_items(*rows: str, header: str = HEADER, encoding: str = "utf-8", name="small") -> Path:
    path = Path("data") / name / f"{name}.item"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return path


def read(tokens: str = "ab", columns=("title", "genres"), missing: str = "error", **changes):
    return read_catalogue(FILE | changes, tokens, columns, missing).texts


def test_columns_are_joined_in_the_order_given():
    write_items(*ROWS, "c\tnobody had it\t\t\t\t")
    assert read() == {"a": "Toy Story, Children's Comedy", "b": "GoldenEye"}
    assert read(columns=["brand", "title"])["a"] == "Disney, Toy Story"
    assert read("a", columns="price") == {"a": "3.5"}


def test_the_words_of_a_sequence_by_its_separator():
    write_items("a,Toy Story,War|Drama,,,", header=HEADER.replace("\t", ","))
    joined = read("a", field_separator=",", seq_separator="|")
    assert joined == {"a": "Toy Story, War Drama"}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_other_encodings(encoding):
    write_items("a\tMisérables, Les\t\t\t\t", encoding=encoding)
    assert read("a", encoding=encoding) == {"a": "Misérables, Les"}
    with pytest.raises(ValueError, match="encoding"):
        read("a")


def test_texts_with_marks_as_import_writes_them():
    write_items('a\t"12"" vinyl, ""new"""\t\t\t\t', "b\tthe 5' one\t\t\t\t")
    assert read() == {"a": '12" vinyl, "new"', "b": "the 5' one"}


def test_items_without_a_text_are_named_or_have_one(caplog):
    write_items(*ROWS, "c\t \t\t\t\t")
    what = r"\['title'\] for 2 of 4 items, among them 'c', 'd' \(1 of them have no row\)"
    with pytest.raises(ValueError, match=rf"{what}.*item_text_missing"):
        read("abcd", columns="title")
    with caplog.at_level("WARNING"):
        texts = read("abcd", columns="title", missing="unknown")
    assert list(texts) == list("abcd") and texts["c"] == texts["d"] == "unknown"
    assert "for 2 of 4 items" in caplog.text
    with pytest.raises(ValueError, match=r"\['brand'\] for 1 of 2"):  # NA is none to RecBole either
        read(columns="brand")


def test_words_that_pandas_takes_for_missing_are_counted(caplog):
    """They are read as ever: stages are known by what is read."""
    write_items("a\tNone\tWar\tNA\t\t", "b\t\tWar\t\t\t", "c\tnull\t\t\t\t", "d\tx\t\t\t\t")
    assert read() == {"a": "War", "b": "War"}
    (told,) = caplog.messages
    assert "small.item]: 1 cells hold what pandas takes for missing" in told
    assert "such as [None] of item 'a'" in told
    with pytest.raises(
        ValueError, match=r"among them 'c' .* 1 cells .* such as \[null\] of item 'c'"
    ):
        read("abcd")
    with pytest.raises(ValueError, match=r"among them 'b' \(0 of them have no row\)\. Add their"):
        read("bd", columns="title")
    caplog.clear()
    assert read("d") == {"d": "x"} and not caplog.messages


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"no column is chosen. Give one or more of \['title', 'genres', 'brand', 'price'\]"),
        ([], "no column is chosen"),
        ("titel", r"\[titel\] is not there.*'title'.*Did you mean title\?"),
        ("item_id", r"\[item_id\] cannot be an item's text"),
        (["title", "v"], r"\[v\] cannot be"),
    ],
)
def test_columns_that_cannot_be_read_are_refused_with_those_that_can(columns, message):
    write_items(*ROWS)
    with pytest.raises(ValueError, match=f"item_text: .*{message}"):
        read(columns=columns)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a\ttwice\t\t\t\t", "several rows for 1 items, among them 'a'"),
        ('c\t"opens\t\t\t\t', r"small.item\]"),
        ('c\t"opens\t\t\t\t\nd\tand" closes\t\t\t\t', "several lines"),
        ("c\ttoo\tmany\tcolumns\t\t\tx", r"small.item\].*"),
    ],
)
def test_a_malformed_file_is_named(row, message):
    write_items(*ROWS, row)
    with pytest.raises(ValueError, match=f"item_text: .*{message}"):
        read()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("c\ttwo\0words\tWar\t\t\t", "a NUL byte"),
        ("c\ttwo\rwords\tWar\t\t\t", "a carriage return"),
        ("c\ttwo words\tWar\t\t\t\r\r", "a carriage return"),
    ],
)
def test_characters_at_which_pandas_would_cut_a_text_are_named(row, reason):
    """It would leave the words behind them out, and the columns too."""
    write_items(*ROWS, row)
    with pytest.raises(ValueError, match=rf"small.item\] line 4 holds {reason}"):
        read("abc")


def test_lines_that_end_as_on_windows_are_taken():
    path = write_items(*ROWS)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read() == {"a": "Toy Story, Children's Comedy", "b": "GoldenEye"}


def test_a_mark_in_another_column_that_hides_rows_is_named():
    write_items('a\tone\t\t"opens\t\t', 'b\ttwo\t\tcloses"\t\t', "c\tthree\t\t\t\t")
    assert read("c") == {"c": "three"}  # nothing that is wanted is hidden
    with pytest.raises(ValueError, match="the brand .* goes over several lines"):
        read("abc", columns="title", missing="unknown")


def test_no_file_and_no_header_of_recbole_are_refused():
    with pytest.raises(FileNotFoundError, match=r"no file .*small.item.*title:token_seq.*import"):
        read()
    write_items("a\tb", header="item_id\ttitle")
    with pytest.raises(ValueError, match=r"small.item\] line 1.*name:type"):
        read()
    write_items("a\tb", header="id:token\ttitle:token")
    with pytest.raises(ValueError, match=r"ITEM_ID_FIELD: \[item_id\] is not a column"):
        read()


# ---- rows and tokens ------------------------------------------------------------------------------


def test_rows_by_internal_id_and_a_fingerprint_without_them():
    one, other = Catalogue({"a": "x", "b": "y"}), Catalogue({"b": "y", "a": "x"})
    assert one.rows(["b", "a"]) == ["", "y", "x"]
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != Catalogue({"a": "y", "b": "x"}).fingerprint


# ---- real files -----------------------------------------------------------------------------------


def test_ml_100k_as_recbole_ships_it():
    folder = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    config = Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": None})
    assert Path(config["data_path"]).resolve() == folder
    tokens = ["1", "543", "1682"]
    texts = read_catalogue(
        config.final_config_dict, tokens, ["movie_title", "class"], "error"
    ).texts
    assert texts == {
        "1": "Toy Story, Animation Children's Comedy",
        "543": "Misérables, Les, Drama Musical",
        "1682": "Scream of Stone (Schrei aus Stein), Drama",
    }


def test_what_import_writes_is_read(tmp_path):
    (tmp_path / "log.txt").write_text("1 1 2 3\n2 3 2 1\n")
    (tmp_path / "texts.tsv").write_text('1\tB1\tnail 12" lacquer\n2\tB2\tred shatter\n')
    import_data(tmp_path / "log.txt", tmp_path / "data", "beauty", item_text=tmp_path / "texts.tsv")
    place = {"data_path": "data/beauty", "dataset": "beauty"}
    assert read("12", columns="item_text", **place) == {
        "1": 'nail 12" lacquer',
        "2": "red shatter",
    }
    with pytest.raises(ValueError, match=r"for 1 of 3 items, among them '3' \(0 of them"):
        read("123", columns="item_text", **place)


# ---- leaks ----------------------------------------------------------------------------------------


def test_nothing_held_out_enters_the_texts(tmp_path, settings):
    users = histories()
    write_histories(tmp_path, "one", users)
    generator = np.random.default_rng(1)
    changed = {
        user: items[:-2] + [f"i{item}" for item in generator.integers(0, 12, size=2)]
        for user, items in users.items()
    }
    write_histories(tmp_path, "other", changed)
    rows = [f"i{item}\ttitle of {'abcdefghijkl'[item]}\t\t\t\t" for item in range(12)]
    read_of = {}
    for name in ("one", "other"):
        write_items(*rows, name=name)
        pipeline = pipeline_of(settings, name)
        read_of[name] = read_catalogue(
            pipeline.config.final_config_dict, pipeline.tokens, "title", "error"
        )
    assert read_of["one"].texts == read_of["other"].texts
    assert read_of["one"].fingerprint == read_of["other"].fingerprint
    # Another order of the lines gives other internal ids, and the same texts.
    shutil.rmtree("data/other")
    write_histories(tmp_path, "other", changed, order=list(reversed(users)))
    write_items(*reversed(rows), name="other")
    pipeline = pipeline_of(settings, "other")
    again = read_catalogue(pipeline.config.final_config_dict, pipeline.tokens, "title", "error")
    assert again.fingerprint == read_of["one"].fingerprint
    assert list(again.texts) != list(read_of["one"].texts)


def test_a_data_set_of_few_items_needs_their_texts_alone():
    write_atomic(Path("data"), "small", [("u", "a", 1)])
    write_items(*ROWS)
    assert read("a") == {"a": "Toy Story, Children's Comedy"}
