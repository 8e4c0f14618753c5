"""Checkpoints: what a file, the zip, the pickle in it and what is pickled may be made to hold."""

from __future__ import annotations

import copy
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import recbole.quick_start
import torch
from recbole.utils import get_model, get_trainer
from support.stages import item_embeddings, pipeline_of

from fuzz.damage import damaged_bytes, pick
from fuzz.inputs import DATASET, Input, Wrong, opened, small_settings, write_small_data
from fuzz.pickles import TRACE, Runs, change_archive, change_pickle, evil_data_set
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

Weights = dict[str, torch.Tensor]
_FILE = Path("given.pth")
_JUNK = [None, 1, "x", [], {}, True, -1, float("nan"), [1], {"a": [2]}, torch.zeros(2), 10**400]
_JUNK += ["../x", b"abc"]
_MODELS = {"SASRec": {"train_neg_sample_args": None}, "Norm_SASRec": {}}


# ---- how a checkpoint is used: each gives the weights that came out ---------------------------------


def _load(settings: dict) -> Weights:
    return recbole.quick_start.load_data_and_model(str(_FILE))[1].state_dict()


def _as_backbone(settings: dict) -> Weights:
    pipeline = pipeline_of(settings | {"backbone_checkpoint": str(_FILE)}, DATASET)
    return {"item_embedding.weight": item_embeddings(pipeline)}


def _fold(settings: dict) -> Weights:
    fold_checkpoint(_FILE, Path("folded.pth"))
    return torch.load("folded.pth", weights_only=True)["state_dict"]


def _evaluate(model: str, settings: dict) -> Weights:
    trainer, (_, _, test_data) = _trainer(model, settings)
    trainer.evaluate(test_data, model_file=str(_FILE))
    return trainer.model.state_dict()


def _resume(model: str, settings: dict) -> Weights:
    trainer, (train_data, valid_data, _) = _trainer(model, settings)
    trainer.resume_checkpoint(str(_FILE))
    weights = copy.deepcopy(trainer.model.state_dict())
    trainer.fit(train_data, valid_data)
    return weights


def _trainer(model: str, settings: dict):
    # Not RecBole's default folder, in which RecBole itself would load a pickled data set of the user's.
    config, _, loaders = opened(model, settings | _MODELS[model] | {"checkpoint_dir": "own"})
    recommender = get_model(model)(config, loaders[0]._dataset)
    return get_trainer(config["MODEL_TYPE"], model)(config, recommender), loaders


_USES: dict[str, dict[str, Callable[[dict], Weights]]] = {
    "SASRec": {
        "load": _load,
        "as backbone": _as_backbone,
        "evaluate": partial(_evaluate, "SASRec"),
        "resume": partial(_resume, "SASRec"),
    },
    "Norm_SASRec": {"load": _load, "fold": _fold, "evaluate": partial(_evaluate, "Norm_SASRec")},
}


class Checkpoints:
    """A SASRec and a Norm_SASRec. What is read must be the file's weights, and no code may run."""

    def __init__(self, folder: Path):
        write_small_data(folder / "data")
        self.settings = small_settings(folder / "data")
        self.files, self.sound = {}, {}
        for model, more in _MODELS.items():
            settings = self.settings | more | {"checkpoint_dir": "trained"}
            checkpoint = run_experiment(model, DATASET, config_dict=settings).checkpoint
            # By a name of its own: the file's depends on the time, and stands in the zip.
            self.files[model] = folder / f"{model}.pth"
            content = torch.load(checkpoint, weights_only=True)
            _write(content, self.files[model])
            shutil.copy(self.files[model], _FILE)
            for use, run in _USES[model].items():
                self.sound[model, use] = run(dict(self.settings))

    def input(self, choose: random.Random) -> Input:
        model = choose.choice(list(_USES))
        use = choose.choice(list(_USES[model]))
        shutil.copy(self.files[model], _FILE)
        what, changed = choose.choice(_CHANGES)(choose)
        expected: dict[str, torch.Tensor | None] = dict(self.sound[model, use])
        if changed is None:
            expected = {}
        else:
            expected |= {name: changed[name] for name in expected.keys() & changed.keys()}
            if use == "fold" and changed.keys() - expected.keys():
                del expected["item_embedding.weight"]  # computed from what was changed
        run = partial(_use, _USES[model][use], self.settings, expected)
        return Input(f"{model}, {use}: {what}", run, [_FILE.name, "backbone_checkpoint"])


def _use(run: Callable[[dict], Weights], settings: dict, expected: dict) -> None:
    try:
        found = run(dict(settings))
    finally:
        if TRACE.exists():
            raise Wrong("code in the file ran")
    for name, tensor in expected.items():
        if tensor is None:
            raise Wrong(f"{name} came out, and the file has none that fits")
        if name not in found:
            raise Wrong(f"{name} is gone")
        pair = [one.to(torch.float32).nan_to_num() for one in (tensor, found[name])]
        if not torch.equal(*pair):
            raise Wrong(f"{name} is not what the file holds")


def _write(content: dict[str, Any], file: Path = _FILE) -> None:
    """In the form that torch reads with its check on."""
    torch.save(content, file, pickle_protocol=2)


# ---- changes: what, and the weights that are others then (None: not what fits); None: who knows -------


def _damage(choose: random.Random) -> tuple[str, Weights | None]:
    what, content = damaged_bytes(choose, _FILE.read_bytes())
    _FILE.write_bytes(content)
    return what, {}


