"""Histories come back whole from RecBole's rows, and nothing held out comes with them."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_atomic
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction

from recbole_tslrec.data.histories import Histories, fingerprint, training_histories

MAX_LENGTH = 3
# Look-alikes and what separators, numbers and encodings could trip over.
ODD_USERS = ["1", "01", "1.0", "a b", "\u00fc", "u\u0308", "用户", "-1", "[PAD]x", "x" * 40]
ODD_ITEMS = "7|07|7.0|7e0|ein Buch|書|b,c|\u00e9|e\u0301|0|-0|True".split("|")


def dataset_of(rows: list[tuple[int, list[int], int]], **config) -> SimpleNamespace:
    """What `training_histories` reads of a dataset; rows are (user, item list, target)."""
    lists = torch.zeros((len(rows), MAX_LENGTH), dtype=torch.int64)
    for row, (_, items, _) in enumerate(rows):
        lists[row, : len(items)] = torch.tensor(items)
    columns = {
        "user_id": torch.tensor([user for user, _, _ in rows], dtype=torch.int64),
        "item_id": torch.tensor([target for _, _, target in rows], dtype=torch.int64),
        "item_id_list": lists,
        "item_length": torch.tensor([len(items) for _, items, _ in rows], dtype=torch.int64),
    }
    return SimpleNamespace(
        config={"benchmark_filename": None} | config,
        dataset_name="made",
        uid_field="user_id",
        iid_field="item_id",
        item_id_list_field="item_id_list",
        item_list_length_field="item_length",
        inter_feat=Interaction(columns),
        id2token=lambda field, number: f"token {number}",
    )


def augment(user: int, items: list[int]) -> list[tuple[int, list[int], int]]:
    """RecBole's rows of one user, by the plainest loop."""
    return [
        (user, items[max(0, end - MAX_LENGTH) : end], items[end]) for end in range(1, len(items))
    ]


def interleave(rows_by_user: list[list], seed: int) -> list:
    """Rows of all users mixed, each user's still in order."""
    turns = [number for number, rows in enumerate(rows_by_user) for _ in rows]
    random.Random(seed).shuffle(turns)
    waiting = [iter(rows) for rows in rows_by_user]
    return [next(waiting[number]) for number in turns]


def as_dict(histories: Histories) -> dict[int, list[int]]:
    return {int(user): histories[i].tolist() for i, user in enumerate(histories.user_ids)}


histories_by_user = st.dictionaries(
    st.integers(1, 10**6),
    st.lists(st.integers(1, 6), min_size=1, max_size=12),  # few items: many repeat
    min_size=1,
    max_size=8,
)


@given(histories_by_user, st.integers(0, 99))
def test_histories_are_rebuilt_from_interleaved_rows(wanted, seed):
    rows = interleave([augment(user, items) for user, items in wanted.items()], seed)
    wanted = {user: items for user, items in wanted.items() if len(items) > 1}  # others: no row
    if not wanted:
        with pytest.raises(ValueError, match="no training row"):
            training_histories(dataset_of(rows))
        return

    histories = training_histories(dataset_of(rows))

    assert as_dict(histories) == wanted
    assert histories.user_ids.tolist() == sorted(wanted)
    assert histories.lengths.tolist() == [len(wanted[user]) for user in sorted(wanted)]
    assert len(histories) == len(wanted)
    assert {histories.user_ids.dtype, histories.offsets.dtype, histories.items.dtype} == {
        np.dtype(np.int64)
    }


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.data())
def test_the_earliest_row_may_be_a_later_prefix(items, data):
    start = data.draw(st.integers(0, len(items) - 2))

    histories = training_histories(dataset_of(augment(5, items)[start:]))

    assert histories[0].tolist() == items[max(0, start + 1 - MAX_LENGTH) :]


def test_histories_are_a_sequence():
    histories = Histories(np.array([3, 9]), np.array([0, 2, 3]), np.array([4, 5, 6]))

    assert [items.tolist() for items in histories] == [[4, 5], [6]]
    assert histories[-1].tolist() == [6]
    with pytest.raises(IndexError):
        histories[2]


@pytest.mark.parametrize("spoil", [lambda rows: rows[::-1], lambda rows: rows[:2] + rows[3:]])
def test_rows_out_of_order_or_with_a_gap_are_refused(spoil):
    rows = augment(3, [1, 2]) + spoil(augment(8, [1, 2, 3, 4, 5, 6]))

    with pytest.raises(ValueError, match=r"do not continue.*user \[token 8\].*in time order"):
        training_histories(dataset_of(rows))


def test_a_dataset_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"\[made\] has no training row.*eval_args"):
        training_histories(dataset_of([]))


# ---- RecBole's own data sets -------------------------------------------------------------------


def write_histories(histories: dict[str, list[str]], folder: str = "data") -> None:
    """Histories as an atomic file whose lines are in no order."""
    rows = [
        (user, item, time) for user, items in histories.items() for time, item in enumerate(items)
    ]
    random.Random(0).shuffle(rows)
    write_atomic(Path(folder), "odd", rows)


