"""No invented weights: what the files lack is refused by name before anything is trained."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from conftest import CONFIGS, ODD_CONFIGS, small_tokenizer
from safetensors.torch import load_file, save_file

from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.weights import check_weights, weight_files
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

CPU = torch.device("cpu")


@pytest.fixture
def folder_of(language_model_folder, tmp_path):
    """A language model's folder of its own, to be spoilt: by a change of its tensors or its config."""

    def make(kind: str = "llama", tensors=None, **config) -> str:
        folder = tmp_path / f"my_{kind}"
        shutil.copytree(language_model_folder(kind), folder, dirs_exist_ok=True)
        if tensors is not None:
            held = load_file(folder / "model.safetensors")
            save_file(tensors(held), folder / "model.safetensors", {"format": "pt"})
        asked = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(asked | config))
        return str(folder)

    return make


def with_head(kind: str, folder: Path) -> str:
    """The same model as most are published: with a head, and the trunk's names prefixed."""
    encoder = "bert" in kind or kind == "mpnet"
    auto = transformers.AutoModelForMaskedLM if encoder else transformers.AutoModelForCausalLM
    auto.from_config((CONFIGS | ODD_CONFIGS)[kind]()).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return str(folder)


def renamed(tensors, old: str, new: str):
    return {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}


