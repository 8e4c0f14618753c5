"""A model is used on another device than the one that trained it; there is no GPU here."""

import pytest
import torch
from trained import make_toy

from recbole_tslrec import Recommender
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a GPU alone can do is asked for")
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
