"""The instruction read once a batch: outputs and gradients of the whole prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONFIGS

from recbole_tslrec.language_model import shared_prefix
from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import (
    add_adapters,
    keep_few_activations,
    load_language_model,
)
from recbole_tslrec.language_model.prompt import make_prompt, of_histories
from recbole_tslrec.language_model.reader import shared_if_possible
from recbole_tslrec.language_model.shared_prefix import (
    can_continue_prefixes,
    can_share_prefix,
    looks_back_only,
)
from recbole_tslrec.language_model.source import open_source

CPU = torch.device("cpu")
CAUSAL = [kind for kind in CONFIGS if kind != "bert"]
HISTORIES = [np.array([1, 2, 3]), np.array([4]), np.array([5, 6, 7, 8, 9, 1, 2])]


def reader_of(folder, quantization, pooling="last"):
    source = open_source(folder)
    torch.manual_seed(1)
    model = add_adapters(load_language_model(source, quantization, CPU), 2, 4, 0.0, "all-linear")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, and then no gradient reaches lora_A
                parameter.normal_(std=0.1)
    prompt = make_prompt(source.tokenizer, "given the user history", "response :", 20, 64, "key")
    items = torch.randn(10, 6) * 0.02
    return ItemPromptModel(model, items, pooling).eval(), prompt


def state_and_gradient(reader, prompt) -> tuple[torch.Tensor, torch.Tensor]:
    reader.zero_grad()
    hidden = reader(**prompt.batch(of_histories(HISTORIES)))
    weights = torch.randn(hidden.shape[1], generator=torch.Generator().manual_seed(3))
    (hidden @ weights).pow(2).sum().backward()
    trained = [p.grad.flatten() for p in reader.parameters() if p.requires_grad]
    return hidden.detach(), torch.cat(trained)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_equal_to_the_whole_prompts(kind, quantization, pooling, language_model_folder):
    reader, prompt = reader_of(language_model_folder(kind), quantization, pooling)
    hidden, gradient = state_and_gradient(reader, prompt)
    shared, shared_gradient = state_and_gradient(reader, replace(prompt, shared_prefix=True))
    torch.testing.assert_close(shared, hidden, rtol=1e-5, atol=1e-5)
    # The 4-bit layers compute in bf16 where the CPU has it: rounded sums in another order.
    tolerance = 5e-3 if quantization == "nf4" else 1e-5
    assert (shared_gradient - gradient).norm() < tolerance * gradient.norm()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_only_causal_models_share(kind, quantization, language_model_folder):
    reader, _ = reader_of(language_model_folder(kind), quantization)
    assert can_share_prefix(reader.language_model) == (kind in CAUSAL)


def test_a_model_with_layers_of_another_kind_reads_each_prompt(language_model_folder):
    """LFM2's convolutions ask the cache for a state that no layer of a prefix has."""
    reader, prompt = reader_of(language_model_folder("lfm2"), "none")
    config = {"llm_gradient_checkpointing": False, "llm": "lfm2"}
    assert not shared_if_possible(prompt, reader, config, "key").shared_prefix
    assert not can_continue_prefixes(reader.language_model)


def test_the_words_are_the_same_in_both_forms(language_model_folder):
    _, prompt = reader_of(language_model_folder("llama"), "none")
    whole = prompt.batch(of_histories(HISTORIES))
    shared = replace(prompt, shared_prefix=True).batch(of_histories(HISTORIES))
    n_prefix = prompt.n_leading
    assert shared["prefix_ids"].tolist() == list(prompt.segments[0].ids)
    for name in ("token_ids", "item_rows", "attention_mask"):
        assert torch.equal(whole[name][:, n_prefix:], shared[name])
    values = of_histories(HISTORIES)
    assert prompt.lengths(values).tolist() == whole["attention_mask"].sum(1).tolist()
    own = replace(prompt, shared_prefix=True).lengths(values)
    assert own.tolist() == shared["attention_mask"].sum(1).tolist()


def test_gradient_checkpointing_gives_the_same_gradients(language_model_folder):
    """The other way to save memory: whole prompts, activations computed again."""
    reader, prompt = reader_of(language_model_folder("llama"), "none")
    hidden, gradient = state_and_gradient(reader.train(), replace(prompt, shared_prefix=True))
    keep_few_activations(reader.language_model)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel()), t)[1], lambda t: t
    ):
        reader(**prompt.batch(of_histories(HISTORIES)))
    few = sum(kept)
    again, same_gradient = state_and_gradient(reader, prompt)
    torch.testing.assert_close(again, hidden, rtol=1e-5, atol=1e-5)
    assert (same_gradient - gradient).norm() < 1e-5 * gradient.norm()
    other, _ = reader_of(language_model_folder("llama"), "none")
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel()), t)[1], lambda t: t
    ):
        other.train()(**prompt.batch(of_histories(HISTORIES)))
    assert few < 0.7 * sum(kept)


def test_the_prompt_follows_from_model_and_settings(language_model_folder):
    for kind, checkpointing, training, shared in (
        ("llama", False, True, True),
        ("llama", True, True, False),
        ("llama", True, False, True),
        ("bert", False, True, False),
    ):
        reader, prompt = reader_of(language_model_folder(kind), "none")
        config = {"llm_gradient_checkpointing": checkpointing}
        assert shared_if_possible(prompt, reader, config, "key", training).shared_prefix == shared


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("kind", [*CONFIGS, "roberta", "distilbert", "lfm2"])
def test_causal_is_what_looks_back_only(kind, quantization, language_model_folder):
    source = open_source(language_model_folder(kind))
    model = load_language_model(source, quantization, CPU)
    assert looks_back_only(model) == (kind in [*CAUSAL, "lfm2"])


def test_a_causal_model_that_cannot_share_says_what_it_costs(
    language_model_folder, monkeypatch, caplog
):
    config = {"llm_gradient_checkpointing": False, "llm": "mine"}
    monkeypatch.setattr(shared_prefix, "can_share_prefix", lambda model: False)
    with caplog.at_level("WARNING"):
        for kind, warns in (("bert", False), ("llama", True)):
            reader, prompt = reader_of(language_model_folder(kind), "none")
            assert not shared_if_possible(prompt, reader, config, "my_words").shared_prefix
            assert ("[mine] is causal" in caplog.text) == warns
    assert "two to five times as fast" in caplog.text and "A short my_words helps" in caplog.text
    caplog.clear()
    monkeypatch.undo()
    config["llm_gradient_checkpointing"] = True
    shared_if_possible(prompt, reader, config, "key", training=True)
    assert "two to five times as fast" in caplog.text


@torch.no_grad()
def test_it_is_tried_with_words_from_the_middle_of_the_vocabulary(language_model_folder):
    """The first of many a model are special tokens, whose states drown the effect in bf16."""
    model = load_language_model(open_source(language_model_folder("llama")), "none", CPU)
    words, asked = model.get_input_embeddings(), []
    words.register_forward_hook(lambda layer, given, found: asked.extend(given[0].tolist()))
    assert can_share_prefix(model)
    middle = words.num_embeddings // 2
    expected = [(middle + place) % words.num_embeddings for place in range(12)]
    assert asked[:12] == expected
