"""Tensors with one row an item, tied to the items by token, and their file.

RecBole numbers items by the filtering and by the order of first appearance, so an internal id means
nothing outside one run; the token does. Everything that one stage hands to another or to a later
experiment (the backbone's item embeddings, the categories, the enhanced embeddings) is held in this
form: a safetensors file with the numbers, and a json file beside it with the tokens, the provenance
and the hash of the numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_tslrec.store.files import (
    file_hash,
    read_checked_json,
    with_checksum,
    write_atomically,
    write_json,
)

FORMAT = "recbole_tslrec item tensors"
FORMAT_VERSION = 1
_KEYS = {"format", "version", "sha256", "tensors", "provenance", "tokens"}

_ROWS_AT_ONCE = 4096

_DTYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    }
)

# What safetensors, and torch with what it has read, raise for a header that is not in order.
_SIGNS_OF_FORGERY = (
    SafetensorError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass
class ItemTensors:
    """Rows of numbers for items that are known by their tokens.

    Attributes:
        tokens: the items' tokens as in the data set, without padding, all different.
        tensors: by name, [n_items, ...] each, rows in the order of ``tokens``.
        provenance: what the file says of its making (stage, data set, settings).
    """

    tokens: list[str]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if len(tensor) != len(self.tokens):
                raise ValueError(f"{name} has {len(tensor)} rows for {len(self.tokens)} items.")
            check_finite(tensor, name, self.tokens)

    def aligned(self, tokens: Sequence[str]) -> ItemTensors:
        """The same tensors with their rows in the order of ``tokens``.

        Raises:
            ValueError: some of ``tokens`` have no row; says how many and names some.
        """
        rows = {token: row for row, token in enumerate(self.tokens)}
        missing = [token for token in tokens if token not in rows]
        if missing:
            named = ", ".join(repr(token) for token in missing[:5])
            raise ValueError(
                f"{len(missing)} of {len(tokens)} items of the data set are not in the file of item "
                f"tensors (which has {len(self.tokens)}), among them {named}. "
                f"It was made from other data: {self.provenance.get('dataset', 'unknown')}."
            )
        index = torch.tensor([rows[token] for token in tokens], dtype=torch.int64)
        tensors = {name: tensor[index] for name, tensor in self.tensors.items()}
        return ItemTensors(list(tokens), tensors, self.provenance)

    def content_hash(self) -> str:
        """A hash of tokens and numbers, the same for every order of the rows."""
        digest = hashlib.sha256(json.dumps(sorted(self.tokens)).encode())
        order = torch.tensor(sorted(range(len(self.tokens)), key=self.tokens.__getitem__))
        for name in sorted(self.tensors):
            digest.update(name.encode())
            for rows in order.split(_ROWS_AT_ONCE):  # a copy of all rows may be gigabytes
                digest.update(self.tensors[name][rows].numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write ``path`` (.safetensors) and the json beside it; the json is last, and makes it count."""
        contiguous = {name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}
        write_atomically(path, lambda temporary: save_file(contiguous, temporary))
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "sha256": file_hash(path),
            "tensors": {name: list(tensor.shape) for name, tensor in self.tensors.items()},
            "provenance": self.provenance,
            "tokens": self.tokens,
        }
        write_json(path.with_suffix(".json"), with_checksum(header))

    @classmethod
    def load(cls, path: Path) -> ItemTensors:
        """Read a file written by ``save``.

        Raises:
            FileNotFoundError: the file or its json is missing.
            ValueError: the file is not of this form, of another version, truncated or altered.
        """
        header = read_header(path)
        if file_hash(path) != header["sha256"]:
            raise ValueError(
                f"[{path}] is truncated or altered: its hash is not the one in its json."
            )
        try:
            tensors = load_file(path)
        except _SIGNS_OF_FORGERY as error:
            raise ValueError(f"[{path}] is not a safetensors file: {error}") from error
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if shapes != header["tensors"]:
            raise ValueError(
                f"[{path}] holds tensors of the shapes {shapes}, and its json says "
                f"{header['tensors']}. Make it again."
            )
        odd = [name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
        if odd:
            raise ValueError(
                f"[{path}] holds {odd[0]} as {tensors[odd[0]].dtype}. Give real numbers, as float32."
            )
        try:
            return cls(header["tokens"], tensors, header["provenance"])
        except ValueError as error:
            raise ValueError(f"[{path}]: {error} Make it again.") from error


def read_header(path: Path) -> dict[str, Any]:
    """The json beside a file of item tensors, checked for form and version, without the numbers."""
    header_path = Path(path).with_suffix(".json")
    for needed in (Path(path), header_path):
        if not needed.is_file():
            raise FileNotFoundError(
                f"There is no file [{needed}]; a file of item tensors is a .safetensors and the "
                f".json of the same name beside it."
            )
    try:
        header = read_checked_json(header_path, _KEYS)
    except ValueError as error:
        raise ValueError(f"[{header_path}] does not describe item tensors: {error}") from error
    form, version = header["format"], header["version"]
    if form != FORMAT or type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"[{header_path}] is [{form}] version [{version}]; this program reads "
            f"[{FORMAT}] version [{FORMAT_VERSION}]. Make it again."
        )
    if fault := _fault_of_header(header):
        raise ValueError(f"[{header_path}]: {fault}. Make it again.")
    return header


def _fault_of_header(header: dict[str, Any]) -> str | None:
    """What is wrong with the types in a header, or between its parts, in words; None if nothing is."""
    shapes, tokens = header["tensors"], header["tokens"]
    for name, wanted in (
        ("sha256", str),
        ("tensors", dict),
        ("provenance", dict),
        ("tokens", list),
    ):
        if type(header[name]) is not wanted:
            return f"its {name} is no {wanted.__name__}"
    if not tokens or any(type(token) is not str for token in tokens):
        return "its tokens are no texts, or there are none"
    if not shapes or not all(_is_shape(shape) for shape in shapes.values()):
        return "its tensors have no shapes, or there are none"
    if len(set(tokens)) != len(tokens) or any(shape[0] != len(tokens) for shape in shapes.values()):
        return f"its tokens do not match its tensors {shapes}, or some are there twice"
    return None


def _is_shape(shape: Any) -> bool:
    return type(shape) is list and bool(shape) and all(type(size) is int for size in shape)


def check_finite(tensor: Tensor, name: str, tokens: Sequence[str]) -> None:
    """Raise ValueError if any row holds NaN or infinity; says how many and names some items."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    # Minimum and maximum are NaN where any number is, and take no memory beside the tensor's.
    if torch.stack(tensor.aminmax()).isfinite().all():
        return
    wrong = (~tensor.isfinite()).view(len(tensor), -1).any(dim=1).nonzero().flatten().tolist()
    if wrong:
        named = ", ".join(repr(tokens[row]) for row in wrong[:5])
        raise ValueError(
            f"{name} holds NaN or infinity for {len(wrong)} items, among them {named}."
        )
