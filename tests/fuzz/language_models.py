"""Folders with a language model, as ``llm`` takes them."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

import torch
from recbole.config import Config

from fuzz.inputs import (
    DATASET,
    Input,
    Wrong,
    small_settings,
    warnings_of,
    write_language_model,
    write_small_data,
)
from fuzz.model_folders import CHANGES, FOLDER
from recbole_tslrec.language_model.preflight import check_fine_tuning
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.language_model.reader import make_reader, open_source_for
from recbole_tslrec.paradigms.tslrec.prompt import as_read_by, check_prompt, make_prompt
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

_KINDS = ("llama", "bert", "gpt2")


class LanguageModelFolders:
    """Small models of random weights. What is loaded must be the file's weights, to the last number."""

    def __init__(self, folder: Path):
        write_small_data(folder / "data")
        self.settings = small_settings(folder / "data", llm=str(FOLDER))
        self.folders = {kind: folder / kind for kind in _KINDS}
        self.states = {}
        for kind, path in self.folders.items():
            write_language_model(path, kind)
            shutil.copytree(path, FOLDER)
            self.states[kind] = _hidden_states(self.settings)
            shutil.rmtree(FOLDER)

    def input(self, choose: random.Random) -> Input:
        kind = choose.choice(_KINDS)
        shutil.copytree(self.folders[kind], FOLDER)
        made = choose.choice(CHANGES)(choose, kind)
        expected = self.states[kind] if made.same else None
        use = partial(_use, self.settings, expected, made.must_warn)
        names = ["llm:", f"[{FOLDER}", f"{FOLDER}/", "llm_response", "NaN or infinit"]
        return Input(f"{kind}: {made.what}", use, names, made.may_run)


def _use(settings: dict, expected: torch.Tensor | None, must_warn: bool) -> None:
    found, said = warnings_of(lambda: _hidden_states(settings))
    if must_warn and "weights" not in said:
        raise Wrong("a part of the weights was left out, without a word")
    if not found.isfinite().all():  # a stage must stop at them
        run_experiment(
            "TSLRec_SASRec", DATASET, config_dict=settings | {"enhancement": "frozen_lm"}
        )
        raise Wrong("hidden states that are NaN or infinite")
    if expected is not None and not torch.allclose(found, expected, atol=1e-5):
        raise Wrong("other hidden states than those of the model whose weights these are")


def _hidden_states(settings: dict) -> torch.Tensor:
    """Of three prompts, from a reader that is made as an experiment makes it."""
    config = Config("TSLRec_SASRec", DATASET, config_dict=dict(settings))
    check_prompt(config)
    check_fine_tuning(config)
    source = open_source_for(config)
    prompt = make_prompt(config, source)
    items = torch.randn(31, 8, generator=torch.Generator().manual_seed(0))
    reader = make_reader(config, source, items, with_adapters=False).eval()
    with torch.no_grad():
        # As they start, the slots depend on all words' embeddings, and so on some that no prompt has.
        slots = reader.linear_proj.weight
        slots.copy_(torch.linspace(-1, 1, slots.numel()).view_as(slots))
        reader.linear_proj.bias.zero_()
        prompt = as_read_by(reader, prompt, config, training=False)
        return reader(**prompt.batch(of_histories([[1, 2, 3], [4], [5, 6, 7, 8, 9]])))
