"""The language model in memory: frozen, quantised if asked, with adapters if asked (QLoRA)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_flash_attn_2_available

from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.language_model.kinds import model_class
from recbole_tslrec.language_model.source import LanguageModelSource
from recbole_tslrec.language_model.weights import (
    check_loaded,
    loading_in_our_words,
    tell_left_over,
    trunk_options,
)

# It warns in every run that an optional package, which is faster at 4 bits on some CPUs, is not there.
getLogger("bitsandbytes.backends.cpu.ops").setLevel(ERROR)
# It warns in every product of every 8-bit layer that it computes in float16, as it always does.
getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)


def full_precision_dtype(device: torch.device) -> torch.dtype:
    """In what an unquantised model is held."""
    return torch.bfloat16 if device.type == "cuda" and bf16_is_fast(device) else torch.float32


def meta_model(source: LanguageModelSource, head: bool = False, **options) -> PreTrainedModel:
    """The model's shape, without its weights."""
    options["trust_remote_code"] = source.trust_remote_code
    with torch.device("meta"):
        return model_class(source, head).from_config(copy.deepcopy(source.config), **options)


def check_quantization(
    quantization: str, source: LanguageModelSource, device: torch.device
) -> None:
    """Raise ValueError if the weights cannot be held as asked for."""
    if quantization == "none":
        return
    method = _own_quantization(source)
    if method is not None:
        raise ValueError(
            f"llm_quantization: [{quantization}] cannot be had of [{source.name}], whose weights are "
            f"quantised already ({method}). Give llm_quantization: none."
        )
    if device.type not in ("cuda", "cpu"):
        raise ValueError(
            f"llm_quantization: [{quantization}] runs on CUDA GPUs and CPUs, not on [{device}]. Give "
            f"llm_quantization: none, or gpu_id: '' for the CPU."
        )
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"llm_quantization: [{quantization}] needs bitsandbytes, which does not load here "
            f"({error}). Give llm_quantization: none, or install bitsandbytes for this machine."
        ) from error


def _own_quantization(source: LanguageModelSource) -> str | None:
    """How a model's weights are quantised as they come; None if they are not."""
    own = getattr(source.config, "quantization_config", None)
    if own is None:
        return None
    return own.get("quant_method") if isinstance(own, dict) else own.quant_method


def quantization_config(quantization: str, device: torch.device) -> BitsAndBytesConfig:
    """How ``int8`` or ``nf4`` (with double quantisation) weights are held."""
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16_is_fast(device) else torch.float32,
    )


def check_attention(attention: str, source: LanguageModelSource, device: torch.device) -> None:
    """Raise ValueError if attention cannot be computed as asked for; needs no weights."""
    if attention == "flash_attention_2" and not (
        device.type == "cuda" and is_flash_attn_2_available()
    ):
        raise ValueError(
            f"llm_attention: [flash_attention_2] needs a GPU and the package flash-attn, and the device "
            f"is [{device}]. Give sdpa, which torch has."
        )
    try:
        meta_model(source, attn_implementation=attention)
    except (ValueError, ImportError) as error:
        if attention == "eager":  # which every model has: something else is wrong
            raise
        raise ValueError(
            f"llm_attention: [{attention}] is not there for [{source.name}]. Give llm_attention: eager. "
            f"transformers says: {error}"
        ) from error


def load_language_model(
    source: LanguageModelSource,
    quantization: str,
    device: torch.device,
    attention: str = "sdpa",
    head: bool = False,
    trainable: bool = False,
) -> PreTrainedModel:
    """The model: its trunk, all its weights frozen, unless asked otherwise.

    Its attribute ``loaded`` says what was loaded, for a stage's manifest.

    Args:
        source: an opened source.
        quantization: ``none``, ``int8`` or ``nf4`` (4 bits, double quantisation, bf16 compute).
        device: where it lives. On a GPU unquantised weights are held in bf16 where that is fast, on
            the CPU in fp32 (autocast makes the products bf16 there).
        attention: transformers' name of an implementation.
        head: whether with the language-model head.
        trainable: whether the weights are to be trained themselves; they are held in fp32 then.

    Raises:
        ValueError: the weights are not this model's, or cannot be held or trained as asked for.
    """
    check_quantization(quantization, source, device)
    held_in = _own_quantization(source) or quantization
    if trainable and held_in != "none":
        raise ValueError(
            f"llm_quantization: the weights of [{source.name}], held as {held_in}, cannot be trained "
            f"themselves. Give llm_quantization: none, and a language model that is not quantised."
        )
    options = {
        "dtype": torch.float32 if trainable else full_precision_dtype(device),
        "trust_remote_code": source.trust_remote_code,
        "attn_implementation": attention,
        "ignore_mismatched_sizes": True,  # refused below, by name
    }
    if quantization != "none":
        options["quantization_config"] = quantization_config(quantization, device)
    options |= trunk_options(source) | source.files_from
    with loading_in_our_words(source, progress_bars=True):
        # Placed as it is loaded: quantised weights cannot be moved afterwards.
        model, outcome = model_class(source, head).from_pretrained(
            source.location, device_map={"": device}, output_loading_info=True, **options
        )
    check_loaded(source, outcome)
    tell_left_over(source, outcome)
    model.loaded = {
        "parameters": n_parameters(model),
        "tensors": len(list(model.parameters())),
        "tensors_not_used": len(outcome["unexpected_keys"]),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": held_in,
    }
    model.config.use_cache = False
    if device.type == "cpu" and getattr(model, "is_loaded_in_4bit", False):
        keep_4_bit_weights_as_they_are(model)
    return model.requires_grad_(trainable).eval()


