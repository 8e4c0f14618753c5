import pytest

from recbole_tslrec.data.import_.interaction_files import Columns
from recbole_tslrec.data.import_.item_text import read_items


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ('1\tA  "B"\n2\tTitle Drama|War\t\n3\t\n4\tnull\n9\tC\n', "Title Drama|War"),
        ('1\tB9\tA  "B"\n2\tB00\tTitle\tDrama|War\n3\tB01\t\n4\tB2\tnull\n9\t\tC\n', None),
    ],
)
def test_text_with_and_without_original_id_or_several_texts(text, second, tmp_path):
    (tmp_path / "t.tsv").write_text(text)
    table, note = read_items(tmp_path / "t.tsv", ["1", "2", "3", "4", "5"], Columns())
    assert table.values.tolist() == [
        ["1", 'A "B"'],
        ["2", second or "Title Drama|War"],
        *(["3", ""], ["4", ""], ["5", ""]),
    ]
    assert list(table) == ["item_id:token", "item_text:token_seq"]
    assert "2 with, 3 without text or a row; left out: 1 that" in note


def test_a_file_beside_a_log_of_other_names_with_marks_in_its_titles(tmp_path):
    """``--item_column`` names the log's column; pandas reads a text after a closing mark on."""
    header = "item_id:token\ttitle:token_seq\n"
    (tmp_path / "t.item").write_text(header + '1\t"Weird Al" live\n2\tplain\n')
    table, _ = read_items(tmp_path / "t.item", ["1", "2"], Columns(item="Artikel"))
    assert table.values.tolist() == [["1", "Weird Al live"], ["2", "plain"]]
    (tmp_path / "t.item").write_text(header + '1\t"open\n2\tplain\n')
    with pytest.raises(ValueError, match="t.item, line 2: a text goes over several lines"):
        read_items(tmp_path / "t.item", ["1", "2"], Columns())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\ta\n2\n", r"t.tsv, line 2: \[2\] is not an item"),
        ("1\ta\n\tb\n", "line 2"),
        ("1\tB0\ta\n2\tb\n", r"t.tsv, line 2: .* two columns, and line 1 an item, an original id"),
        ("1\tThe title\ta\n", r"line 1: the second of three .* \[The title\] looks like a text"),
        ("1\ta\n1\tb\n", r"line 2: item \[1\] has line 1 already"),
        ("01\ta\n", "has nothing on any item of the interactions"),
        ("item_id:token\tt:token_seq\n1\n", "line 2: 1 columns, where the header has 2"),
        ("product:token\tt:token_seq\n1\ta\n", "none of .* is the item column"),
    ],
)
def test_malformed_text_is_named(text, message, tmp_path):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_items(tmp_path / "t.tsv", ["1", "2"], Columns())
