"""Files of enhanced items, as ``enhanced_items`` takes them: numbers, and the json beside them."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path

import torch
from recbole.utils import get_model
from safetensors.torch import load_file, save_file
from support.stages import item_vectors, pipeline_of

from fuzz.damage import damaged_bytes, pick
from fuzz.inputs import (
    DATASET,
    Input,
    Wrong,
    small_rows,
    small_settings,
    write_small_data,
)
from recbole_tslrec.paradigms.tslrec.augmentation.stages import ENHANCED_EMBEDDING
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.store.files import file_hash, with_checksum
from recbole_tslrec.store.item_tensors import ItemTensors

_WIDTH = 12
_JUNK = [None, 1, "x", [], {}, True, -1, 1.5, [1], {"a": [2]}, "é" * 99, 10**30]


class ItemFiles:
    """A file of one vector an item. What is read must be each item's own vector, by its token."""

    def __init__(self, folder: Path):
        write_small_data(folder / "data")
        self.data = folder / "data"
        self.path = folder / "items.safetensors"
        self.tokens = sorted({item for _, item, _ in small_rows()})
        vectors = torch.randn(len(self.tokens), _WIDTH, generator=torch.Generator().manual_seed(0))
        self.vectors = dict(zip(self.tokens, vectors, strict=True))
        provenance = {"stage": "augmentation", "dataset": DATASET, "backbone": "SASRec"}
        ItemTensors(self.tokens, {ENHANCED_EMBEDDING: vectors}, provenance).save(self.path)

    def input(self, choose: random.Random) -> Input:
        path = Path(choose.choice(["items.safetensors"] * 6 + ["items.json", "items", "é.bin"]))
        for suffix in (".safetensors", ".json"):
            shutil.copy(self.path.with_suffix(suffix), path.with_suffix(suffix))
        if path.suffix != ".safetensors" and path.suffix != ".json":
            path.with_suffix(".safetensors").rename(path)
        kind = choose.choice([_damaged, _missing, _header, _tensors, _tensors, _tokens])
        expected = dict(self.vectors)
        what, may_run = "the json in place of the numbers", False
        if path.suffix != ".json":
            what, may_run = kind(choose, path, expected)
        settings = small_settings(self.data, enhanced_items=str(path))
        use = partial(_use, settings, expected, train=choose.random() < 0.3)
        names = [f"[{path}", f"[{path.with_suffix('.json')}", "enhanced_items:"]
        return Input(f"{path.name}: {what}", use, names, may_run=may_run)


def _use(settings: dict, expected: dict[str, torch.Tensor], train: bool) -> None:
    pipeline = pipeline_of(settings, DATASET)
    found = item_vectors(pipeline)
    wanted = torch.stack([expected[token] for token in pipeline.tokens])
    if found.shape != wanted.shape or not torch.equal(found.double(), wanted.double()):
        raise Wrong("other vectors than the file has for these items")
    model = get_model("TSLRec_SASRec")(pipeline.config, pipeline.dataset)
    model.prepare(pipeline)
    if not model.item_embedding.weight.isfinite().all():
        raise Wrong("the fused table holds NaN or infinity")
    if train:
        run_experiment("TSLRec_SASRec", DATASET, config_dict=settings)


# ---- mutations: what was done, and whether the file may still be taken ------------------------------


def _damaged(choose: random.Random, path: Path, _) -> tuple[str, bool]:
    file = choose.choice([path, path.with_suffix(".json")])
    what, content = damaged_bytes(choose, file.read_bytes())
    same = content == file.read_bytes()
    file.write_bytes(content)
    # A blank before the json's brace, an E for an e: the very same content.
    return f"{file.suffix}: {what}", same or file.suffix == ".json"


def _missing(choose: random.Random, path: Path, _) -> tuple[str, bool]:
    file = choose.choice([path, path.with_suffix(".json")])
    file.unlink()
    if choose.random() < 0.5:
        file.mkdir()
        return f"{file.suffix} is a folder", False
    return f"no {file.suffix}", False


def _header(choose: random.Random, path: Path, _) -> tuple[str, bool]:
    """An entry of the json is another, with the checksum made anew, or left out."""
    file = path.with_suffix(".json")
    header = json.loads(file.read_text())
    del header["checksum"]
    key = choose.choice(list(header))
    how = pick(choose, "gone, junk, nested, one more, the same")
    if how == "gone":
        del header[key]
    elif how == "junk":
        header[key] = choose.choice(_JUNK)
    elif how == "nested":
        header[key] = json.loads("[" * 500 + "]" * 500)
    elif how == "one more":
        header["more"] = choose.choice(_JUNK)
    if choose.random() < 0.7:
        header = with_checksum(header)
    text = json.dumps(header)
    if how == "nested" and choose.random() < 0.5:
        text = "[" * 10**5 + "]" * 10**5
    file.write_text(text)
    # What is not compared with anything may be anything.
    harmless = how in ("one more", "the same") or key == "provenance"
    return f"{key} of the json is {how}: {header.get(key)!r:.60}", harmless


