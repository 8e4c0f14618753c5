"""What is written behind prompts, against one prompt and one token at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import HEADED_CONFIGS, small_tokenizer
from torch.nn import functional

from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.generation import _fast_products, _in_float32, generate
from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.prompts.segments import Field, Items, Words
from recbole_tslrec.language_model.prompts.template import make_template
from recbole_tslrec.language_model.source import open_source

CPU = torch.device("cpu")
VALUES = {
    "history": [np.array([1, 2, 3]), np.array([4]), np.array([5, 2, 1, 1, 3]), np.array([6, 6])],
    "text": [np.array([11, 12]), np.array([13]), np.array([], dtype=np.int64), np.array([14])],
}


def encoder_of(folder: str) -> tuple[ItemEncoder, "object"]:
    source = open_source(folder, kinds=("causal", "encoder-decoder"))
    model = load_language_model(source, "none", CPU, "eager", head=True)
    torch.manual_seed(3)
    segments = [Words((7, 8)), Items("history", slots=True), Field("text"), Words((9,))]
    return ItemEncoder(model, torch.randn(7, 5)).eval(), make_template(
        source.tokenizer, segments, 50
    )


@torch.no_grad()
def one_at_a_time(encoder: ItemEncoder, template, example: int, n_tokens: int) -> list[int]:
    model = encoder.language_model
    batch = template.batch({name: [rows[example]] for name, rows in VALUES.items()})
    embeddings = encoder.embed(batch["token_ids"], batch.get("item_rows"), None)
    written: list[int] = []
    for _ in range(n_tokens):
        if model.config.is_encoder_decoder:
            before = torch.tensor([[model.config.decoder_start_token_id, *written]])
            logits = model(inputs_embeds=embeddings, decoder_input_ids=before).logits
        else:
            before = torch.tensor([written], dtype=torch.int64)
            both = torch.cat([embeddings, model.get_input_embeddings()(before)], dim=1)
            logits = model(inputs_embeds=both).logits
        written.append(int(logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize("kind", HEADED_CONFIGS)
def test_the_most_likely_token_again_and_again(kind, headed_model_folder):
    encoder, template = encoder_of(headed_model_folder(kind))
    expected = [one_at_a_time(encoder, template, example, 5) for example in range(4)]
    never = [63]
    assert not any(63 in written for written in expected)
    for positions_at_once in (1, 30, 10_000):
        written = generate(encoder, template, VALUES, 5, never, positions_at_once)
        assert [row.tolist() for row in written] == expected


@pytest.mark.parametrize("kind", [*HEADED_CONFIGS, "bamba"])
def test_behind_words_alone_it_is_the_same(kind, headed_model_folder, tmp_path):
    """A Bamba writes behind nothing else: transformers takes no embeddings for it."""
    if kind == "bamba":
        sizes = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
        config = transformers.BambaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            attn_layer_indices=[1],
            **sizes,
        )
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        small_tokenizer().save_pretrained(tmp_path)
    encoder, template = encoder_of(str(tmp_path) if kind == "bamba" else headed_model_folder(kind))
    template = replace(template, segments=(Words((7, 8)), Field("text"), Words((9,))))
    expected = [one_at_a_time(encoder, template, example, 5) for example in range(4)]
    written = generate(encoder, template, {"text": VALUES["text"]}, 5, [63])
    assert [row.tolist() for row in written] == expected


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_end_token_ends_an_answer(kind, headed_model_folder):
    encoder, template = encoder_of(headed_model_folder(kind))
    whole = [one_at_a_time(encoder, template, example, 5) for example in range(4)]
    ends = [whole[0][2], whole[1][0]]
    expected = []
    for row in whole:
        at = [place for place, token in enumerate(row) if token in ends]
        expected.append(row[: at[0]] if at else row)
    assert [row.tolist() for row in generate(encoder, template, VALUES, 5, ends)] == expected


def test_the_models_own_settings_of_generation_do_not_count(headed_model_folder):
    encoder, template = encoder_of(headed_model_folder("llama"))
    before = generate(encoder, template, VALUES, 5, [63])
    own = encoder.language_model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.num_beams = True, 9.0, 3.0, 2
    encoder.language_model = add_adapters(encoder.language_model, 2, 4, 0.0, "all-linear")
    after = generate(encoder, template, VALUES, 5, [63])
    assert [row.tolist() for row in after] == [row.tolist() for row in before]
    assert encoder.language_model.get_base_model().generation_config is own


def test_logits_are_exact_where_products_are_fast(headed_model_folder, monkeypatch):
    monkeypatch.setattr(
        "recbole_tslrec.language_model.generation.bf16_is_fast", lambda device: True
    )
    encoder, template = encoder_of(headed_model_folder("llama"))
    model, seen = encoder.language_model, []
    model.lm_head.register_forward_hook(lambda head, given, logits: seen.append(logits.dtype))
    layer = model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda layer, given, product: seen.append(product.dtype))
    generate(encoder, template, VALUES, 2, [63])
    assert seen == [torch.bfloat16, torch.float32] * 2
    assert "forward" not in vars(model.lm_head)


def test_logits_of_a_model_held_in_bf16_are_not_rounded(headed_model_folder):
    encoder, _ = encoder_of(headed_model_folder("llama"))
    model = encoder.language_model.to(torch.bfloat16)  # as on a GPU
    hidden = torch.randn(5, model.config.hidden_size, dtype=torch.bfloat16)
    expected = functional.linear(hidden.float(), model.lm_head.weight.float())
    exact = _in_float32(model.get_output_embeddings())
    with _fast_products(model, exact, torch.device("cpu")):
        assert torch.equal(model.lm_head(hidden), expected)
    assert model.lm_head.weight.dtype == torch.bfloat16
