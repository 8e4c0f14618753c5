"""Causal models, encoders and encoder-decoders: told apart, loaded with a head, trained whole."""

import pytest
import torch
from conftest import CONFIGS, HEADED_CONFIGS, ODD_CONFIGS

from recbole_tslrec.language_model.load import add_adapters, load_language_model
from recbole_tslrec.language_model.source import open_source

CPU = torch.device("cpu")
ALL = ("causal", "encoder", "encoder-decoder")
ENCODERS = ("bert", "roberta", "albert", "distilbert", "mpnet")


@pytest.mark.parametrize("kind", [*CONFIGS, *ODD_CONFIGS])
def test_a_kind_follows_from_the_configuration(kind, language_model_folder):
    expected = "encoder" if kind in ENCODERS else "causal"
    folder = language_model_folder(kind)
    assert open_source(folder).kind == expected
    with pytest.raises(ValueError, match=f"llm: .* is of the kind {expected} .* encoder-decoder"):
        open_source(folder, kinds=("encoder-decoder",))


def test_an_encoder_decoder_is_taken_where_the_paradigm_can(headed_model_folder):
    folder = headed_model_folder("t5")
    with pytest.raises(ValueError, match=r"is of the kind encoder-decoder \(t5\).* causal or enc"):
        open_source(folder)
    source = open_source(folder, kinds=ALL)
    assert (source.kind, source.hidden_size) == ("encoder-decoder", 32)


def test_an_encoder_has_no_head(language_model_folder):
    with pytest.raises(ValueError, match="llm: .* of the kind encoder and has no head"):
        load_language_model(open_source(language_model_folder("bert")), "none", CPU, head=True)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("kind", HEADED_CONFIGS)
def test_frozen_with_adapters_or_trained_whole(kind, head, headed_model_folder):
    source = open_source(headed_model_folder(kind), kinds=ALL)
    frozen = load_language_model(source, "none", CPU, "eager", head)
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert (frozen.get_output_embeddings() is not None) == head
    adapted = add_adapters(frozen, 2, 4, 0.0, "all-linear")
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    whole = load_language_model(source, "none", CPU, "eager", head, trainable=True)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in whole.parameters())


def test_quantised_weights_are_not_trained_themselves(headed_model_folder):
    source = open_source(headed_model_folder("llama"))
    with pytest.raises(ValueError, match="held as nf4, cannot be trained themselves"):
        load_language_model(source, "nf4", CPU, trainable=True)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_t5_learns_by_adapters(quantization, headed_model_folder):
    source = open_source(headed_model_folder("t5"), kinds=ALL)
    model = load_language_model(source, quantization, CPU, head=True)
    model = add_adapters(model, 2, 4, 0.0, ["q", "v"]).train()
    prompts = torch.randint(2, 300, (2, 4))
    model(input_ids=prompts, labels=prompts).loss.backward()
    grads = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert grads and all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0


def test_a_head_that_is_not_among_the_weights_is_not_made_up(language_model_folder):
    source = open_source(language_model_folder("llama"))  # saved as a trunk
    with pytest.raises(ValueError, match=r"llm: the weights .* lack 1 tensors \(lm_head.weight\)"):
        load_language_model(source, "none", CPU, head=True)