def _tensors(choose: random.Random, path: Path, expected: dict) -> tuple[str, bool]:
    """Other numbers, with hash and checksum made anew."""
    tensors = load_file(path)
    table = tensors[ENHANCED_EMBEDDING]
    n_items = len(table)
    others = {
        "float16": table.half(),
        "bfloat16": table.bfloat16(),
        "float64": table.double(),
        "float8": table.to(torch.float8_e4m3fn),
        "int64": (100 * table).long(),
        "bool": table > 0,
        "uint8": (table.abs() * 9).to(torch.uint8),
        "complex": table.to(torch.complex64),
        "one column": table[:, :1],
        "no column": table[:, :0],
        "wide": table.repeat(1, 40),
        "a vector": table[:, 0],
        "a cube": table[:, :, None].repeat(1, 1, 3),
        "a scalar": table[0, 0],
        "a row short": table[1:],
        "huge": table * 1e38,
        "tiny": table * 1e-42,
        "zero": table * 0,
        "all the same": table[:1].repeat(n_items, 1),
        "NaN for an item": _with(table, choose.randrange(n_items), torch.nan),
        "infinite for an item": _with(table, 3, torch.inf),
    }
    how = choose.choice(list(others))
    new = others[how]
    name = choose.choice([ENHANCED_EMBEDDING] * 4 + ["other", ""])
    del tensors[ENHANCED_EMBEDDING]
    tensors[name] = new.contiguous().clone()
    if choose.random() < 0.2:
        tensors["more"] = torch.zeros(choose.choice([n_items, 1]), 2)
    _write(path, tensors)
    if new.dim() == 2 and len(new) == n_items:
        expected.update(zip(expected, new, strict=True))
    wrong = "no column, a vector, a cube, a scalar, a row short, complex".split(", ")
    wrong += ["NaN for an item", "infinite for an item"]
    sound = name == ENHANCED_EMBEDDING and how not in wrong
    return f"[{name}] is {how}", sound and len(tensors.get("more", new)) == n_items


def _tokens(choose: random.Random, path: Path, expected: dict) -> tuple[str, bool]:
    """Other tokens, or others in the same order, with the checksum made anew."""
    file = path.with_suffix(".json")
    header = json.loads(file.read_text())
    tokens, tensors = header["tokens"], load_file(path)
    names = "permuted, with rows, twice, gone, a number, null, renamed, one more, text, blank"
    how = pick(choose, names)
    at = choose.randrange(len(tokens))
    if how == "permuted":
        choose.shuffle(tokens)
    elif how == "with rows":
        order = choose.sample(range(len(tokens)), len(tokens))
        header["tokens"] = tokens = [tokens[place] for place in order]
        tensors = {name: tensor[order] for name, tensor in tensors.items()}
    elif how in ("twice", "a number", "null", "renamed", "blank"):
        others = {"twice": tokens[at - 1], "a number": 5, "null": None, "renamed": "x"}
        tokens[at] = others.get(how, tokens[at] + " ")
    elif how == "gone":
        del tokens[at]
        tensors = {name: torch.cat([t[:at], t[at + 1 :]]) for name, t in tensors.items()}
    elif how == "one more":
        tokens.append("extra")
        tensors = {name: torch.cat([t, t[:1]]) for name, t in tensors.items()}
    else:
        header["tokens"] = "".join(tokens)
    del header["checksum"]
    file.write_text(json.dumps(with_checksum(header)))
    _write(path, tensors)
    if isinstance(header["tokens"], list) and how in ("permuted", "with rows"):
        expected.update(zip(tokens, tensors[ENHANCED_EMBEDDING], strict=True))
    return f"a token is {how}", how in ("permuted", "with rows", "one more")


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The numbers, and their hash and shapes in the json."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    file = path.with_suffix(".json")
    header = json.loads(file.read_text())
    del header["checksum"]
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    header |= {"sha256": file_hash(path), "tensors": shapes}
    file.write_text(json.dumps(with_checksum(header)))


def _with(table: torch.Tensor, row: int, value: float) -> torch.Tensor:
    changed = table.clone()
    changed[row, 0] = value
    return changed
