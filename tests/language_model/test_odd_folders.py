"""Folders with a language model whose config.json, tokenizer or weights are not what they must be."""

import json
import shutil
from pathlib import Path

import pytest

from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.paradigms.tslrec.prompt import make_prompt as make_tslrec_prompt

KEYS = {
    "llm_instruction": "given the user",
    "llm_response": "response :",
    "n_categories": 4,
    "llm_max_history": 5,
}


@pytest.fixture
def folder(language_model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(language_model_folder("llama"), tmp_path / "given"))


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refused(folder: Path, says: str) -> None:
    with pytest.raises(OSError, match=says) as caught:
        make_tslrec_prompt(KEYS, open_source(str(folder)))
    assert str(caught.value).startswith("llm: the language model [")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"intermediate_size": "t5"}, "intermediate_size.*expected int"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"num_key_value_heads": 0}, "ZeroDivisionError"),
        ({"head_dim": 0}, "ZeroDivisionError"),
        ({"dtype": "float99"}, "float99"),
        ({"auto_map": 3}, "TypeError"),
        ({"model_type": {}}, "TypeError|model_type"),
        ({"quantization_config": "x"}, "to_dict"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers in its config.json is \[0\]"),
    ],
)
def test_an_odd_entry_of_the_config_is_refused_by_the_folders_name(entry, says, folder):
    edit(folder / "config.json", **entry)
    refused(folder, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"version": "1.0"}', "KeyError: 'added_tokens'"),
        ("{", "tokenizer|EOF"),
        ('{"version": -1, "added_tokens": []}', "expected a string"),
    ],
)
def test_a_tokenizer_of_another_form_is_refused_by_the_folders_name(content, says, folder):
    (folder / "tokenizer.json").write_text(content)
    refused(folder, says)


@pytest.mark.parametrize("content", ["1", "[]", "null", '"x"'])
def test_a_tokenizers_config_that_is_no_object_is_refused(content, folder):
    (folder / "tokenizer_config.json").write_text(content)
    refused(folder, "AttributeError|ValueError|TypeError")


def test_a_tokenizer_without_words_is_refused_before_it_is_needed(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(folder, r"Missing \[UNK\] token")


def test_a_longest_prompt_that_is_no_number_is_refused(folder):
    edit(folder / "tokenizer_config.json", model_max_length="x")
    refused(folder, "TypeError")
    for longest, context in ((48.0, 48), (10**30, 64), (None, 64), (-1, 64)):
        edit(folder / "tokenizer_config.json", model_max_length=longest)
        assert open_source(str(folder)).context_length == context


def test_a_folder_in_the_place_of_the_weights_is_named(folder):
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.mkdir()
    with pytest.raises(OSError, match=r"llm: .* has no file of weights by .*: model.safetensors,"):
        open_source(str(folder))
