"""Small causal language models whose tokenizers know letters, as Llama's and as GPT-2's do."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}


def llama_like_tokenizer() -> PreTrainedTokenizerFast:
    """Puts a word's start before whatever it reads: a letter by itself is not the one behind a line."""
    signs = ["▁", *sorted({*string.printable[:95], "\n"} - {" "})]
    pieces = ["<unk>", "<s>", "</s>", *signs, *(f"▁{letter}" for letter in string.ascii_uppercase)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", letter) for letter in string.ascii_uppercase]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def gpt_like_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and words that begin with their blank; nothing stands around a text."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|endoftext|>", *signs, *(f"Ġ{letter}" for letter in string.ascii_uppercase)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("Ġ", letter) for letter in string.ascii_uppercase]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def save_letter_model(folder: Path, kind: str) -> str:
    """A model of random weights with its head: ``llama``, a head of its own, or ``gpt2``, a tied one."""
    torch.manual_seed(0)
    if kind == "llama":
        tokenizer = llama_like_tokenizer()
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=False, **_SIZES
        )
    else:
        tokenizer = gpt_like_tokenizer()
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer), n_positions=512, n_embd=32, n_layer=2, n_head=2
        )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
