import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from recbole_tslrec.paradigms.tslrec.augmentation.given_items import (
    enhanced_items_width,
    given_enhanced_items,
)
from recbole_tslrec.paradigms.tslrec.augmentation.stages import ENHANCED_EMBEDDING
from recbole_tslrec.store import item_tensors
from recbole_tslrec.store.files import file_hash, with_checksum
from recbole_tslrec.store.item_tensors import ItemTensors

ODD = ["1", "01", "1.0", " 1", "a b", "[PAD]", "ü", "x" * 500, "nan", "\t"]


def items(tokens=ODD) -> ItemTensors:
    rows = torch.arange(len(tokens) * 2, dtype=torch.float32).view(-1, 2)
    return ItemTensors(list(tokens), {"vectors": rows}, {"dataset": "there"})


@given(st.permutations(ODD), st.integers(1, len(ODD)))
def test_rows_follow_their_tokens(order, n):
    aligned = items().aligned(order[:n])
    for row, token in enumerate(order[:n]):
        assert aligned.tensors["vectors"][row].tolist() == [
            2 * ODD.index(token),
            2 * ODD.index(token) + 1,
        ]


# Also lone surrogates, which RecBole may have from a file that is not quite UTF-8.
any_tokens = st.lists(st.text(max_size=6), min_size=1, max_size=12, unique=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_tokens, st.data())
def test_any_tokens_go_through_the_file(tmp_path, tokens, data):
    items(tokens).save(tmp_path / "a.safetensors")
    loaded = ItemTensors.load(tmp_path / "a.safetensors")
    wanted = data.draw(st.lists(st.sampled_from(tokens), min_size=1, unique=True))
    first = [row[0] for row in loaded.aligned(wanted).tensors["vectors"].tolist()]
    assert first == [2 * tokens.index(token) for token in wanted]
    assert loaded.content_hash() == items(tokens).content_hash()


@given(any_tokens, any_tokens)
def test_content_hash_tells_tokens_apart(one, other):
    width = min(len(one), len(other))
    one, other = one[:width], other[:width]
    assert (items(one).content_hash() == items(other).content_hash()) == (one == other)


def test_content_hash_has_no_seam_between_its_blocks(monkeypatch):
    whole = items().content_hash()
    monkeypatch.setattr(item_tensors, "_ROWS_AT_ONCE", 3)
    assert items().content_hash() == whole


def test_missing_tokens_are_counted_and_named():
    with pytest.raises(ValueError, match=r"2 of 3 items.*'2', '001'.*there"):
        items().aligned(["2", "1", "001"])


@given(st.permutations(ODD))
def test_content_hash_knows_no_order(order):
    assert items().aligned(order).content_hash() == items().content_hash()


def test_content_hash_follows_the_numbers_and_the_tokens():
    changed = items()
    changed.tensors["vectors"][3, 1] += 1
    assert changed.content_hash() != items().content_hash()
    assert items([*ODD[:-1], "other"]).content_hash() != items().content_hash()


def test_a_file_comes_back(tmp_path):
    items().save(tmp_path / "a.safetensors")
    loaded = ItemTensors.load(tmp_path / "a.safetensors")
    assert loaded.tokens == ODD and loaded.provenance == {"dataset": "there"}
    assert torch.equal(loaded.tensors["vectors"], items().tensors["vectors"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_files_that_are_not_what_they_say_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="a.safetensors"):
        ItemTensors.load(path)
    items().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="truncated or altered"):
        ItemTensors.load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="truncated or altered"):
        ItemTensors.load(path)
    path.write_bytes(whole)
    header = json.loads(path.with_suffix(".json").read_text())
    del header["checksum"]
    for wrong, message in (
        (header | {"version": 0}, "version"),
        (header | {"format": "else"}, "else"),
        (header | {"tokens": header["tokens"][1:]}, "do not match"),
        ({"a": 1}, "does not describe item tensors"),
    ):
        path.with_suffix(".json").write_text(json.dumps(with_checksum(wrong)))
        with pytest.raises(ValueError, match=message):
            ItemTensors.load(path)
    path.with_suffix(".json").unlink()
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(FileNotFoundError, match="a.json"):
        ItemTensors.load(path)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_number_of_many_is_enough(wrong, dtype):
    rows = torch.randn(50, 9).to(dtype)
    rows[31, 8] = wrong
    with pytest.raises(ValueError, match="for 1 items, among them 't31'"):
        ItemTensors([f"t{row}" for row in range(50)], {"vectors": rows})


