"""A prefix each user, read once, with candidates behind it: the whole prompts' outputs and gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import CONFIGS, small_tokenizer

from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.packed_prefixes import Prompts, packs, read_packed
from recbole_tslrec.language_model.prompts.segments import Items, Soft, TokenTable, Words
from recbole_tslrec.language_model.prompts.template import make_template
from recbole_tslrec.language_model.readout import pooled
from recbole_tslrec.language_model.shared_prefix import (
    can_continue_prefixes,
    can_share_prefix,
    continue_from_a_cache,
)
from recbole_tslrec.language_model.source import open_source

CPU = torch.device("cpu")
CAUSAL = [kind for kind in CONFIGS if kind != "bert"]
USERS = {
    "history": [np.array([1, 2, 3]), np.array([4]), np.array([5, 6, 7, 8, 9, 1, 2])],
    "candidate": [np.array([3, 4]), np.array([9, 2, 1]), np.array([5])],
}


def encoder_and_template(kind, quantization, language_model_folder):
    source = open_source(language_model_folder(kind))
    tokenizer = source.tokenizer
    torch.manual_seed(1)
    model = add_adapters(load_language_model(source, quantization, CPU), 2, 4, 0.0, "all-linear")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, and then no gradient reaches lora_A
                parameter.normal_(std=0.1)
    titles = TokenTable.of(tokenizer, ["", *"0123", "4 5", "6 7 8", "9", "0 0", "1"])
    encoder = ItemEncoder(model, torch.randn(10, 6), torch.randn(2, 32))
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
    # The 4-bit layers compute in bf16 where the CPU has it: rounded sums in another order.
    tolerance = 5e-3 if quantization == "nf4" else 1e-5
    assert (continued - whole).norm() < tolerance * whole.norm()
    assert (its_gradient - gradient).norm() < tolerance * gradient.norm()


def test_prompts_are_packed_where_a_mask_says_it_all(language_model_folder):
    """Mistral has a sliding window; it goes on from a cache."""
    found = {}
    for kind in CAUSAL:
        source = open_source(language_model_folder(kind))
        found[kind] = packs(load_language_model(source, "none", CPU))
    assert found == {kind: kind != "mistral" for kind in CAUSAL}


@pytest.mark.parametrize("kind", ["gpt-neo", "falcon"])
def test_models_with_masks_of_their_own_are_not_packed(kind, tmp_path):
    """GPT-Neo's window goes by columns, ALiBi by the mask's."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    config = {
        "gpt-neo": lambda: transformers.GPTNeoConfig(
            vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, window_size=6,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
        ),
        "falcon": lambda: transformers.FalconConfig(**sizes, num_attention_heads=2, alibi=True),
    }[kind]()  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    model = load_language_model(open_source(str(tmp_path)), "none", CPU, "eager").eval()
    assert not packs(model) and isinstance(can_continue_prefixes(model), bool)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_prompts_are_read_as_from_a_cache(kind, attention, language_model_folder):
    """And padding, on either side, is as good as not there."""
    source = open_source(language_model_folder(kind))
    model = load_language_model(source, "none", CPU, attention)
    draw = torch.Generator().manual_seed(2)
    prefixes = torch.randn(3, 4, 32, generator=draw)
    rest = torch.randn(6, 3, 32, generator=draw)
    prefix_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    prefix_of = torch.tensor([2, 0, 1, 2, 2, 0])  # in any order
    prompts = Prompts(prefixes, prefix_mask, prefix_of, rest, mask)
    expected, followed = continue_from_a_cache(model, prompts)
    states, found = read_packed(model, prompts)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(states[prefix_mask == 1], expected[prefix_mask == 1], **close)
    torch.testing.assert_close(found[mask == 1], followed[mask == 1], **close)
    assert not found[mask == 0].any()


def test_a_sliding_window_counts_no_padding(tmp_path):
    """Padding between a prefix and what follows would push the window's oldest positions out."""
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
    values = {
        "history": USERS["history"],
        "candidate": [np.array([3]), np.array([9]), np.array([5])],
    }
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
