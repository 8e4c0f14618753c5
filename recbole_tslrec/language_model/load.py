"""The language model in memory: frozen, quantised if asked, with adapters if asked (QLoRA)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from logging import ERROR, getLogger
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from recbole_tslrec.language_model.kinds import model_class
from recbole_tslrec.language_model.source import LanguageModelSource

# It warns in every run that an optional package, which is faster at 4 bits on some CPUs, is not there.
getLogger("bitsandbytes.backends.cpu.ops").setLevel(ERROR)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on the device's own instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


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
    own = getattr(source.config, "quantization_config", None)
    if own is not None:
        method = own.get("quant_method") if isinstance(own, dict) else own.quant_method
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

    Args:
        source: an opened source.
        quantization: ``none``, ``int8`` or ``nf4`` (4 bits, double quantisation, bf16 compute).
        device: where it lives. On a GPU unquantised weights are held in bf16 where that is fast, on
            the CPU in fp32 (autocast makes the products bf16 there).
        attention: transformers' name of an implementation.
        head: whether with the language-model head.
        trainable: whether the weights are to be trained themselves; they are held in fp32 then.

    Raises:
        ValueError: the weights cannot be held, or trained, as asked for.
    """
    check_quantization(quantization, source, device)
    if trainable and quantization != "none":
        raise ValueError(
            f"llm_quantization: [{quantization}] weights cannot be trained themselves. Give "
            f"llm_quantization: none."
        )
    options = {
        "dtype": torch.float32 if trainable else full_precision_dtype(device),
        "trust_remote_code": source.trust_remote_code,
        "attn_implementation": attention,
    }
    if quantization != "none":
        options["quantization_config"] = quantization_config(quantization, device)
    if _has_pooling_layer(source):
        options["add_pooling_layer"] = False
    revision = getattr(source.config, "_commit_hash", None)
    if revision is not None:  # what the fingerprint names, whatever is pushed to the hub meanwhile
        options["revision"] = revision
    # Placed as it is loaded: quantised weights cannot be moved afterwards.
    made_by = model_class(source, head)
    model = made_by.from_pretrained(source.location, device_map={"": device}, **options)
    model.config.use_cache = False
    if device.type == "cpu" and getattr(model, "is_loaded_in_4bit", False):
        keep_4_bit_weights_as_they_are(model)
    return model.requires_grad_(trainable).eval()


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


def _has_pooling_layer(source: LanguageModelSource) -> bool:
    """Whether an encoder ends in a pooling layer that last_hidden_state does not pass through.

    Its weights would get adapters that never learn, which torch refuses with several processes.
    """
    return "add_pooling_layer" in inspect.signature(type(meta_model(source)).__init__).parameters


def add_adapters(
    model: PreTrainedModel,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str],
) -> nn.Module:
    """LoRA adapters on a frozen model; they alone are trainable. At the start they change nothing.

    Raises:
        ValueError: ``target_modules`` matches no layer.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if isinstance(target_modules, str) and target_modules != "all-linear":
        target_modules = [target_modules]  # peft would take the text for a pattern of whole paths
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"lora_target_modules: {error}") from error


def keep_few_activations(model: nn.Module) -> None:
    """Have the backward pass compute activations again instead of keeping them."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def check_adapters(source: LanguageModelSource, target_modules: str | Sequence[str]) -> None:
    """Raise ValueError if ``target_modules`` matches no layer; needs no weights."""
    model = meta_model(source)
    with torch.device("meta"):
        add_adapters(model, r=1, alpha=1, dropout=0, target_modules=target_modules)


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
