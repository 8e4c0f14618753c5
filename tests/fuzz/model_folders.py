"""Changes of a folder with a language model: its weights, config.json, tokenizer, or all of it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from fuzz.damage import damaged_bytes, pick

FOLDER = Path("given")
_WEIGHTS = FOLDER / "model.safetensors"
_BACKUP = Path("backup")
_JUNK = [None, -1, 0, 1, 3, "x", [], {}, True, 1.5, 10**12, "../x", "float99", float("nan")]


@dataclass(frozen=True)
class Change:
    """What was done to the folder.

    Attributes:
        what: in words.
        may_run: whether it may be taken.
        same: whether the hidden states must then be the untouched model's.
        must_warn: whether a user must then be told of it.
    """

    what: str
    may_run: bool = True
    same: bool = False
    must_warn: bool = False


# ---- the weights ---------------------------------------------------------------------------------


def names_of_weights(choose: random.Random, kind: str) -> Change:
    """Tensors by other names, missing, or another's."""
    state = load_file(_WEIGHTS)
    name = choose.choice([one for one in state if "pooler" not in one])
    how = pick(
        choose,
        "module., model., transformer., x., a layer missing, a tensor missing, foreign, none, one more",
    )
    if how.endswith("."):
        state = {how + one: tensor for one, tensor in state.items()}
    elif how == "a layer missing":
        layer = choose.choice([".0.", ".1."])
        state = {one: tensor for one, tensor in state.items() if layer not in f".{one}"}
    elif how == "a tensor missing":
        del state[name]
        how = f"{name} is missing"
    elif how == "one more":
        state[choose.choice(["lm_head.weight", "more"])] = torch.zeros(3, 3)
    else:
        state = {"a": torch.zeros(3)} if how == "foreign" else {}
    _save(state)
    # Under another prefix, if they are found all the same.
    return Change(f"weights: {how}", how == "one more" or how.endswith("."), same=True)


def numbers_of_weights(choose: random.Random, kind: str) -> Change:
    """A tensor of another shape or type, or of other numbers."""
    state = load_file(_WEIGHTS)
    name = choose.choice([one for one in state if "pooler" not in one])
    tensor = state[name]
    shapes = {
        "flat": tensor.flatten(),
        "a row short": tensor[1:],
        "a column more": torch.cat([tensor, tensor[..., :1]], -1),
        "empty": tensor[:0],
        "transposed": tensor.T if tensor.dim() == 2 else tensor[None],
    }
    numbers = {
        "float64": tensor.double(),
        "float16": tensor.half(),
        "int64": tensor.long(),
        "NaN": tensor * torch.nan,
        "NaN in a row": tensor.index_fill(0, torch.tensor([0]), torch.nan),
        "huge": tensor * 1e38,
        "zero": tensor * 0,
    }
    how = choose.choice([*shapes, *numbers])
    state[name] = (shapes | numbers)[how].clone()
    _save(state)
    unchanged = state[name].shape == tensor.shape and torch.equal(state[name].float(), tensor)
    fits = state[name].shape == tensor.shape
    return Change(f"weights: {name} is {how}", may_run=fits, same=unchanged)


def files_of_weights(choose: random.Random, kind: str) -> Change:
    """Two shards with an index, or torch's own form."""
    state = load_file(_WEIGHTS)
    _WEIGHTS.unlink()
    how = pick(
        choose, "whole, a shard gone, a name less, another place, index cut, a bin, a bin cut"
    )
    if "bin" in how:
        file = FOLDER / "pytorch_model.bin"
        torch.save(state, file)
        if how == "a bin cut":
            file.write_bytes(file.read_bytes()[:-500])
        return Change(f"weights: {how}", how == "a bin", same=True)
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, those in parts.items():
        _save({name: state[name] for name in those}, FOLDER / file)
    places = {name: file for file, those in parts.items() for name in those}
    if how == "a shard gone":
        (FOLDER / "model-2.safetensors").unlink()
    elif how == "a name less":
        del places[choose.choice(names)]
    elif how == "another place":
        places[names[0]] = "model-2.safetensors"
    text = json.dumps({"metadata": {}, "weight_map": places})
    index = FOLDER / "model.safetensors.index.json"
    index.write_text(text[:-40] if how == "index cut" else text)
    return Change(
        f"weights: two shards, {how}", how not in ("a shard gone", "index cut"), same=True
    )


def _save(state: dict[str, torch.Tensor], file: Path = _WEIGHTS) -> None:
    save_file({name: one.contiguous() for name, one in state.items()}, file, {"format": "pt"})


# ---- config.json ---------------------------------------------------------------------------------


def shape_in_config(choose: random.Random, kind: str) -> Change:
    """The shape that config.json gives is another than the weights'."""
    own = {
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "inner": "intermediate_size",
        "places": "max_position_embeddings",
    }
    if kind == "gpt2":
        own = dict(zip(own, ("n_layer", "n_embd", "n_head", "n_inner", "n_positions"), strict=True))
    own |= {"words": "vocab_size"}
    part, value = choose.choice(
        [("layers", 3), ("layers", 1), ("layers", 0), ("width", 64), ("width", 16), ("words", 128)]
        + [("words", 32), ("words", 10), ("heads", 4), ("heads", 5), ("inner", 64), ("places", 32)]
        + [("places", 128), ("places", 8)]
    )
    _edit("config.json", own[part], value)
    what = f"config: {own[part]} is {value}"
    if part == "layers" and value < 2:  # a model cut off on purpose looks like this
        return Change(what, must_warn=True)
    rotary = kind == "llama" and part == "places"
    # How many heads read the same weights only the config knows.
    return Change(what, may_run=rotary or part == "heads", same=rotary)


