"""Encoders whose states hang on the padding behind a prompt are told from those that do not read it."""

import pytest
import torch
import transformers
from conftest import small_tokenizer

from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.own_padding import check_padding
from recbole_tslrec.language_model.reader import load_for_prompts
from recbole_tslrec.language_model.source import open_source

CPU = torch.device("cpu")
SETTINGS = {
    "llm_quantization": "none",
    "device": CPU,
    "llm_attention": "eager",
    "show_progress": False,
}


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "embedded"])
def test_padding_is_nothing_to_most(kind, quantization, language_model_folder):
    source = open_source(kind if kind == "embedded" else language_model_folder(kind))
    model = load_language_model(source, quantization, CPU, "eager")
    check_padding(model, kind)
    with torch.autocast("cpu", torch.bfloat16):
        if quantization != "none":
            check_padding(model, kind)


def test_an_encoder_that_mixes_it_in_is_refused(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    transformers.FNetModel(transformers.FNetConfig(**sizes)).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    source = open_source(str(tmp_path))
    with pytest.raises(ValueError, match="llm: .*, a fnet, reads the padding behind a prompt"):
        load_for_prompts(SETTINGS, source, with_adapters=False)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_others_are_loaded(kind, language_model_folder):
    load_for_prompts(SETTINGS, open_source(language_model_folder(kind)), with_adapters=False)