def test_nan_is_named_by_its_items():
    with pytest.raises(ValueError, match="vectors holds NaN or infinity for 1 items.*'b'"):
        ItemTensors(["a", "b"], {"vectors": torch.tensor([[0.0], [float("inf")]])})


OTHERS = [
    *(
        None,
        True,
        0,
        -1,
        2.5,
        "x",
        [],
        {},
        [1],
        [[]],
        {"a": 1},
        ["1", "1"],
        [["1"]],
        {"vectors": 3},
    ),
    *({"vectors": []}, {"vectors": [2, "x"]}, {"vectors": {}}, {"others": [2, 2]}, {"": [2]}),
]
TENSORS = [
    *(torch.ones(2), torch.ones(()), torch.ones(2, 0), torch.zeros(0, 2), torch.ones(3, 2)),
    *(torch.ones(2, 2, dtype=torch.int32), torch.ones(2, 2).to(torch.float8_e5m2)),
    *(torch.ones(2, 2, dtype=torch.complex64), torch.tensor([1.0, float("nan")])),
    torch.ones(2, 2, dtype=torch.bool),
]


def forged(path, changes: dict, tensors: dict | None = None) -> None:
    """A file whose hashes are right and whose content need not be."""
    items(["1", "2"]).save(path)
    if tensors is not None:
        save_file(tensors, path)
    header = json.loads(path.with_suffix(".json").read_text())
    del header["checksum"]
    header |= {"sha256": file_hash(path)} | changes
    path.with_suffix(".json").write_text(json.dumps(with_checksum(header)))


def taken(path) -> None:
    """As a user's ``enhanced_items`` is: the width first, then the rows."""
    loaded = ItemTensors.load(path)
    loaded.content_hash()
    enhanced_items_width(path)
    config = {"enhanced_items": path, "dataset": "there", "allow_new_data": True}
    assert given_enhanced_items(config, ["2", "1"], NO_DATA)


NO_DATA = {"training": "", "validation": ""}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.dictionaries(st.sampled_from(sorted(item_tensors._KEYS)), st.sampled_from(OTHERS)),
    st.none() | st.sampled_from(TENSORS),
    st.sampled_from(["vectors", ENHANCED_EMBEDDING]),
    st.booleans(),
)
def test_a_forged_file_is_taken_or_refused_by_name(tmp_path, changes, tensor, name, shapes):
    path = tmp_path / "forged.safetensors"
    tensors = None if tensor is None else {name: tensor}
    if shapes and tensors is not None:
        changes["tensors"] = {name: list(tensor.shape)}
    forged(path, changes, tensors)
    try:
        taken(path)
    except (ValueError, OSError) as error:
        assert "forged." in str(error) and "\n" not in str(error)


def test_the_file_that_was_forged_is_taken_when_it_is_not(tmp_path):
    path = tmp_path / "sound.safetensors"
    tensors = {ENHANCED_EMBEDDING: torch.eye(2)}
    forged(path, {"tensors": {ENHANCED_EMBEDDING: [2, 2]}}, tensors)
    taken(path)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path, depth):
    path = tmp_path / "deep.safetensors"
    items().save(path)
    text = path.with_suffix(".json").read_text()
    deep = text.replace('"there"', "[" * depth + "]" * depth)
    path.with_suffix(".json").write_text(deep)
    with pytest.raises(ValueError, match=r"deep\.json"):
        ItemTensors.load(path)


def test_one_number_of_a_single_column_is_named():
    with pytest.raises(ValueError, match="for 1 items.*'b'"):
        ItemTensors(["a", "b"], {"vectors": torch.tensor([1.0, float("nan")])})