def read(folder: str = "data", **keys):
    """RecBole's training dataset of the file."""
    settings = {
        "data_path": folder,
        "gpu_id": "",
        "state": "WARNING",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"},
    }
    config = Config(model="SASRec", dataset="odd", config_dict=settings | keys)
    return data_preparation(config, create_dataset(config))[0]._dataset


def token_histories(dataset) -> dict[str, list[str]]:
    histories = training_histories(dataset)
    user_tokens = dataset.id2token(dataset.uid_field, histories.user_ids)
    return {
        str(user): dataset.id2token(dataset.iid_field, items).tolist()
        for user, items in zip(user_tokens, histories, strict=True)
    }


def token_fingerprint(dataset) -> str:
    return fingerprint(
        training_histories(dataset),
        dataset.field2id_token[dataset.uid_field],
        dataset.field2id_token[dataset.iid_field],
    )


def odd_histories(seed: int = 0) -> dict[str, list[str]]:
    """Histories of 3 to 12 items, most of them longer than MAX_LENGTH, with repetitions."""
    choose = random.Random(seed)
    return {user: choose.choices(ODD_ITEMS, k=3 + n) for n, user in enumerate(ODD_USERS)}


# What RecBole and pandas read as it stands: numeric look-alikes, names of nothing, words of Python.
# A quotation mark at the start is csv's; what pandas takes for missing is refused (test_settings.py).
odd_tokens = st.one_of(
    st.sampled_from(
        [*ODD_ITEMS, "1e3", "1000", "[PAD]", "inf", "none", "Nan", "False", " x", "x "]
    ),
    st.text("ab01 .,;:'#ü書\u00a0\u2028", min_size=1, max_size=4),
    st.integers(1, 3).map(lambda n: "long" * 500 + str(n)),
).filter(lambda token: token.strip())


@settings(max_examples=25)
@given(
    st.dictionaries(
        odd_tokens, st.lists(odd_tokens, min_size=1, max_size=9), min_size=2, max_size=6
    )
)
def test_histories_are_what_the_file_says(whole):
    """RecBole's whole way from the file against a reading of the file by hand."""
    whole = whole | {"enough": ["for", "a", "training", "row"]}
    write_histories(whole)

    assert token_histories(read()) == read_by_hand(Path("data/odd/odd.inter"))


def read_by_hand(path: Path) -> dict[str, list[str]]:
    """Training histories of leave-one-out: all but the last two items, as long as a row stays."""
    users: dict[str, list[tuple[float, str]]] = {}
    for line in path.read_text(encoding="utf-8").split("\n")[1:-1]:
        user, item, time = line.split("\t")
        users.setdefault(user, []).append((float(time), item))
    found = {}
    for user, interactions in users.items():
        items = [item for _, item in sorted(interactions, key=lambda pair: pair[0])]
        n_rows = len(items) - 1  # the first item is nobody's target
        if n_rows > 0:
            found[user] = items[: len(items) - min(2, n_rows - 1)]
    return found


def held_out(items: list[str]) -> int:
    """How many of the last items RecBole's leave-one-out takes; one row always stays."""
    return min(2, len(items) - 2)


def test_histories_of_a_real_data_set_end_before_what_is_held_out():
    whole = odd_histories()
    write_histories(whole)

    assert token_histories(read()) == {
        user: items[: len(items) - held_out(items)] for user, items in whole.items()
    }


def test_held_out_items_have_no_influence():
    whole = odd_histories()
    write_histories(whole)
    before = read()
    for number, items in enumerate(whole.values()):
        items[-held_out(items) :] = [f"unheard of {number}"] * held_out(items)
    write_histories(whole, "changed")
    after = read("changed")

    assert token_histories(after) == token_histories(before)
    assert token_fingerprint(after) == token_fingerprint(before)
    assert not any("unheard" in item for items in token_histories(after).values() for item in items)


def test_one_training_item_changes_the_fingerprint():
    whole = odd_histories()
    write_histories(whole)
    before = token_fingerprint(read())
    whole["01"][0] = next(item for item in ODD_ITEMS if item != whole["01"][0])
    write_histories(whole, "changed")

    assert token_fingerprint(read("changed")) != before


def test_filters_renumber_and_change_neither_histories_nor_fingerprint():
    """Users that a filter removes were numbered first: all internal ids differ."""
    whole = odd_histories()
    write_histories(whole)
    with_short = {"gone": ["new", "new"]} | whole
    write_histories(with_short, "changed")
    plain, filtered = read(), read("changed", user_inter_num_interval="[3,inf)")

    assert token_histories(filtered) == token_histories(plain)
    assert token_fingerprint(filtered) == token_fingerprint(plain)


