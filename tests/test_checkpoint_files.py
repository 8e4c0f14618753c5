"""Files of checkpoints that are damaged, old, foreign or none are refused by name."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from recbole.config import Config

from recbole_tslrec.store.checkpoints import convert_checkpoint, load_checkpoint
from recbole_tslrec.store.files import file_hash
from recbole_tslrec.store.stored_config import numbers_of_numpy_too

WEIGHTS = {"weight": torch.zeros(1)}


class Foreign(NamedTuple):
    value: int


class OwnConfig(Config):
    """Another plug-in's."""


def make_config() -> Config:
    given = {"train_neg_sample_args": None, "gpu_id": "", "state": "ERROR"}
    return Config("SASRec", "ml-100k", config_dict=given)


def test_a_forged_checkpoint_runs_nothing(tmp_path):
    ran = tmp_path / "ran"

    class Forged:
        def __reduce__(self):
            return Config, ("SASRec", "ml-100k", None, {"any": f"open({str(ran)!r}, 'w').close()"})

    torch.save({"config": Forged()}, tmp_path / "forged.pth")
    with pytest.raises(ValueError, match=r"forged\.pth.*is refused"):
        load_checkpoint(tmp_path / "forged.pth")
    assert not ran.exists()


def test_weights_alone_are_refused(tmp_path):
    torch.save({"item_embedding.weight": torch.zeros(3, 2)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth.*it has no config"):
        load_checkpoint(tmp_path / "weights.pth")


def test_an_old_checkpoint_is_refused_until_saved_again(tmp_path):
    file = tmp_path / "an old.pth"
    config = make_config()
    content = {"config": config, "best_valid_score": np.float64(0.5), "state_dict": WEIGHTS}
    torch.save(content, file, pickle_protocol=4)
    with pytest.raises(
        ValueError, match=r"old\.pth.*protocol 2.*saved again with recbole_tslrec"
    ) as refused:
        load_checkpoint(file)
    assert f"convert --checkpoint='{file}' " in str(refused.value)  # as a shell takes it
    torch.save(torch.load(file, weights_only=False), file)
    assert load_checkpoint(file)["config"]["model"] == "SASRec"


@pytest.mark.parametrize("kind", [Config, OwnConfig])
def test_an_old_checkpoint_with_a_path_and_a_set_is_converted(kind, tmp_path, monkeypatch):
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    config = make_config()
    config.__class__ = kind
    columns = {"inter": {"user_id", "item_id", "timestamp"}}
    config.final_config_dict |= {"checkpoint_dir": tmp_path, "load_col": columns}
    with monkeypatch.context() as alone:  # RecBole without recbole_tslrec
        alone.delattr(Config, "__getstate__")
        torch.save({"config": config, "state_dict": WEIGHTS}, old, pickle_protocol=4)
    kept = tmp_path / "elsewhere.pth"
    kept.touch()
    new.symlink_to(kept)
    convert_checkpoint(old, new, file_hash(old))
    assert new.is_symlink() and kept.stat().st_size  # what the link points to is written
    found = load_checkpoint(new)["config"]
    assert found["checkpoint_dir"] == str(tmp_path)
    assert found["load_col"] == {"inter": ["item_id", "timestamp", "user_id"]}


def test_a_foreign_class_is_refused_by_name(tmp_path):
    torch.save({"config": Foreign(1)}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"foreign\.pth.*holds .*\.Foreign,"):
        load_checkpoint(tmp_path / "foreign.pth")


def cut_short(content: bytes) -> bytes:
    return content[:-100]


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def emptied(content: bytes) -> bytes:
    return b""


def replaced_by_text(content: bytes) -> bytes:
    return b"hello world " * 100


@pytest.mark.parametrize("damage", [cut_short, altered, emptied, replaced_by_text])
def test_a_damaged_file_is_named(damage, tmp_path):
    file = tmp_path / "damaged.pth"
    torch.save({"state_dict": {"weight": torch.arange(10_000)}}, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"damaged\.pth.*damaged or cut short"):
        load_checkpoint(file)


def test_whichever_bit_is_altered_nothing_else_is_read(tmp_path):
    """Refused by name, or read as it was: some bytes of a zip's directory mean nothing."""
    file, weight = tmp_path / "altered.pth", torch.arange(50.0)
    torch.save({"config": make_config(), "state_dict": {"weight": weight}}, file)
    sound = file.read_bytes()
    refused = 0
    for place in range(0, len(sound), 7):
        file.write_bytes(
            sound[:place] + bytes([sound[place] ^ (1 << place % 8)]) + sound[place + 1 :]
        )
        try:
            content = load_checkpoint(file)
        except ValueError as error:
            assert "altered.pth" in str(error)
            refused += 1
        else:
            assert torch.equal(content["state_dict"]["weight"], weight)
    assert refused > len(sound) / 7 / 2


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match=r"tensor\.pth.*holds a Tensor"):
        load_checkpoint(tmp_path / "tensor.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_checkpoint(tmp_path / "nowhere.pth")


def test_a_number_of_numpys_is_read_without_numpys_classes(tmp_path):
    content = {"config": make_config(), "state_dict": WEIGHTS, "best_valid_score": np.float64(0.5)}
    torch.save(content, tmp_path / "earlier.pth")
    assert load_checkpoint(tmp_path / "earlier.pth")["best_valid_score"] == 0.5
    with numbers_of_numpy_too():
        load_checkpoint(tmp_path / "earlier.pth")  # a reader within a reader
        torch.load(tmp_path / "earlier.pth", weights_only=True)
    assert not any(
        getattr(entry, "__module__", "").startswith("numpy")
        for entry in torch.serialization.get_safe_globals()
    )
    torch.save(content | {"best_valid_score": np.complex64(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="odd.pth"):
        load_checkpoint(tmp_path / "odd.pth")
