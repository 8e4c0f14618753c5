import pytest
import torch
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model

from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment


@pytest.mark.parametrize(("variant", "norm"), [("TSLRec", "l2"), ("CI", "none"), ("Norm", "none")])
def test_a_folded_model_is_a_plain_one_with_the_same_scores(
    variant, norm, small_data, settings, tmp_path
):
    """Every backbone is folded in ``test_backbones.py``."""
    changes = {"item_norm": norm}
    if variant == "TSLRec":
        changes["enhancement"] = "random"
    experiment = run_experiment(f"{variant}_SASRec", small_data, config_dict=settings | changes)
    fold_checkpoint(experiment.checkpoint, tmp_path / "plain.pth")
    _, fused, *_, test_data = load_data_and_model(experiment.checkpoint)
    config, plain, *_ = load_data_and_model(str(tmp_path / "plain.pth"))
    assert type(plain) is get_model("SASRec") and config["model"] == "SASRec"
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        torch.testing.assert_close(
            plain.eval().full_sort_predict(interaction), fused.eval().full_sort_predict(interaction)
        )
    names = set(plain.state_dict())
    assert names == set(torch.load(tmp_path / "plain.pth", weights_only=True)["state_dict"])
    assert not any("parametrizations" in name for name in names)
    assert (tmp_path / "plain.pth").stat().st_size < 1e6


def test_the_file_needs_nothing_of_ours(small_data, settings, tmp_path):
    """Every class that the file names is torch's, NumPy's, Python's or RecBole's."""
    changes = {"enhancement": "random"}
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    fold_checkpoint(experiment.checkpoint, tmp_path / "plain.pth")
    named = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "plain.pth")
    assert not any("tslrec" in name for name in named)
    content = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert "fusion" not in content["config"].final_config_dict


def test_where_to_write_is_looked_at_first(tmp_path):
    checkpoint = tmp_path / "trained.pth"
    checkpoint.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"^output: .*trained.pth\] is what is read"):
        fold_checkpoint(checkpoint, checkpoint)
    with pytest.raises(FileNotFoundError, match="^output: there is no folder"):
        fold_checkpoint(checkpoint, tmp_path / "nowhere" / "plain.pth")
    with pytest.raises(IsADirectoryError, match="^output: .* is a folder"):
        fold_checkpoint(checkpoint, tmp_path)
    assert checkpoint.read_bytes() == b"weights"


def test_a_plain_model_cannot_be_folded(small_data, settings, tmp_path):
    plain = settings | {"train_neg_sample_args": None}
    experiment = run_experiment("SASRec", small_data, config_dict=plain)
    with pytest.raises(ValueError, match="SASRec.*no fused item table"):
        fold_checkpoint(experiment.checkpoint, tmp_path / "plain.pth")
