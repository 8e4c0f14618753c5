import pytest
from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import init_seed

from recbole_tslrec.experiments.data_import import Statistics, import_sequences


def test_recbole_reads_the_same_sequences_in_the_same_order(tmp_path, settings):
    lines = {"7": ["a", "01", "1", "a"], "8": ["ü", "b"], "007": ["1"]}
    source = tmp_path / "sequences.txt"
    source.write_text("".join(f"{user} {' '.join(items)}\n" for user, items in lines.items()))
    statistics = import_sequences(source, tmp_path / "data", "mine")
    assert statistics == Statistics(users=3, items=5, interactions=7)
    assert statistics.density == pytest.approx(100 * 7 / 15)
    init_seed(0, True)
    dataset = create_dataset(Config("Pop", "mine", config_dict=settings))
    frame = dataset.inter_feat.sort_values("timestamp", kind="stable")
    for user, items in lines.items():
        rows = frame[frame["user_id"] == dataset.token2id("user_id", user)]
        assert dataset.id2token("item_id", rows["item_id"].to_numpy()).tolist() == items


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n4\n", r"sequences.txt, line 2: \[4\] is not a user and items"),
        ("1 2 3\n\n", "line 2"),
        ("1 2\n2 3\n1 4\n", r"line 3: user \[1\] has line 1 already"),
    ],
)
def test_malformed_lines_are_named(text, message, tmp_path):
    source = tmp_path / "sequences.txt"
    source.write_text(text)
    with pytest.raises(ValueError, match=message):
        import_sequences(source, tmp_path / "data", "mine")
    assert not (tmp_path / "data" / "mine" / "mine.inter").exists()
