"""What the tests share: small data sets, small language models, a RecBole with no traces."""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import logging
import os
import random
import sys
import types
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it: no test waits for a hub


import numpy as np
import pytest
import torch
import transformers
import yaml
from hypothesis import settings as hypothesis_settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import recbole_tslrec  # noqa: F401

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

# The same commit passes or fails always. `--hypothesis-profile=search` looks further, at random.
hypothesis_settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis_settings.register_profile("search", max_examples=2000, derandomize=False, deadline=None)
hypothesis_settings.load_profile("repeatable")

# Files whose tests start processes, and those that run whole experiments; all others are units.
PROCESS = {
    "test_command_line",
    "test_compatibility",
    "test_determinism",
    "test_e4srec_training",
    "test_full_disk",
    "test_gguf",
    "test_hub",
    "test_kill_stages",
    "test_locks",
    "test_packaging",
    "test_p5_training",
    "test_patches",
    "test_pickles",
    "test_processes",
    "test_registration",
    "test_resume",
    "test_start",
    "test_stopping",
    "test_storage",
    "test_stored_stages",
}
SLOW = {
    "test_blocks",
    "test_candidates_stage",
    "test_checkpoint_files",
    "test_comparison",
    "test_contract",
    "test_damaged_files",
    "test_delrec",
    "test_e4srec",
    "test_efficiency",
    "test_end_to_end",
    "test_explore",
    "test_fine_tuning",
    "test_folding",
    "test_forged_checkpoints",
    "test_fuzz",
    "test_given_files",
    "test_item_codes",
    "test_late_fusion",
    "test_item_record",
    "test_language_model",
    "test_llamarec",
    "test_llmtrsr",
    "test_new_items",
    "test_odd_folders",
    "test_p5",
    "test_paper_settings",
    "test_pipeline",
    "test_pod",
    "test_recbole_keys",
    "test_recommender",
    "test_recommending",
    "test_report",
    "test_reranker",
    "test_screen",
    "test_second_device",
    "test_similar",
    "test_trained_on",
    "test_trainer",
    "test_training",
    "test_valid_protocol",
    "test_weights",
}


def pytest_collection_modifyitems(items):
    """Mark every test by its file: ``unit``, ``process`` or ``slow``."""
    for item in items:
        name = item.path.stem
        slow = name in SLOW or item.path.parent.name == "benchmarks"
        marker = "process" if name in PROCESS else "slow" if slow else "unit"
        item.add_marker(getattr(pytest.mark, marker))


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays():
    """No collection looks at it again: torch and transformers alone are half a second of each."""
    gc.collect()
    gc.freeze()


@functools.cache
def _parsed(text: str, loader) -> object:
    return yaml.load(text, Loader=loader)


def _load_yaml(stream, Loader):
    return copy.deepcopy(_parsed(stream if isinstance(stream, str) else stream.read(), Loader))


# RecBole parses the same five files, in Python, for every experiment: a tenth of these tests' time.
sys.modules["recbole.config.configurator"].yaml = types.SimpleNamespace(
    load=_load_yaml, FullLoader=yaml.FullLoader
)


WORDS = (
    "given the user ' s purchase history , predict distribution among preferences . response : "
    "0 1 2 3 4 5 6 7 8 9"
).split()


@pytest.fixture(autouse=True)
def recbole_alone(monkeypatch, tmp_path):
    """RecBole reads sys.argv, and writes saved/, log/ and log_tensorboard/ where it stands.

    Generators start anew as well, and logging: what a test draws and hears does not hang on the tests
    before it, of which one may have asked RecBole for errors alone.
    """
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    levels = _levels()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.chdir(tmp_path)
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    for name, level in _levels().items():
        if level != levels.get(name, level):
            logging.getLogger(name).setLevel(levels[name])


def _levels() -> dict[str, int]:
    """The levels of all loggers but the root's, by name."""
    loggers = logging.root.manager.loggerDict.items()
    return {name: one.level for name, one in loggers if isinstance(one, logging.Logger)}


def small_tokenizer(opening: str | None = "<s>", closing: str | None = None, more: str = ""):
    """A tokenizer of a few words, with special tokens around a text and more words if asked for."""
    special = ["<unk>", "<pad>", "<s>", "</s>"]
    words = dict.fromkeys([*WORDS, *more.split()])
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = " ".join(part for part in (opening, "$A", closing) if part)
    used = [(token, vocabulary[token]) for token in (opening, closing) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**_SIZES, num_key_value_heads=2),
    "qwen2": lambda: transformers.Qwen2Config(**_SIZES, num_key_value_heads=2),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, num_key_value_heads=1),
    "gemma": lambda: transformers.GemmaConfig(**_SIZES, num_key_value_heads=1, head_dim=16),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2
    ),
    "bert": lambda: transformers.BertConfig(**_SIZES),
}
# Models with something of their own that one test is about.
ODD_CONFIGS = {
    "albert": lambda: transformers.AlbertConfig(**_SIZES, embedding_size=32),  # a pooling layer
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=64
    ),  # an encoder without past_key_values
    "roberta": lambda: transformers.RobertaConfig(**_SIZES),  # positions begin after padding's
    "mpnet": lambda: transformers.MPNetConfig(**_SIZES),  # no sdpa
    "opt": lambda: transformers.OPTConfig(
        vocab_size=64,
        hidden_size=32,
        word_embed_proj_dim=16,  # narrower where states leave it
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    ),
    "lfm2": lambda: transformers.Lfm2Config(
        **_SIZES, num_key_value_heads=2, layer_types=["conv", "full_attention"]
    ),  # causal, with a layer that keeps no keys and values
}


