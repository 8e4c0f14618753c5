"""A model is used on another device than the one that trained it; there is no GPU here."""

import pytest
import torch
from recbole.quick_start import load_data_and_model
from support.small_backbones import keys_of, pretrained
from trained import make_toy

from recbole_tslrec import Recommender
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("model", "llm", "key", "value"),
    [
        ("E4SRec", "llama", "sft_optimizer", "paged_adamw_8bit"),
        ("E4SRec", "llama", "llm_attention", "flash_attention_2"),
        ("E4SRec", "llama", "sft_batch_positions", 10**9),
        ("P5", "t5", "llm_attention", "flash_attention_2"),
        ("P5", "t5", "sft_batch_positions", 10**9),
    ],
)
def test_what_a_gpu_alone_can_train_with_is_used_without_one(
    model, llm, key, value, headed_model_folder
):
    toy = make_toy(model, llm=headed_model_folder(llm), lora_r=2)
    expected = Recommender(toy.checkpoint).recommend(["u1"], k=3)
    content = load_checkpoint(toy.checkpoint)
    content["config"][key] = value
    write_checkpoint(content, toy.checkpoint)
    assert Recommender(toy.checkpoint).recommend(["u1"], k=3).equals(expected)


def written_on_a_gpu(checkpoint, monkeypatch) -> None:
    """Make a checkpoint what it would be had a GPU written it."""
    content = load_checkpoint(checkpoint)
    content["config"]["device"] = torch.device("cuda")
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        write_checkpoint(content, checkpoint)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(checkpoint)


def test_recbole_loads_what_a_gpu_has_written(monkeypatch):
    toy = make_toy("SASRec")
    written_on_a_gpu(toy.checkpoint, monkeypatch)
    config, model, *_ = load_data_and_model(toy.checkpoint)
    assert config["device"] == torch.device("cpu")
    torch.testing.assert_close(model.state_dict(), toy.model.state_dict())
    with pytest.raises(RuntimeError, match="CUDA"):  # elsewhere torch is as it was
        torch.load(toy.checkpoint)


def test_s3rec_goes_on_from_what_a_gpu_has_pretrained(small_data, settings, monkeypatch):
    keys = settings | keys_of("S3Rec") | pretrained(small_data, settings)
    written_on_a_gpu(keys["pre_model_path"], monkeypatch)
    found = run_experiment("S3Rec", small_data, config_dict=keys | {"train_neg_sample_args": None})
    assert found.test_result["ndcg@10"] >= 0