@pytest.mark.parametrize("split", [{"RS": [0.5, 0.25, 0.25]}, {"TS": [0.5, 0.25, 0.25]}])
@pytest.mark.parametrize("group_by", ["user", None])
def test_other_splits_give_beginnings_of_histories(split, group_by):
    whole = odd_histories()
    write_histories(whole)
    dataset = read(eval_args={"split": split, "order": "TO", "group_by": group_by})

    found = token_histories(dataset)

    assert sum(map(len, found.values())) == len(dataset) + len(found)
    for user, items in found.items():
        assert items == whole[user][: len(items)]


def test_field_names_are_the_data_sets_own():
    whole = odd_histories()
    rows = [(time, u, i) for u, items in whole.items() for time, i in enumerate(items)]
    write_atomic(Path("data"), "odd", rows, "when:float\treader:token\tbook:token")

    dataset = read(
        load_col={"inter": ["reader", "book", "when"]},
        USER_ID_FIELD="reader",
        ITEM_ID_FIELD="book",
        TIME_FIELD="when",
        LIST_SUFFIX="_so_far",
        ITEM_LIST_LENGTH_FIELD="how_many",
    )

    assert token_histories(dataset) == {
        user: items[: len(items) - held_out(items)] for user, items in whole.items()
    }


def test_a_dataset_before_augmentation_is_refused():
    write_histories(odd_histories())
    config = Config(
        model="SASRec",
        dataset="odd",
        config_dict={"data_path": "data", "gpu_id": "", "train_neg_sample_args": None},
    )

    with pytest.raises(ValueError, match=r"has no item lists.*train_data\._dataset"):
        training_histories(create_dataset(config))


def test_ready_made_rows_are_refused():
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for part in ("train", "valid", "test"):
        write_atomic(Path("data"), "odd", [("u", "a b", "c"), ("v", "c a", "b")], header)
        Path("data/odd/odd.inter").rename(f"data/odd/odd.{part}.inter")
    dataset = read(
        load_col={"inter": ["user_id", "item_id_list", "item_id"]},
        benchmark_filename=["train", "valid", "test"],
        alias_of_item_id=["item_id_list"],
    )

    with pytest.raises(ValueError, match="benchmark_filename=.*not supported.*ready-made"):
        training_histories(dataset)


# ---- the fingerprint ---------------------------------------------------------------------------


def numbered(
    histories: dict[str, list[str]], seed: int
) -> tuple[Histories, np.ndarray, np.ndarray]:
    """The histories under a random numbering of users and items, as RecBole might give."""
    choose = random.Random(seed)
    users, items = sorted(histories), sorted({i for items in histories.values() for i in items})
    choose.shuffle(users)
    choose.shuffle(items)
    ids = {item: number for number, item in enumerate(items, 1)}
    lengths = [len(histories[user]) for user in users]
    made = Histories(
        np.arange(1, len(users) + 1),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.array([ids[item] for user in users for item in histories[user]]),
    )
    return made, np.array(["[PAD]", *users]), np.array(["[PAD]", *items])


# NumPy's str arrays, in which RecBole keeps tokens, drop trailing NULs.
tokens = st.text(st.characters(exclude_characters="\0"), max_size=3)
token_dictionaries = st.dictionaries(
    tokens, st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=4
)


@given(token_dictionaries, st.integers(0, 99), st.integers(0, 99))
def test_fingerprint_does_not_depend_on_numbering(histories, one_seed, other_seed):
    digest = fingerprint(*numbered(histories, one_seed))

    assert digest == fingerprint(*numbered(histories, other_seed))
    assert len(digest) == 64


@given(token_dictionaries, token_dictionaries)
def test_fingerprint_tells_different_data_apart(one, other):
    same = fingerprint(*numbered(one, 0)) == fingerprint(*numbered(other, 0))

    assert same == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"u": ["1", "2"]}, {"u": ["01", "2"]}),
        ({"u": ["1"]}, {"u": ["1.0"]}),
        ({"u": ["1"]}, {"u": ["1 "]}),
        ({"u": ["\u00e9"]}, {"u": ["e\u0301"]}),
        ({"u": ["1", "2"]}, {"u": ["2", "1"]}),
        ({"u": ["a", "bc"]}, {"u": ["ab", "c"]}),
        ({"u": ["a"], "v": ["b"]}, {"u": ["b"], "v": ["a"]}),
        ({"u": ["a", "a"], "v": ["a"]}, {"u": ["a"], "v": ["a", "a"]}),
        ({"u": ["a"]}, {"a": ["u"]}),
    ],
)
def test_fingerprint_of_near_misses(one, other):
    assert fingerprint(*numbered(one, 0)) != fingerprint(*numbered(other, 0))


def test_tokens_that_do_not_occur_do_not_count():
    histories, users, items = numbered({"u": ["a", "b"]}, 0)

    assert fingerprint(histories, np.append(users, "v"), np.append(items, "c")) == fingerprint(
        histories, users, items
    )