def _entry(choose: random.Random) -> tuple[str, Weights | None]:
    """An entry of the checkpoint is left out, or another."""
    content = torch.load(_FILE, weights_only=True)
    key = choose.choice(list(content))
    how = pick(choose, "gone, junk, junk, nested, one more")
    value = _nested() if how == "nested" else choose.choice(_JUNK)
    if how == "gone":
        del content[key]
    else:
        content["more" if how == "one more" else key] = value
    _write(content)
    changed = None if key == "state_dict" else {}
    return f"{key} is {how}" + f" {value!r:.40}" * (how == "junk"), changed


def _nested() -> list:
    inner: list = []
    for _ in range(200):
        inner = [inner]
    return inner


_KEYS = (
    "model, dataset, data_path, trained_on, device, hidden_size, n_heads, load_col, seed, eval_args, "
    "train_batching, MODEL_TYPE, topk, field_separator, MAX_ITEM_LIST_LENGTH, metrics, item_norm, "
    "train_neg_sample_args, checkpoint_dir, dataset_save_path, dataloaders_save_path, save_dataset, "
    "state, loss_type, n_layers"
)
_ATTRIBUTES = (
    "model, dataset, parameters, external_config_dict, compatibility_settings, __class__, x"
)


def _config(choose: random.Random) -> tuple[str, Weights | None]:
    """The Config in it has another value, lacks one, or another attribute."""
    content = torch.load(_FILE, weights_only=True)
    config = content["config"]
    key, how = pick(choose, _KEYS), pick(choose, "gone, junk, junk, no values, an attribute")
    value = choose.choice([*_JUNK, "SASRec", "Caser", "BPR", str(evil_data_set())])
    if how == "gone":
        config.final_config_dict.pop(key, None)
    elif how == "junk":
        config.final_config_dict[key] = value
    elif how == "no values":
        key, value = "final_config_dict", choose.choice([{}, None, [], "x"])
        config.final_config_dict = value
    else:
        key = pick(choose, _ATTRIBUTES)
        vars(config)[key] = value
    _write(content)
    return f"config: {key} is {how}" + f" {value!r:.40}" * (how != "gone"), {}


def _weights(choose: random.Random) -> tuple[str, Weights | None]:
    """A tensor of another shape, type or value, or gone."""
    content = torch.load(_FILE, weights_only=True)
    state = content["state_dict"]
    name = choose.choice([name for name, tensor in state.items() if tensor.dim()])
    tensor = state.pop(name)
    others: dict[str, Any] = {
        "a row short": tensor[1:],
        "a row more": torch.cat([tensor, tensor[:1]]),
        "a column short": tensor[..., 1:],
        "flat": tensor.flatten(),
        "one number": tensor.flatten()[:1],
        "no number": tensor.flatten()[:0],
        "of float64": tensor.double(),
        "of float16": tensor.half(),
        "of int64": tensor.long(),
        "NaN": tensor * torch.nan,
        "infinite": tensor / 0,
        "doubled": tensor * 2,
        "complex": tensor.to(torch.complex64),
        "sparse": tensor.to_sparse(),
        "transposed": tensor.T if tensor.dim() == 2 else tensor,
        "on meta": tensor.to("meta"),
        "a list": tensor.tolist(),
        "a number": 5,
    }
    how = choose.choice([*others, "gone", "named otherwise"])
    new = others.get(how)
    if new is not None:
        state[name] = new
    elif how == "named otherwise":
        state["module." + name] = tensor
    _write(content)
    fits = torch.is_tensor(new) and new.shape == tensor.shape and not new.is_meta
    return f"weights: {name} is {how}", {name: new.to_dense() if fits else None}


def _pickle(choose: random.Random) -> tuple[str, Weights | None]:
    what, same = change_pickle(choose, _FILE)
    return what, {} if same else None


def _archive(choose: random.Random) -> tuple[str, Weights | None]:
    return change_archive(choose, _FILE), None


def _beside(choose: random.Random) -> tuple[str, Weights | None]:
    """A pickled data set where RecBole looks for one, by the folder that the checkpoint names."""
    content = torch.load(_FILE, weights_only=True)
    values = content["config"].final_config_dict
    folder = Path(choose.choice(["saved", "elsewhere"]))
    folder.mkdir()
    values["checkpoint_dir"] = str(folder)
    _write(content)
    loaders = f"{DATASET}-for-{values['model']}-dataloader.pth"
    name = choose.choice([f"{DATASET}-SequentialDataset.pth", loaders])
    shutil.copy(evil_data_set(), folder / name)
    return f"beside it lies {folder / name}", {}


def _another_file(choose: random.Random) -> tuple[str, Weights | None]:
    """A file of another kind under the name."""
    content = torch.load(_FILE, weights_only=True)
    _FILE.unlink()
    kind = pick(choose, "pickle, tensor, list, no config, old, older, empty zip, text, folder")
    others = {"tensor": torch.zeros(3), "list": [1], "no config": {"state_dict": {}}}
    if kind == "pickle":
        _FILE.write_bytes(pickle.dumps(Runs()))
    elif kind in others:
        torch.save(others[kind], _FILE)
    elif kind in ("old", "older"):
        new = kind == "old"
        torch.save(content, _FILE, pickle_protocol=4, _use_new_zipfile_serialization=new)
    elif kind == "empty zip":
        zipfile.ZipFile(_FILE, "w").close()
    elif kind == "text":
        _FILE.write_text("weights")
    else:
        _FILE.mkdir()
    return f"it is another file: {kind}", None


_CHANGES = [
    _damage,
    _entry,
    _entry,
    _config,
    _config,
    _weights,
    _weights,
    _pickle,
    _pickle,
    _pickle,
]
_CHANGES += [_archive, _beside, _another_file]
