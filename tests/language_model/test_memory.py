import pytest
import torch
import transformers
from conftest import CONFIGS

from recbole_tslrec.language_model import memory
from recbole_tslrec.language_model.load import check_quantization, load_language_model, meta_model
from recbole_tslrec.language_model.memory import check_batch, check_memory, estimated_bytes
from recbole_tslrec.language_model.source import LanguageModelSource, open_source

CPU = torch.device("cpu")


def test_a_model_that_comes_quantised_is_not_estimated(monkeypatch, language_model_folder):
    source = open_source(language_model_folder())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    with pytest.raises(ValueError, match="No quantisation makes it fit"):
        check_memory(source, "none", CPU)
    source.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    check_memory(source, "none", CPU)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_estimate_is_what_is_loaded(kind, quantization, language_model_folder):
    source = open_source(language_model_folder(kind))
    loaded = load_language_model(source, quantization, CPU)
    held = sum(p.numel() * p.element_size() for p in loaded.parameters())
    assert estimated_bytes(meta_model(source), quantization, CPU) == pytest.approx(held, rel=0.01)


def test_llama2_13b_in_four_bits_is_seven_gib():
    config = transformers.LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    )
    source = LanguageModelSource("13b", "13b", config, None, False)
    sizes = [estimated_bytes(meta_model(source), choice, CPU) / 2**30 for choice in ("none", "nf4")]
    assert sizes[0] == pytest.approx(47.9, abs=0.5)  # 12.85 billion weights in fp32
    assert sizes[1] == pytest.approx(6.7, abs=0.3)


def test_a_model_that_is_too_large_is_refused_with_what_would_fit(
    language_model_folder, monkeypatch
):
    source = open_source(language_model_folder("llama"))
    sizes = {q: estimated_bytes(meta_model(source), q, CPU) for q in memory.QUANTIZATIONS}
    assert sizes["nf4"] < sizes["int8"] < sizes["none"]
    monkeypatch.setattr(memory, "free_bytes", lambda device: sizes["int8"])
    check_memory(source, "nf4", CPU)
    with pytest.raises(ValueError, match="llm:.*none take.*int8 .* or nf4 .* would fit"):
        check_memory(source, "none", CPU)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
    with pytest.raises(ValueError, match="smaller language model"):
        check_memory(source, "nf4", CPU)


def test_a_batch_beyond_the_memory_is_refused(language_model_folder, monkeypatch):
    source = open_source(language_model_folder("llama"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000 * 2 * 32 * 4)  # 2 layers of 32
    check_batch(source, 1000, CPU)
    with pytest.raises(ValueError, match=r"sft_batch_positions: \[1001\].*far fewer than 1000"):
        check_batch(source, 1001, CPU)


def test_quantisation_that_cannot_be_had_is_refused():
    config = CONFIGS["llama"]()
    source = LanguageModelSource("mine", "mine", config, None, False)
    with pytest.raises(ValueError, match=r"llm_quantization: \[nf4\].*not on \[mps\]"):
        check_quantization("nf4", source, torch.device("mps"))
    config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ValueError, match=r"\[mine\].*quantised already \(gptq\)"):
        check_quantization("int8", source, CPU)
    check_quantization("none", source, CPU)
