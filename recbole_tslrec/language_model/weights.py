"""Whether weight files hold every tensor of a language model; transformers makes up what they lack.

It fills up with random numbers, reports it in the words that it has for a head that is left over, and
goes on. What belongs where, renamed, tied or converted, is transformers' own knowledge: a load is tried
out with the shapes that the files' headers state, in which no weight is read.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.utils import logging as transformers_logging

from recbole_tslrec.language_model.source import LanguageModelSource, check_is_no_adapter
from recbole_tslrec.language_model.weight_files import weight_files

_SHOWN = 3
_REMEDY = "Give weights and a config.json that belong together."


def check_weights(source: LanguageModelSource) -> None:
    """Raise if the weight files are not this model's; reads headers, and downloads from a hub.

    Of a model that comes quantised only loading tells.

    Raises:
        OSError: a file is missing, cut short, or cannot be fetched.
        ValueError: a tensor is missing or of another shape, or it is an adapter.
    """
    if source.is_random:
        return
    check_is_no_adapter(source.name, source.location, **source.files_from)
    weight_files(source)  # which fetches them, and names one that is not there
    if getattr(source.config, "quantization_config", None) is None:
        check_loaded(source, _tried(source, source.shape))


def lacks(source: LanguageModelSource, model: PreTrainedModel, tensor: str) -> bool:
    """Whether transformers would make up a tensor; errors as of ``check_weights``.

    Args:
        source: neither of random weights nor quantised.
        model: of its shape, with its head or without.
        tensor: its name in the model; in the files it may have another.
    """
    return tensor in _tried(source, model)["missing_keys"]


def _tried(source: LanguageModelSource, model: PreTrainedModel) -> Mapping[str, Collection]:
    """transformers' ``output_loading_info`` for the files' headers."""
    held: dict[str, Tensor] = {}
    for file in weight_files(source):
        held |= _header(file)
    with loading_in_our_words(source, progress_bars=False):
        _, outcome = type(model).from_pretrained(
            None,
            config=copy.deepcopy(source.config),
            state_dict=held,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **trunk_options(source),
        )
    return outcome


def trunk_options(source: LanguageModelSource) -> dict[str, Any]:
    """What a model's class is called with, to leave out a pooling layer at the end of an encoder.

    last_hidden_state does not pass through it. Its adapters would never learn, which torch refuses with
    several processes.
    """
    arguments = inspect.signature(type(source.shape).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in arguments else {}


def _header(file: Path) -> dict[str, Tensor]:
    """The names and shapes that a file of weights holds, as tensors on the meta device."""
    try:
        return load_state_dict(file, map_location="meta")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        says = str(error).strip().split("\n")[0]
        raise OSError(f"llm: the weights [{file}] cannot be read: {says}") from error


def check_loaded(source: LanguageModelSource, outcome: Mapping[str, Collection]) -> None:
    """Raise ValueError if transformers had to make up tensors.

    Args:
        source: the language model.
        outcome: transformers' ``output_loading_info``.
    """
    missing, unused = outcome["missing_keys"], outcome["unexpected_keys"]
    others = [
        f"{name} is {list(held)}, not {list(asked)}"
        for name, held, asked in outcome["mismatched_keys"]
    ]
    wrong = [f"lack {len(missing)} tensors ({_some(missing)})"] if missing else []
    if others:
        wrong.append(f"hold {len(others)} of another shape ({_some(others)})")
    if not wrong:
        return
    left = f", and {len(unused)} in them have no place ({_some(unused)})" if unused else ""
    raise ValueError(
        f"llm: the weights of [{source.name}] do not fit its config.json: they "
        f"{' and '.join(wrong)}{left}. transformers would put random numbers there. {_REMEDY}"
    )


def tell_left_over(source: LanguageModelSource, outcome: Mapping[str, Collection]) -> None:
    """Log what the files hold and the model does not take: one line.

    A head is left over from most models; layers of the model's own kind are not.
    """
    unused = outcome["unexpected_keys"]
    if not unused:
        return
    numbered = {_kind(name) for name in source.shape.state_dict() if _kind(name) != name}
    prefix = f"{source.shape.base_model_prefix}."
    layers = [name for name in unused if _kind(name.removeprefix(prefix)) in numbered]
    if layers:
        getLogger(__name__).warning(
            f"llm: config.json of [{source.name}] has fewer layers than its weights: of "
            f"{len(unused)} tensors that are not used, {len(layers)} are a layer's ({_some(layers)})."
        )
    else:
        getLogger(__name__).info(
            f"llm: {len(unused)} tensors in the weights of [{source.name}] are not used: "
            f"{_some(unused)}."
        )


def _kind(name: str) -> str:
    """A tensor's name without the number of its layer."""
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def _some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown + (", …" if len(names) > _SHOWN else "")


@contextmanager
def loading_in_our_words(source: LanguageModelSource, progress_bars: bool) -> Iterator[None]:
    """Have transformers load without its report, and refuse what it cannot put together."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not progress_bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise ValueError(
            f"llm: the weights of [{source.name}] do not fit its config.json: they cannot be put "
            f"together to the tensors that it asks for. {_REMEDY}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
