"""The import command from files to files."""

import sys
from pathlib import Path

import pytest
from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import init_seed

from recbole_tslrec.__main__ import main
from recbole_tslrec.data.import_ import interactions
from recbole_tslrec.data.import_.data_import import Statistics, import_data
from recbole_tslrec.data.import_.interaction_files import Columns

# By user, oldest first; quotes, spaces and commas are for logs alone.
HISTORIES = {
    "7": ["a", "01", "1", "a"],
    "u 8": ["ü", 'b "quoted"', '"', "1.0", "x, y"],
    "007": ["1"],
    "long" * 500: ["日本" * 500, "1"],
}


def write_csv(path: Path, histories: dict[str, list[str]]) -> None:
    """Every interaction in a row, the latest first: the order must come from the times."""
    rows = [
        (user, item, 978_300_000 + place)
        for user, items in histories.items()
        for place, item in enumerate(items)
    ]
    quoted = [[f'"{str(cell).replace(chr(34), chr(34) * 2)}"' for cell in row] for row in rows]
    lines = ["userId,movieId,timestamp", *(",".join(row) for row in reversed(quoted))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_with_recbole(name: str, settings: dict):
    init_seed(0, True)
    return create_dataset(Config("Pop", name, config_dict=settings))


def test_recbole_reads_back_the_tokens_and_their_order(tmp_path, settings):
    write_csv(tmp_path / "log.csv", HISTORIES)
    (tmp_path / "text.tsv").write_text('1\t7\tAn "odd" title\tDrama|War\nnobody\t8\tLost\nü\t9\t\n')
    done = import_data(
        tmp_path / "log.csv", tmp_path / "data", "mine", item_text=tmp_path / "text.tsv"
    )
    assert done.statistics == Statistics(users=4, items=9, interactions=12)
    assert "1 with, 8 without text or a row; left out: 1 that" in done.notes[1]
    dataset = read_with_recbole("mine", settings | {"load_col": None})
    assert dataset.item_num == 9 + 1  # the padding; not the item that nobody had
    frame = dataset.inter_feat.sort_values("timestamp", kind="stable")
    for user, items in HISTORIES.items():
        rows = frame[frame["user_id"] == dataset.token2id("user_id", user)]
        assert dataset.id2token("item_id", rows["item_id"].to_numpy()).tolist() == items
        assert rows["timestamp"].tolist() == list(range(len(items)))
    assert len(dataset.inter_feat) == 12  # also those of items without text
    text = dataset.item_feat["item_text"][dataset.token2id("item_id", "1")]
    assert dataset.id2token("item_text", text).tolist() == ["An", '"odd"', "title", "Drama|War"]


def test_the_three_forms_of_the_same_data_become_the_same_file(tmp_path):
    histories = {"7": ["a", "01", "1", "a"], "8": ["ü"]}
    sequences = "".join(f"{user} {' '.join(items)}\n" for user, items in histories.items())
    (tmp_path / "sequences.txt").write_text(sequences)
    write_csv(tmp_path / "log.csv", histories)
    written = []
    for name, source in [("a", "sequences.txt"), ("b", "log.csv"), ("c", "data/a/a.inter")]:
        done = import_data(tmp_path / source, tmp_path / "data", name)
        assert "(recognised)" in done.notes[0]
        lines = (tmp_path / "data" / name / f"{name}.inter").read_text().splitlines()
        written.append((lines[0], *sorted(lines[1:])))  # users come in the file's order
    assert written[0] == written[1] == written[2]


def test_density_and_average_length():
    statistics = Statistics(users=4, items=5, interactions=10)
    assert statistics.density == pytest.approx(50)
    assert statistics.average_length == pytest.approx(2.5)


def test_the_item_file_beside_an_atomic_source_comes_along(tmp_path):
    (tmp_path / "s.inter").write_text("s_id:token\tproduct:token\tt:float\n1\tx\t2\n1\ty\t1\n")
    (tmp_path / "s.item").write_text(
        'year:float\tproduct:token\ttitle:token_seq\n1999\tz\tNo\n2000\tx\tYes "so"\n'
    )
    columns = Columns(user="s_id", item="product", time="t")
    done = import_data(tmp_path / "s.inter", tmp_path, "mine", columns=columns)
    assert "1 with, 1 without text or a row; left out: 1 that" in done.notes[1]
    assert (tmp_path / "mine" / "mine.item").read_text() == (
        'item_id:token\tyear:float\ttitle:token_seq\nx\t2000\t"Yes ""so"""\ny\t\t\n'
    )
    assert (tmp_path / "mine" / "mine.inter").read_text().splitlines()[1:] == ["1\ty\t0", "1\tx\t1"]


def test_other_content_is_replaced_only_when_asked(tmp_path):
    source, text = tmp_path / "s.txt", tmp_path / "text.tsv"
    source.write_text("1 2 3\n")
    text.write_text("2\tone\n")
    target = tmp_path / "mine" / "mine.inter"
    assert f"{target} written." in import_data(source, tmp_path, "mine").notes
    assert f"{target} is there already." in import_data(source, tmp_path, "mine").notes
    import_data(source, tmp_path, "mine", item_text=text)
    assert "stays" in import_data(source, tmp_path, "mine").notes[2]
    # A changed text alone must not leave a new .inter beside an old .item.
    before = target.read_text()
    source.write_text("1 3 2\n")
    with pytest.raises(FileExistsError, match=r"mine.inter is there with other .*--overwrite"):
        import_data(source, tmp_path, "mine", item_text=text)
    assert target.read_text() == before
    import_data(source, tmp_path, "mine", item_text=text, overwrite=True)
    assert target.read_text() != before
    assert sorted(path.name for path in target.parent.iterdir()) == ["mine.inter", "mine.item"]


@pytest.mark.parametrize("what", ["s.inter", "s.item"])
def test_what_is_read_is_not_replaced(what, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "s.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\ta\t5\t1500000000\n"
    )
    (folder / "s.item").write_text("item_id:token\tname:token_seq\na\tone\nb\ttwo\n")
    before = {path.name: path.read_text() for path in folder.iterdir()}
    source, text = folder / "s.inter", None
    if what == "s.item":
        source, text = tmp_path / "log.txt", folder / "s.item"
        source.write_text("1 a\n")
    with pytest.raises(
        ValueError, match=rf"dataset: .*{what}. is what is read. Give another --data"
    ):
        import_data(source, tmp_path, "s", item_text=text, overwrite=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_texts_are_added_beside_what_is_read_where_that_stays(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,a,5\n")
    import_data(tmp_path / "log.csv", tmp_path, "m")
    (tmp_path / "text.tsv").write_text("a\tone\n")
    source = tmp_path / "m" / "m.inter"
    notes = import_data(source, tmp_path, "m", item_text=tmp_path / "text.tsv").notes
    assert f"{source} is there already." in notes
    assert (tmp_path / "m" / "m.item").is_file()


def test_a_split_by_time_over_all_users_goes_by_the_times(tmp_path, settings):
    """Places in each user's history would put the last of a long history behind all others."""
    rows = [("long", f"i{n}", 1_500_000_000 + n) for n in range(16)]
    rows += [("late", f"i{n}", 1_600_000_000 + n) for n in range(4)]
    lines = ["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    notes = import_data(tmp_path / "log.csv", tmp_path, "d").notes
    assert not any("group_by" in note for note in notes)
    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "none", "order": "TO", "mode": "full"}
    config = Config(
        "Pop", "d", config_dict=settings | {"data_path": str(tmp_path), "eval_args": split}
    )
    dataset = create_dataset(config)
    tested = dataset.build()[2].inter_feat["user_id"]
    assert set(dataset.id2token("user_id", tested.numpy())) == {"late"}


def test_without_times_that_can_be_told_apart_places_are_written(tmp_path, monkeypatch):
    (tmp_path / "s.txt").write_text("long 1 2 3\n")
    notes = import_data(tmp_path / "s.txt", tmp_path, "e").notes
    assert any("for the source has no times" in note for note in notes)
    monkeypatch.setattr(interactions, "_EXACT_FLOAT32", 2)
    rows = "user_id,item_id,timestamp\n1,a,10\n1,b,11\n2,a,12\n"
    (tmp_path / "log.csv").write_text(rows)
    notes = import_data(tmp_path / "log.csv", tmp_path, "f").notes
    assert any("for of the 3 times RecBole tells 2 apart" in note for note in notes)
    written = (tmp_path / "f" / "f.inter").read_text().splitlines()[1:]
    assert [line.split("\t")[2] for line in written] == ["0", "1", "0"]


def test_tokens_with_blanks_around_them_are_told(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1, 10, 100\n1,10,101\n")
    notes = import_data(tmp_path / "log.csv", tmp_path, "mine").notes
    assert any(note.startswith("1 item tokens begin or end with a blank, [ 10]") for note in notes)


def test_nothing_is_written_when_something_is_wrong(tmp_path):
    (tmp_path / "s.txt").write_text("1 2 3\n4\n")
    with pytest.raises(ValueError, match=r"s.txt, line 2: \[4\] is not a user and items"):
        import_data(tmp_path / "s.txt", tmp_path / "data", "mine")
    assert not (tmp_path / "data").exists()


def test_filtering_says_what_there_was_and_leaves_something(tmp_path):
    (tmp_path / "s.txt").write_text("1 2 3\n2 2 3\n3 4\n")
    done = import_data(tmp_path / "s.txt", tmp_path, "mine", min_user=2, min_item=2)
    assert done.statistics == Statistics(users=2, items=2, interactions=4)
    assert "users 3 · items 3 · interactions 5" in done.notes[1]
    with pytest.raises(ValueError, match=r"^min_user: \[-3\] is not a whole number, 1 or larger"):
        import_data(tmp_path / "s.txt", tmp_path, "other", min_user=-3)
    with pytest.raises(ValueError, match="nothing is left under min_user 9, min_item 1"):
        import_data(tmp_path / "s.txt", tmp_path, "other", min_user=9)


def test_the_name_of_recboles_own_copy_is_refused(tmp_path):
    (tmp_path / "s.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="ml-100k"):
        import_data(tmp_path / "s.txt", tmp_path, "ml-100k")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "a,b", " a", "a\n"])
def test_a_name_that_is_no_folders_is_refused(name, tmp_path):
    (tmp_path / "s.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"dataset: [\s\S]* is not a name of letters"):
        import_data(tmp_path / "s.txt", tmp_path / "data", name)
    assert [path.name for path in tmp_path.rglob("*.inter")] == []
    assert import_data(tmp_path / "s.txt", tmp_path / "data", "Bücher 2.0").statistics.users == 1


def test_the_command_prints_the_row_and_its_errors(tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / "log.csv", {"7": ["a", "b"], "8": ["b"]})
    command = ["recbole_tslrec", "import", "--source=log.csv", "--dataset=mine", "--min_user=2"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "users 1 · items 2 · interactions 2" in capsys.readouterr().out
    assert Path("dataset/mine/mine.inter").is_file()
    monkeypatch.setattr(sys, "argv", [*command, "--time_column=when"])
    with pytest.raises(SystemExit, match=r"import: log.csv: none .*'timestamp'.* for when"):
        main()
    monkeypatch.setattr(sys, "argv", [*command, "--min_users=3"])
    with pytest.raises(SystemExit):
        main()
    assert "import has no --min_users=3" in capsys.readouterr().err
