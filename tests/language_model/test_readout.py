"""What is read out of hidden states, against the logits of the whole model."""

import numpy as np
import pytest
import torch
import transformers
from conftest import HEADED_CONFIGS, small_tokenizer

from recbole_tslrec.language_model.encoder import ItemEncoder, trunk_of, without_head
from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.own_head import check_head
from recbole_tslrec.language_model.prompts.segments import Items, Soft, TokenTable, Words
from recbole_tslrec.language_model.prompts.template import make_template
from recbole_tslrec.language_model.readout import (
    States,
    first_answer_states,
    head_of,
    pool,
    pooled,
    stores_a_head,
)
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.verbalizer import FrozenHead

CPU = torch.device("cpu")
KINDS = ("causal", "encoder", "encoder-decoder")
CAUSAL = [kind for kind in HEADED_CONFIGS if "t5" not in kind]
LETTERS = [9, 4, 30]
HISTORIES = {"history": [np.array([1, 2, 3]), np.array([4]), np.array([5, 2])]}


def encoder_of(folder: str, head: bool) -> tuple[ItemEncoder, dict[str, torch.Tensor]]:
    source = open_source(folder, kinds=KINDS)
    model = load_language_model(source, "none", CPU, "eager", head)
    torch.manual_seed(3)
    encoder = ItemEncoder(model, torch.randn(7, 5), torch.randn(4, 32)).eval()
    titles = TokenTable.of(source.tokenizer, ["", "0 1", "2", "3 4 5", "6", "7 8", "9"])
    segments = [Words((7, 8)), Soft(1, 2), Items("history", slots=True, texts=titles), Words((9,))]
    return encoder, make_template(source.tokenizer, segments, 64).batch(HISTORIES)