def entry_of_config(choose: random.Random, kind: str) -> Change:
    """config.json lacks an entry, or has another's value."""
    config = json.loads((FOLDER / "config.json").read_text())
    more = ["quantization_config", "auto_map", "model_type", "architectures", "tie_word_embeddings"]
    key = choose.choice([*config, *more, "model_type"])
    value = choose.choice([*_JUNK, "t5", "llama", "bert", "gpt2", {"AutoModel": "evil.Model"}])
    if choose.random() < 0.3:
        value = "gone"
        config.pop(key, None)
        (FOLDER / "config.json").write_text(json.dumps(config))
    else:
        _edit("config.json", key, value)
    return Change(f"config: {key} is {value!r:.30}")


def _edit(file: str, key: str, value: Any) -> None:
    path = FOLDER / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


# ---- the tokenizer -------------------------------------------------------------------------------


def ids_of_tokens(choose: random.Random, kind: str) -> Change:
    """The tokenizer has ids that the model does not know, or none."""
    path = FOLDER / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    how = pick(choose, "all too large, a word's too large, the unknown's too large, negative, none")
    if how == "all too large":
        tokenizer["model"]["vocab"] = {word: number + 60 for word, number in words.items()}
    elif how == "a word's too large":  # "given" stands in no prompt: its case differs
        words[choose.choice(["given", "purchase"])] = 64
    elif how == "the unknown's too large":
        words["<unk>"] = 99
    elif how == "negative":
        words["purchase"] = -1
    else:
        tokenizer["model"]["vocab"] = {}
    path.write_text(json.dumps(tokenizer))
    return Change(f"tokenizer: ids: {how}", may_run=how == "a word's too large")


def form_of_tokenizer(choose: random.Random, kind: str) -> Change:
    """tokenizer.json or tokenizer_config.json is not what it must be."""
    path, config = FOLDER / "tokenizer.json", FOLDER / "tokenizer_config.json"
    how = pick(choose, "gone, an entry, another's, config gone, config junk, longest prompt")
    if how == "gone":
        path.unlink()
    elif how == "an entry":
        key = choose.choice(list(json.loads(path.read_text())))
        _edit(path.name, key, value := choose.choice(_JUNK))
        how = f"{key} is {value!r}"
    elif how == "another's":
        path.write_text('{"version": "1.0"}')
    elif how == "config gone":
        config.unlink()
    elif how == "config junk":
        config.write_text(pick(choose, '[], {, 1, null, "x", {"tokenizer_class": "NoSuch"}'))
    else:
        longest = choose.choice([0, -1, 1, 5, "x", None, 10**30, 1.5])
        _edit(config.name, "model_max_length", longest)
        how = f"model_max_length is {longest!r}"
    return Change(f"tokenizer: {how}")


# ---- any file, and the folder --------------------------------------------------------------------


def damaged_file(choose: random.Random, kind: str) -> Change:
    path = choose.choice([*sorted(FOLDER.iterdir()), _WEIGHTS])
    before = path.read_bytes()
    what, content = damaged_bytes(choose, before)
    path.write_bytes(content)
    # A bit of a number, or of a name that nobody reads: nothing tells that it was another.
    return Change(f"{path.name}: {what}", same=content == before)


def missing_file(choose: random.Random, kind: str) -> Change:
    path = choose.choice(sorted(FOLDER.iterdir()))
    path.unlink()
    how = pick(choose, "gone, a folder, empty")
    if how == "a folder":
        path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    return Change(f"{path.name} is {how}", may_run="tokenizer" in path.name)


def another_folder(choose: random.Random, kind: str) -> Change:
    """The folder is one of another kind, or has more in it."""
    FOLDER.rename(_BACKUP)
    FOLDER.mkdir()
    harmless = {"two files of the weights": _two_files, "with a subfolder": _subfolder}
    others: dict[str, Callable[[], Any]] = {
        "an adapter's": _adapter,
        "empty": lambda: None,
        "T5's": lambda: _of(transformers.T5Model(_t5())),
        "T5's encoder": lambda: _of(transformers.T5EncoderModel(_t5())),
        "of pictures": lambda: _of(transformers.ViTModel(_vit())),
        "a file": _file,
        "weights alone": lambda: shutil.copy(_BACKUP / _WEIGHTS.name, _WEIGHTS),
    }
    how = choose.choice([*harmless, *others])
    (harmless | others)[how]()
    return Change(f"the folder is {how}", how in harmless or "encoder" in how, how in harmless)


def _two_files() -> None:
    shutil.copytree(_BACKUP, FOLDER, dirs_exist_ok=True)
    shutil.copy(_WEIGHTS, FOLDER / "more.safetensors")


def _subfolder() -> None:
    shutil.copytree(_BACKUP, FOLDER, dirs_exist_ok=True)
    (FOLDER / "below").mkdir()


def _file() -> None:
    FOLDER.rmdir()
    FOLDER.write_text("x")


def _adapter() -> None:
    from peft import LoraConfig, get_peft_model

    model = transformers.AutoModel.from_pretrained(_BACKUP)
    _of(get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")))


def _of(model) -> None:
    """A folder of this model and the untouched one's tokenizer."""
    model.save_pretrained(FOLDER)
    for file in _BACKUP.glob("tokenizer*"):
        shutil.copy(file, FOLDER)


def _t5() -> transformers.T5Config:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    return transformers.T5Config(vocab_size=64, **sizes)


def _vit() -> transformers.ViTConfig:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ViTConfig(hidden_size=32, image_size=32, **sizes)


CHANGES = [
    *(names_of_weights, numbers_of_weights, files_of_weights, shape_in_config, entry_of_config),
    *(ids_of_tokens, form_of_tokenizer, damaged_file, missing_file, another_folder),
]