_T5_SIZES = {
    "vocab_size": 300,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 1,
}
# With their heads; of T5 both kinds, whose logits differ by a factor.
HEADED_CONFIGS = {
    **{kind: make for kind, make in CONFIGS.items() if kind != "bert"},
    "gemma2": lambda: transformers.Gemma2Config(
        **_SIZES, num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.2
    ),
    "granite": lambda: transformers.GraniteConfig(
        **_SIZES, num_key_value_heads=2, logits_scaling=3
    ),
    "cohere": lambda: transformers.CohereConfig(**_SIZES, num_key_value_heads=2, logit_scale=0.3),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SIZES),  # renamed as it is loaded
    "t5": lambda: transformers.T5Config(**_T5_SIZES, tie_word_embeddings=True),
    "t5-untied": lambda: transformers.T5Config(
        **_T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "umt5": lambda: transformers.UMT5Config(**_T5_SIZES),
}


@pytest.fixture(scope="session")
def headed_model_folder(tmp_path_factory):
    """As ``language_model_folder``, for models that are saved with their language-model head."""
    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            path = tmp_path_factory.mktemp(f"headed-{kind}")
            torch.manual_seed(0)
            config = HEADED_CONFIGS[kind]()
            made_by = (
                transformers.AutoModelForSeq2SeqLM
                if config.is_encoder_decoder
                else transformers.AutoModelForCausalLM
            )
            model = made_by.from_config(config)
            if kind == "t5-untied":  # transformers ties every T5 but where a file holds two tables
                model.config.tie_word_embeddings = False
                model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
            model.save_pretrained(path)
            small_tokenizer(None, "</s>" if "t5" in kind else None).save_pretrained(path)
            made[kind] = str(path)
        return made[kind]

    return folder


def save_yes_no_model(folder: Path) -> str:
    """A Llama of random weights with its head, whose tokenizer knows yes and no."""
    torch.manual_seed(0)
    larger = _SIZES | {"max_position_embeddings": 256}
    # Of wide weights, so that what it writes depends on what it has read.
    config = transformers.LlamaConfig(**larger, num_key_value_heads=2, initializer_range=0.3)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    small_tokenizer(more="yes no").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def yes_no_model_folder(tmp_path_factory):
    return save_yes_no_model(tmp_path_factory.mktemp("yes-no"))


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory):
    """Makes a language model of random weights, saved as any model is; by the kind's name."""
    made: dict[str, str] = {}

    def folder(kind: str = "llama") -> str:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            config = (CONFIGS | ODD_CONFIGS)[kind]()
            transformers.AutoModel.from_config(config).save_pretrained(path)
            closing = "</s>" if "bert" in kind else None
            small_tokenizer(None if kind == "gpt2" else "<s>", closing).save_pretrained(path)
            made[kind] = str(path)
        return made[kind]

    return folder


def write_atomic(folder: Path, name: str, rows, header: str | None = None) -> None:
    """Write a RecBole .inter file of (user, item, time) rows."""
    path = folder / name / f"{name}.inter"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header or "user_id:token\titem_id:token\ttimestamp:float"]
    lines += ["\t".join(str(value) for value in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def small_data(tmp_path):
    """A data set of 40 users and 30 items with two tastes, in ./data/small."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(40):
        taste = user % 2
        items = taste * 15 + generator.integers(0, 15, size=generator.integers(4, 12))
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(items)]
    write_atomic(tmp_path / "data", "small", rows)
    return "small"


@pytest.fixture
def titled(small_data):
    """The same, with a title of a few words for each item."""
    from support.texts import write_texts  # which takes its words from here

    write_texts()
    return small_data


@pytest.fixture
def settings(language_model_folder):
    """Settings under which every stage takes a moment."""
    return {
        "data_path": "data",
        "gpu_id": "",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": 6,
        "epochs": 1,
        "train_batch_size": 64,
        "valid_metric": "NDCG@10",
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "show_progress": False,
        "state": "INFO",
        "llm": language_model_folder("llama"),
        "n_categories": 4,
        "sft_epochs": 2,
        "sft_batch_positions": 64,
        "lora_r": 2,
        "n_candidates": 5,
        "llamarec_items": "slots",
        "llamarec_head": "linear",
        "llamarec_instruction": "predict",
        "llamarec_max_history": 3,
        "delrec_items": "slots",
        "delrec_instruction": "predict",
        "delrec_max_history": 3,
        "delrec_soft_vectors": 3,
        "delrec_predictions": 3,
        "delrec_soft_epochs": 1,
    }


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """What a file of benchmarks/ prints as a command; in this process, whose imports are done."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")

    def run(name: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *options])
        importlib.import_module(name).main()
        return capsys.readouterr().out

    return run