def by_hand(encoder: ItemEncoder, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The embeddings, a position at a time. [B, T, H]"""
    look_up = encoder.language_model.get_input_embeddings()
    rows = []
    for tokens, items, softs in zip(
        batch["token_ids"], batch["item_rows"], batch["soft_rows"], strict=True
    ):
        row = []
        for token, item, soft in zip(tokens, items, softs, strict=True):
            slot = encoder.linear_proj(encoder.item_embeddings[item])
            word = look_up(token[None])[0]
            row.append(slot if item >= 0 else encoder.soft_vectors[soft] if soft >= 0 else word)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", HEADED_CONFIGS)
def test_letters_have_the_whole_models_logits(kind, headed_model_folder):
    encoder, batch = encoder_of(headed_model_folder(kind), head=True)
    model, mask = encoder.language_model, batch["attention_mask"]
    states = encoder(**batch)
    if "t5" in kind:
        start = torch.full((3, 1), model.config.decoder_start_token_id)
        whole = model(
            inputs_embeds=by_hand(encoder, batch), attention_mask=mask, decoder_input_ids=start
        )
        expected, hidden = whole.logits[:, 0], first_answer_states(model, states)
    else:
        whole = model(inputs_embeds=by_hand(encoder, batch), attention_mask=mask)
        expected, hidden = whole.logits[range(3), mask.sum(1) - 1], pooled(states, "last")
        torch.testing.assert_close(head_of(model)(states.hidden[:, 1:3]), whole.logits[:, 1:3])
    torch.testing.assert_close(head_of(model)(hidden), expected)
    torch.testing.assert_close(head_of(model).rows(LETTERS)(hidden), expected[:, LETTERS])


@torch.no_grad()
@pytest.mark.parametrize("kind", HEADED_CONFIGS)
def test_letters_are_the_heads_rows_and_the_rest_can_do_without_it(kind, headed_model_folder):
    source = open_source(headed_model_folder(kind), kinds=KINDS)
    whole = load_language_model(source, "none", CPU, "eager", head=True)
    check_head(whole, kind)
    assert stores_a_head(source)
    expected = head_of(whole).rows(LETTERS)
    letters = FrozenHead(expected)
    assert torch.equal(letters.weight, expected.weight)
    assert letters.behind == {key: getattr(expected, key) for key in ("scale", "factor", "cap")}
    alone = load_language_model(source, "none", CPU, "eager")
    rest = without_head(whole)
    # By the names of its weights what is trained of it is found again.
    assert [name for name, _ in alone.named_parameters()] == [
        name for name, _ in rest.named_parameters() if not name.startswith("lm_head")
    ]
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3).long()}
    read = [trunk_of(one)(**batch).last_hidden_state for one in (alone, rest, whole)]
    assert torch.equal(read[0], read[1]) and torch.equal(read[0], read[2])


def test_llama_4_has_its_trunk_under_a_name_of_its_own():
    config = transformers.Llama4TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=2,
    )
    whole = transformers.Llama4ForCausalLM(config)
    assert trunk_of(whole) is whole.model and without_head(whole) is whole.model


def test_logits_of_a_kind_that_is_not_known_are_refused(headed_model_folder):
    model = load_language_model(open_source(headed_model_folder("llama")), "none", CPU, head=True)
    its_own = model.lm_head.forward
    model.lm_head.forward = lambda hidden: its_own(hidden) * 2
    with pytest.raises(ValueError, match="llm: .this one., a llama, makes its logits in a way"):
        check_head(model, "this one")


def test_a_bias_belongs_to_the_letters(tmp_path):
    config = transformers.PhiConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = transformers.PhiForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    whole = load_language_model(open_source(str(tmp_path)), "none", CPU, head=True)
    letters, hidden = FrozenHead(head_of(whole).rows(LETTERS)), torch.randn(2, 32)
    torch.testing.assert_close(letters(hidden), model.lm_head(hidden)[:, LETTERS])


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_head_is_not_quantised_with_the_rest(kind, quantization, headed_model_folder):
    source = open_source(headed_model_folder(kind), kinds=KINDS)
    loaded = [load_language_model(source, how, CPU, head=True) for how in ("none", quantization)]
    assert torch.equal(*(head_of(model).weight for model in loaded))


def test_a_model_that_was_saved_without_its_head_stores_none(language_model_folder):
    source = open_source(language_model_folder("llama"))
    assert not stores_a_head(source)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_gradient_reaches_adapters_slots_and_learned_vectors(kind, headed_model_folder):
    encoder, batch = encoder_of(headed_model_folder(kind), head=True)
    encoder.language_model = add_adapters(encoder.language_model, 2, 4, 0.0, "all-linear")
    states = encoder.train()(**batch)
    model = encoder.language_model
    hidden = first_answer_states(model, states) if kind == "t5" else pooled(states, "last")
    head_of(model).rows(LETTERS)(hidden).pow(2).sum().backward()
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {"soft_vectors", "linear_proj.weight", "linear_proj.bias"} < trained
    assert all("lora_" in name or name[:4] in ("soft", "line") for name in trained)
    assert encoder.soft_vectors.grad[1:3].abs().sum() > 0
    assert encoder.soft_vectors.grad[[0, 3]].abs().sum() == 0  # not in the prompt
    assert encoder.linear_proj.weight.grad.abs().sum() > 0
    grads = [p.grad for name, p in encoder.named_parameters() if "lora_B" in name]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_the_mean_is_over_each_prompts_own_prefix():
    states = States(
        hidden=torch.randn(3, 2, 4),
        attention_mask=torch.tensor([[1, 0], [1, 1], [1, 1]]),
        prefix=torch.randn(2, 3, 4),
        prefix_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]),
        prefix_of=torch.tensor([1, 0, 1]),
    )
    expected = [
        torch.cat([states.prefix[1], states.hidden[0, :1]]).mean(0),
        torch.cat([states.prefix[0, 1:], states.hidden[1]]).mean(0),
        torch.cat([states.prefix[1], states.hidden[2]]).mean(0),
    ]
    torch.testing.assert_close(pooled(states, "mean"), torch.stack(expected))
    last = pool(states.hidden, states.attention_mask, "last")
    assert torch.equal(pooled(states, "last"), last)
