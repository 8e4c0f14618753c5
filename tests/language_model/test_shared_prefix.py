"""The instruction read once a batch: outputs and gradients of the whole prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONFIGS

from recbole_tslrec.language_model.item_prompt_model import ItemEncoder, ItemPromptModel
from recbole_tslrec.language_model.load import (
    add_adapters,
    keep_few_activations,
    load_language_model,
)
from recbole_tslrec.language_model.prompt import make_prompt
from recbole_tslrec.language_model.prompts.segments import Items, Soft, TokenTable, Words
from recbole_tslrec.language_model.prompts.template import make_template
from recbole_tslrec.language_model.reader import shared_if_possible
from recbole_tslrec.language_model.readout import pooled
from recbole_tslrec.language_model.shared_prefix import can_continue_prefixes, can_share_prefix
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
    prompt = make_prompt(source.tokenizer, "given the user history", "response :", 20, 64)
    items = torch.randn(10, 6) * 0.02
    return ItemPromptModel(model, items, pooling).eval(), prompt


def state_and_gradient(reader, prompt) -> tuple[torch.Tensor, torch.Tensor]:
    reader.zero_grad()
    hidden = reader(**prompt.batch(HISTORIES))
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


def test_the_words_are_the_same_in_both_forms(language_model_folder):
    _, prompt = reader_of(language_model_folder("llama"), "none")
    whole = prompt.batch(HISTORIES)
    shared = replace(prompt, shared_prefix=True).batch(HISTORIES)
    n_prefix = len(prompt.before)
    assert shared["prefix_ids"].tolist() == list(prompt.before)
    for name in ("token_ids", "item_rows", "attention_mask"):
        assert torch.equal(whole[name][:, n_prefix:], shared[name])
    lengths = np.array([len(history) for history in HISTORIES])
    assert prompt.lengths(lengths).tolist() == whole["attention_mask"].sum(1).tolist()
    own = replace(prompt, shared_prefix=True).lengths(lengths)
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
        reader(**prompt.batch(HISTORIES))
    few = sum(kept)
    again, same_gradient = state_and_gradient(reader, prompt)
    torch.testing.assert_close(again, hidden, rtol=1e-5, atol=1e-5)
    assert (same_gradient - gradient).norm() < 1e-5 * gradient.norm()
    other, _ = reader_of(language_model_folder("llama"), "none")
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel()), t)[1], lambda t: t
    ):
        other.train()(**prompt.batch(HISTORIES))
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
        assert shared_if_possible(prompt, reader, config, training).shared_prefix == shared


# ---- a prefix each user, with several candidates behind it --------------------------------------

USERS = {
    "history": [np.array([1, 2, 3]), np.array([4]), np.array([5, 6, 7, 8, 9, 1, 2])],
    "candidate": [np.array([3, 4]), np.array([9, 2, 1]), np.array([5])],
}


def encoder_and_template(kind, quantization, language_model_folder):
    reader, _ = reader_of(language_model_folder(kind), quantization)
    tokenizer = open_source(language_model_folder(kind)).tokenizer
    titles = TokenTable.of(tokenizer, ["", *"0123", "4 5", "6 7 8", "9", "0 0", "1"])
    encoder = ItemEncoder(reader.language_model, reader.item_embeddings, torch.randn(2, 32))
    encoder.linear_proj.load_state_dict(reader.linear_proj.state_dict())
    candidate = Items("candidate", slots=True, texts=titles, candidates=True)
    history = Items("history", slots=True, separator=(11,))
    segments = [Words((7, 8)), history, Soft(0, 2), candidate, Words((9, 10))]
    return encoder.eval(), make_template(tokenizer, segments, 64)


def whole_prompts(template):
    repeated = {"history": [], "candidate": []}
    for history, candidates in zip(USERS["history"], USERS["candidate"], strict=True):
        repeated["history"] += [history] * len(candidates)
        repeated["candidate"] += [candidates[n : n + 1] for n in range(len(candidates))]
    return template.batch(repeated)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_candidates_go_on_from_their_users_prefix(
    kind, quantization, pooling, language_model_folder
):
    encoder, template = encoder_and_template(kind, quantization, language_model_folder)
    outcomes = []
    for batch in (whole_prompts(template), template.continued(USERS, "candidate")):
        encoder.zero_grad()
        hidden = pooled(encoder(**batch), pooling)
        weights = torch.randn(hidden.shape[1], generator=torch.Generator().manual_seed(3))
        (hidden @ weights).pow(2).sum().backward()
        trained = [p.grad.flatten() for p in encoder.parameters() if p.requires_grad]
        outcomes.append((hidden.detach(), torch.cat(trained)))
    (whole, gradient), (continued, its_gradient) = outcomes
    torch.testing.assert_close(continued, whole, rtol=1e-5, atol=1e-5)
    tolerance = 5e-3 if quantization == "nf4" else 1e-5
    assert (its_gradient - gradient).norm() < tolerance * gradient.norm()


def test_a_sliding_window_counts_no_padding(tmp_path):
    """Padding between a prefix and what follows would push the window's oldest positions out."""
    import transformers
    from conftest import small_tokenizer

    config = transformers.MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=5, max_position_embeddings=64,
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    encoder, template = encoder_and_template("mistral", "none", lambda kind: str(tmp_path))
    with torch.no_grad():
        whole = pooled(encoder(**whole_prompts(template)), "last")
        continued = pooled(encoder(**template.continued(USERS, "candidate")), "last")
    torch.testing.assert_close(continued, whole, rtol=1e-5, atol=1e-5)


def test_learned_vectors_stand_in_the_prefix_that_all_share(language_model_folder):
    encoder, template = encoder_and_template("llama", "none", language_model_folder)
    template = replace(template, segments=(Soft(0, 2), *template.segments))
    values = {"history": HISTORIES, "candidate": [np.array([3]), np.array([9]), np.array([5])]}
    shared = replace(template, shared_prefix=True).batch(values)
    assert shared["prefix_soft_rows"].tolist()[:2] == [0, 1]
    with torch.no_grad():
        whole, continued = encoder(**template.batch(values)), encoder(**shared)
    for pooling in ("last", "mean"):
        torch.testing.assert_close(pooled(continued, pooling), pooled(whole, pooling))


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_causal_models_go_on_from_prefixes_of_their_own(kind, language_model_folder):
    model = load_language_model(open_source(language_model_folder(kind)), "none", CPU)
    assert can_continue_prefixes(model) == (kind in CAUSAL)


def test_a_model_that_counts_padding_does_not_go_on_from_padded_prefixes(language_model_folder):
    model = load_language_model(open_source(language_model_folder("gpt2")), "none", CPU)
    its_own = model.forward

    def forward(inputs_embeds, attention_mask, past_key_values=None, use_cache=False):
        return its_own(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )

    model.forward = forward
    assert can_share_prefix(model) and not can_continue_prefixes(model)
