"""Keys and values of the configuration, given as a dict, in a yaml file, on the command line."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import recbole
import yaml
from conftest import save_yes_no_model
from recbole.config import Config
from support.letter_models import save_letter_model

from fuzz.damage import pick
from fuzz.inputs import (
    DATASET,
    Input,
    Wrong,
    opened,
    small_settings,
    write_language_model,
    write_small_data,
    write_titled_data,
)
from fuzz.key_tables import KEYS, OURS
from fuzz.key_values import JUNK, plain
from recbole_tslrec.commands import run as run_command
from recbole_tslrec.language_model.preflight import check_fine_tuning
from recbole_tslrec.paradigms.tslrec.prompt import check_prompt
from recbole_tslrec.recbole_bridge import quick_start, summary
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

# What an error may name in a key's place: a value that cannot be goes by what it collides with.
_INSTRUCTION = ["the instruction"]
_FILE = [f"{DATASET}.inter"]
_RIVALS = {
    "n_heads": ["hidden_size"],
    "hidden_size": ["n_heads"],
    "loss_type": ["train_neg_sample_args"],
    "train_neg_sample_args": ["loss_type"],
    "metrics": ["valid_metric"],
    "topk": ["valid_metric"],
    "valid_metric": ["metrics"],
    "eval_args": ["eval_step"],
    "enhancement": ["enhanced_items"],
    "llm_instruction": _INSTRUCTION,
    "llm_response": _INSTRUCTION,
    "e4srec_instruction": _INSTRUCTION,
    "llamarec_instruction": ["the prompt"],
    "delrec_instruction": ["the prompt"],
    "delrec_soft_vectors": ["the prompt"],
    "trsr_instruction": ["the prompt"],
    "trsr_instruction_alone": ["the prompt"],
    "trsr_summarizer": ["llm"],
    "data_path": [*_FILE, "exists in the device"],  # RecBole's words, with the folder
    "encoding": _FILE,
    "field_separator": _FILE,
    "TIME_FIELD": _FILE,
    # Numbers that no check can call wrong, and with which nothing is learned.
    **dict.fromkeys(["initializer_range", "layer_norm_eps", "reg_weight"], ["Training diverged"]),
}
# What a model needs in the place of what the others have.
_OF_MODEL = {name: {"llm": "scratch"} for name in ("P5", "POD")}
# RecBole keeps these in another form than it was given them in.
_REWRITTEN = "data_path eval_args gpu_id train_neg_sample_args train_batching metrics topk".split()
_LONG = (
    "epochs",
    "sft_epochs",
    "delrec_soft_epochs",
)  # huge ones are valid, and would train for years
_YAML = [b"", b"{}\n", b"\xef\xbb\xbfepochs: 1\n", b"1: 2\n", b"epochs: 1_0\n", b"a: &a [*a]\n"]
_BROKEN_YAML = [b"- 1\n", b"abc\n", b"epochs: [\n", b"\tepochs: 1\n", b"epochs: 1\n epochs: 2\n"]
_BROKEN_YAML += [b"\xff\xfe\x00", b"epochs: !!python/object:os.system {}\n", b"epochs: *x\n"]
_BROKEN_YAML += [b"? [a]\n: 2\n", b"epochs: 1\x00\n", b"epochs:1\n", b"epochs: 2020-01-01\n"]
_BROKEN_YAML += [b"---\nepochs: 1\n---\nepochs: 2\n", b"<<: {epochs: 0}\n", b"[" * 2000]
_BROKEN_YAML += ["epochs: 1\n".encode("utf-16")]
# Arguments, and what the keys must be then; None: they must be refused, by the name that stands first.
_ARGUMENTS: list[tuple[str, Mapping | None]] = [
    ("--epochs=1 --epochs=1", {"epochs": 1}),
    ("--n_categories=7", {"n_categories": 7}),
    ("--llm_response=a:", {"llm_response": "a:"}),
    ("--topk=[5,10]", {"topk": [5, 10]}),
    ("--learning_rate=1e-2", {"learning_rate": 0.01}),
    *((wrong, None) for wrong in "--epochs=1 --epochs=2|--epochs 3|-epochs=3|epochs=3".split("|")),
    *((wrong, None) for wrong in "--epochs=3=4|--epochs=|--=3|--|--epochs:3|—epochs=3".split("|")),
    *((wrong, None) for wrong in "--llm_instruction=a=b|--mode=SASRec|--model=SASRek".split("|")),
    *((wrong, None) for wrong in "--model=|--dataset=no_such|--dataset=".split("|")),
    *((wrong, None) for wrong in "--nproc=x|--config_files=no.yaml|--epochs=1e0".split("|")),
    *((wrong, None) for wrong in "--Epochs=3|--train-batch-size=3|extra|--lora_r=2.5".split("|")),
    *((wrong, None) for wrong in "--metrics=['NDCG'|--eval_args={'split'}".split("|")),
]


class Keys:
    """One key with one value, or one misspelt, in an experiment that is else sound."""

    def __init__(self, folder: Path):
        write_small_data(folder / "data")
        write_language_model(folder / "llm")
        more = {"llm": str(folder / "llm"), "enhancement": "random"}
        self.base = small_settings(folder / "data", **more)
        write_titled_data(folder / "titled")
        self.of_words = {
            "data_path": str(folder / "titled"),
            "item_text": "title",
            "llm": save_yes_no_model(folder / "yes_no"),
        }

    def input(self, choose: random.Random) -> Input:
        kinds = [self._misspelt, self._yaml_file, self._command_line, self._value]
        return choose.choices(kinds, [12, 8, 10, 70])[0](choose)

    def _value(self, choose: random.Random) -> Input:
        name = choose.choice(list(KEYS))
        key = KEYS[name]
        value = choose.choice(key.examples if choose.random() < 0.6 else JUNK)
        way, value = _through(choose, name, value)
        judged = key.judge(plain(value))
        tuned = choose.random() < 0.3 and name.startswith(("lora", "sft", "llm"))
        of_words = self.of_words if key.model.startswith("LLMTRSR") else {}
        base = self.base | _OF_MODEL.get(key.model, of_words)
        use = partial(_use_value, key.model, base, name, value, way, tuned)
        what = f"{name}={value!r:.60} ({way}, {key.model})"
        names = [name, *_RIVALS.get(name, ())]
        return Input(what, use, names, judged is not False, judged is not True)

    def _misspelt(self, choose: random.Random) -> Input:
        name = choose.choice([key for key in KEYS if len(key) > 5])
        at = choose.randrange(1, len(name) - 1)
        start, letter, end = name[:at], name[at], name[at + 1 :]
        forms = [start + end, start + letter + letter + end, start + end[0] + letter + end[1:]]
        forms += [name.replace("_", "-"), name + "s", name.upper(), name + " "]
        wrong = choose.choice(forms)
        settings = self.base | {wrong: KEYS[name].examples[0]}
        model = "TSLRec_SASRec" if name in OURS else KEYS[name].model
        use = partial(opened, model, settings)
        # One letter off a key is another model's key at times, and a yaml may serve several.
        known = wrong in KEYS or wrong in _recboles_keys()
        names = [f"[{wrong}]", f"{wrong}: "]  # the second of what is its key, with another value
        return Input(f"misspelt: [{wrong}]", use, names, may_run=known)

    def _yaml_file(self, choose: random.Random) -> Input:
        kind = pick(choose, "sound, broken, broken, missing, folder")
        content = choose.choice(_YAML if kind == "sound" else _BROKEN_YAML)
        file = Path("given.yaml")
        if kind == "folder":
            file.mkdir()
        elif kind != "missing":
            file.write_bytes(content)
        base = {key: value for key, value in self.base.items() if key != "epochs"}
        use = partial(_use_command_line, base, ["--config_files=base.yaml given.yaml"], {})
        what = f"yaml file: {kind if kind in ('missing', 'folder') else content[:40]}"
        return Input(what, use, [file.name, "epochs", "key [1]"], may_run=kind == "sound")

    def _command_line(self, choose: random.Random) -> Input:
        line, expected = choose.choice(_ARGUMENTS)
        name = line.strip("-").partition("=")[0].partition(" ")[0].partition(":")[0] or "--"
        use = partial(_use_command_line, self.base, line.split(" "), expected)
        names = [name.strip("—"), line.partition("=")[2] or name]
        valid = expected is not None
        return Input(f"command line: {line}", use, names, may_run=valid, may_refuse=not valid)


@functools.cache
def _recboles_keys() -> frozenset[str]:
    files = (Path(recbole.__file__).parent / "properties").rglob("*.yaml")
    return frozenset(
        key for file in files for key in yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    )


def _through(choose: random.Random, name: str, value: Any) -> tuple[str, Any]:
    """By which of the three ways a value comes, and what it then is for RecBole."""
    way = pick(choose, "dict, yaml, command line")
    if way == "yaml":
        loader = Config._build_yaml_loader(None)  # RecBole's, for which 1e-3 is a number
        try:
            return way, yaml.load(yaml.safe_dump({name: plain(value)}), Loader=loader)[name]
        except yaml.YAMLError:
            pass
        way = "dict"
    elif way == "command line" and "=" in str(value):
        way = "dict"
    # Texts of the two are evaluated as Python.
    given = str(plain(value)) if way == "command line" else value
    return way, Config._convert_config_dict(None, {name: given})[name]


def _use_value(model: str, base: dict, name: str, value: Any, way: str, tuned: bool) -> None:
    settings = {key: one for key, one in base.items() if key != name}
    if model.startswith("DELRec"):  # whose answers are letters
        settings["llm"] = save_letter_model(Path("letters").absolute(), "gpt2")
    files = None
    if way == "yaml":
        files = ["given.yaml"]
        Path(files[0]).write_text(yaml.safe_dump({name: plain(value)}), encoding="utf-8")
    elif way == "command line":
        sys.argv = ["fuzz", f"--{name}={value}"]
    else:
        settings[name] = value
    config = Config(model, DATASET, files, dict(settings))
    if name not in _REWRITTEN and not _same(config[name], plain(value)):
        raise Wrong(f"had no effect: it is {config[name]!r}")
    if name in _LONG and isinstance(value, int) and value > 20:
        return
    if name in OURS and model == "TSLRec_SASRec":
        check_prompt(config)
        check_fine_tuning(config)
        if tuned:
            settings["enhancement"] = "tslrec"
    run_experiment(model, DATASET, files, settings)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or one != one)


def _use_command_line(base: dict, arguments: list[str], expected: Mapping | None) -> None:
    """RecBole's command line with the plug-in, up to the data set."""
    Path("base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    given: dict[str, Any] = {}

    def run(model, dataset, config_file_list, describe) -> None:
        given["config"] = Config(model, dataset, config_file_list)
        if dataset != DATASET:
            run_experiment(model, dataset, config_file_list)

    start = ["--model=TSLRec_SASRec", f"--dataset={DATASET}", "--config_files=base.yaml"]
    names = {argument.partition("=")[0] for argument in arguments}
    rest = [argument for argument in start if argument.partition("=")[0] not in names]
    sys.argv = ["fuzz", *rest, *arguments]
    with (
        mock.patch.object(quick_start, "run_experiment", run),
        mock.patch.object(summary, "summary", lambda experiment: "ran"),
    ):
        run_command.main()
    for key, value in (expected or {}).items():
        if given["config"][key] != value:
            raise Wrong(f"{key} is {given['config'][key]!r}, not {value!r}")