def n_parameters(model: nn.Module) -> int:
    """How many parameters a model has; 4-bit weights, of which a byte holds two, by their own shape."""
    return sum(
        weight.quant_state.shape.numel()
        if getattr(weight, "quant_state", None) is not None
        else weight.numel()
        for weight in model.parameters()
    )


def keep_4_bit_weights_as_they_are(model: PreTrainedModel) -> None:
    """Keep 4-bit weights on a CPU in the form in which they can be trained through.

    bitsandbytes (seen in 0.50) repacks a layer's weights at its first evaluation on a CPU with
    AVX-512 bf16: training cannot go on with the repacked ones, and widths that are no multiple of its
    block fail. Fine-tuning evaluates after every epoch.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def add_adapters(
    model: PreTrainedModel,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str],
) -> nn.Module:
    """LoRA adapters on a frozen model; they alone are trainable. At the start they change nothing.

    Raises:
        ValueError: ``target_modules`` matches no layer, or something that takes no adapters.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if isinstance(target_modules, str) and target_modules != "all-linear":
        target_modules = [target_modules]  # peft would take the text for a pattern of whole paths
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    linear = {
        name for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, Conv1D))
    }
    try:
        with _without_warnings_of_others():
            return get_peft_model(model, config)
    except ValueError as error:
        says, *tree = str(error).splitlines()  # peft prints a module with all that is below it
        says = f"{says.rstrip('(')} takes no adapters." if tree else says
        ends = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(
            f"lora_target_modules: {says} Give all-linear, or some of {', '.join(ends)}."
        ) from None


@contextmanager
def _without_warnings_of_others() -> Iterator[None]:
    """Hide what peft and transformers tell each other's programmers."""
    with warnings.catch_warnings():
        # peft calls transformers by names that are to go; the upper bounds in setup.cfg hold them.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        yield


def keep_few_activations(model: nn.Module) -> None:
    """Have the backward pass compute activations again instead of keeping them."""
    with _without_warnings_of_others():
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def check_adapters(
    source: LanguageModelSource, target_modules: str | Sequence[str], r: int
) -> None:
    """Raise ValueError if no layer is matched, or none has room for a rank of r; needs no weights."""
    model = meta_model(source)
    with torch.device("meta"):
        adapted = add_adapters(model, r=1, alpha=1, dropout=0, target_modules=target_modules)
    widest = max(
        min(layer.in_features, layer.out_features)
        for layer in adapted.modules()
        if hasattr(layer, "lora_A")
    )
    if r > widest:
        raise ValueError(
            f"lora_r: [{r}] is more than {widest}, the highest rank that a change of an adapted layer "
            f"of [{source.name}] can have. Give {widest} or less; 8 to 64 is usual."
        )


def save_adapters(model: nn.Module, folder: Path) -> None:
    """Write the adapters in peft's own form (safetensors and json); the base model is not written."""
    model.save_pretrained(folder, save_embedding_layers=False)


def load_adapters(model: nn.Module, folder: Path) -> None:
    """Put stored adapters into a model that ``add_adapters`` made with the same settings."""
    from peft import set_peft_model_state_dict
    from peft.utils import load_peft_weights

    outcome = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    if outcome.unexpected_keys:
        raise ValueError(
            f"[{folder}] holds adapters for layers that this language model does not have, among them "
            f"{outcome.unexpected_keys[:3]}: they were made for another base model."
        )