SPOILT = {
    "prefixed": (
        {"tensors": lambda held: {f"module.{name}": tensor for name, tensor in held.items()}},
        r"lack 20 tensors \(embed_tokens.weight, .* 20 in them have no place \(module.embed_tokens",
    ),
    "without a layer": (
        {"tensors": lambda held: {n: t for n, t in held.items() if "layers.1." not in n}},
        r"lack 9 tensors \(layers.1.input_layernorm",
    ),
    "one tensor missing": (
        {"tensors": lambda held: {n: t for n, t in held.items() if n != "norm.weight"}},
        r"lack 1 tensors \(norm.weight\)",
    ),
    "of something else": ({"tensors": lambda held: {"x": torch.ones(2)}}, r"lack 20 .*place \(x\)"),
    "a layer more in its config": ({"num_hidden_layers": 3}, r"lack 9 tensors \(layers.2"),
    "another shape": (
        {"vocab_size": 80},
        r"hold 1 of another shape \(embed_tokens.weight is \[64, 32\], not \[80, 32\]\)",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_weights_that_do_not_fit_are_refused_by_name(how, folder_of, capfd):
    change, says = SPOILT[how]
    source = open_source(folder_of(**change))
    for refusing in (
        lambda: check_weights(source),
        lambda: load_language_model(source, "none", CPU),
    ):
        with pytest.raises(ValueError, match=f"do not fit its config.json.*{says}"):
            refusing()
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_nor_are_they_made_up_in_few_bits(quantization, folder_of):
    source = open_source(folder_of(num_hidden_layers=3))
    with pytest.raises(ValueError, match="lack 9 tensors"):
        load_language_model(source, quantization, CPU)


@pytest.mark.parametrize("kind", [*CONFIGS, *ODD_CONFIGS])
def test_a_sound_model_passes_with_its_head_or_without(kind, language_model_folder, tmp_path):
    check_weights(open_source(language_model_folder(kind)))
    source = open_source(with_head(kind, tmp_path / "with_head"))
    check_weights(source)
    load_language_model(source, "none", CPU, "eager" if kind == "mpnet" else "sdpa")


def test_the_embedded_model_passes():
    check_weights(open_source("embedded"))


def test_names_that_transformers_knows_pass(folder_of, tmp_path):
    """BERT's of old, and experts one by one where the model holds a layer's in one tensor."""
    old = folder_of("bert", lambda held: renamed_norms(held))
    check_weights(open_source(old))
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "experts")
    small_tokenizer().save_pretrained(tmp_path / "experts")
    file = tmp_path / "experts" / "model.safetensors"
    held = load_file(file)
    assert any("experts.2.w1" in name for name in held)
    check_weights(open_source(str(tmp_path / "experts")))
    save_file({n: t for n, t in held.items() if "experts.2.w1" not in n}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="llm: the weights of .*experts.* do not fit its config"):
        check_weights(open_source(str(tmp_path / "experts")))


def renamed_norms(held):
    held = renamed(renamed(held, "Norm.weight", "Norm.gamma"), "Norm.bias", "Norm.beta")
    return {f"bert.{name}": tensor for name, tensor in held.items()}


def test_bin_files_and_shards_are_read_as_well(folder_of, language_model_folder, tmp_path):
    folder = Path(folder_of())
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(held, folder / "pytorch_model.bin")
    check_weights(open_source(str(folder)))
    torch.save(renamed(held, "norm", "gnorm"), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="do not fit"):
        check_weights(open_source(str(folder)))
    (folder / "pytorch_model.bin").write_bytes(b"PK" + bytes(100))
    with pytest.raises(OSError, match="pytorch_model.bin.* cannot be read"):
        check_weights(open_source(str(folder)))
    (folder / "pytorch_model.bin").rename(folder / "weights.bin")
    with pytest.raises(
        OSError, match="no file of weights by a name that transformers looks for: model.safe"
    ):
        check_weights(open_source(str(folder)))

    shards = tmp_path / "shards"
    model = transformers.AutoModel.from_pretrained(language_model_folder())
    model.save_pretrained(shards, max_shard_size="20KB")
    small_tokenizer().save_pretrained(shards)
    source = open_source(str(shards))
    check_weights(source)
    weight_files(source)[1].unlink()
    with pytest.raises(OSError, match="model-00002-of-.*which .*index.json.* names, are not there"):
        check_weights(open_source(str(shards)))


def test_what_is_left_over_is_one_line(folder_of, tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO):
        source = open_source(with_head("llama", tmp_path / "with_head"))
        assert load_language_model(source, "none", CPU).loaded["tensors_not_used"] == 1
        (line,) = [record for record in caplog.records if record.name.startswith("recbole_tslrec")]
        assert line.levelname == "INFO" and "not used: lm_head.weight." in line.message
        caplog.clear()
        load_language_model(open_source(folder_of(num_hidden_layers=1)), "none", CPU)
        (line,) = [record for record in caplog.records if record.name.startswith("recbole_tslrec")]
        assert line.levelname == "WARNING" and "fewer layers than its weights" in line.message
    assert "UNEXPECTED" not in capfd.readouterr().err


def test_what_was_loaded_is_said(language_model_folder):
    source = open_source(language_model_folder())
    n_weights = sum(p.numel() for p in source.shape.parameters())
    for quantization in ("none", "nf4"):
        assert load_language_model(source, quantization, CPU).loaded == {
            "parameters": n_weights,
            "tensors": 20,
            "tensors_not_used": 0,
            "dtype": "float32",
            "quantization": quantization,
        }


def test_weights_that_come_quantised_are_checked_when_loaded(folder_of, tmp_path):
    source = open_source(folder_of())
    load_language_model(source, "nf4", CPU).save_pretrained(tmp_path / "nf4")
    small_tokenizer().save_pretrained(tmp_path / "nf4")
    source = open_source(str(tmp_path / "nf4"))
    check_weights(source)
    assert load_language_model(source, "none", CPU).loaded["quantization"] == "bitsandbytes"
    file = tmp_path / "nf4" / "model.safetensors"
    held = {n: t for n, t in load_file(file).items() if n != "norm.weight"}
    save_file(held, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors \(norm.weight\)"):
        load_language_model(source, "none", CPU)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 3}, "llm: the weights of .* do not fit its config.json"),
        ({"lora_r": 10**12}, r"lora_r: \[1000000000000\] is more than 32"),
        ({"sft_batch_positions": 10**12}, r"sft_batch_positions: \[1000000000000\] positions take"),
    ],
)
def test_it_is_told_before_anything_is_trained(change, says, folder_of, small_data, settings):
    ours = {key: value for key, value in change.items() if key in settings}
    config = {key: value for key, value in change.items() if key not in settings}
    settings = settings | ours | {"llm": folder_of(**config)}
    with pytest.raises(ValueError, match=says):
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    assert not list(Path("saved").glob("tslrec/**/manifest.json"))


def test_the_manifest_says_what_was_loaded(language_model_folder, small_data, settings):
    result = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    noted = [stage.notes.get("loaded_language_model") for stage in result.stages[-2:]]
    assert noted[0] == noted[1] and noted[0]["tensors"] == 20
