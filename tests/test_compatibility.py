"""RecBole's own train, save, test and load on today's torch, with torch's check on."""

import copy
import datetime
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import recbole.quick_start.quick_start as quick_start
import recbole.trainer.trainer as recbole_trainer
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.trainer import HyperTuning, Trainer
from recbole.utils import (
    EvaluatorType,
    InputType,
    ModelType,
    get_environment,
    get_model,
    get_trainer,
)
from test_checkpoint_files import WEIGHTS, altered, cut_short, emptied

from recbole_tslrec import __main__ as command_line
from recbole_tslrec.config.devices import device_of
from recbole_tslrec.experiments.run import cell_run
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.recbole_bridge import patches as compatibility
from recbole_tslrec.store.checkpoints import convert_checkpoint, load_checkpoint

compatibility.apply()

SETTINGS = {
    # The 121 users with the shortest histories.
    "user_inter_num_interval": "[0,25)",
    "MAX_ITEM_LIST_LENGTH": 5,
    "n_layers": 1,
    "n_heads": 1,
    "hidden_size": 8,
    "inner_size": 8,
    "epochs": 1,
    "train_neg_sample_args": None,
    "gpu_id": "",
    "show_progress": False,
}
INTERACTIONS_ALONE = {"inter": ["user_id", "item_id", "timestamp"]}
COLUMNS = {
    "SASRec": INTERACTIONS_ALONE,
    "SASRecF": {**INTERACTIONS_ALONE, "item": ["item_id", "class"]},
}
LOAD = """
import sys
import torch
import recbole_tslrec.recbole_bridge.patches as compatibility

compatibility.apply()
from recbole.quick_start import load_data_and_model

results = {}
for file in sys.argv[1:]:
    config, model, _, _, _, test_data = load_data_and_model(file)
    model.eval()
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        scores = model.full_sort_predict(interaction)
    results[file] = {"interaction": interaction.interaction, "scores": scores}
torch.save(results, "results.pt")
"""


class Run(NamedTuple):
    model: torch.nn.Module
    result: dict
    file: Path


def run_stock(model_name: str, folder: Path) -> Run:
    """RecBole's run_recbole, which keeps the trained model to itself, and that model."""
    models = []

    def remember(model_type, name):
        trainer_class = get_trainer(model_type, name)
        return lambda config, model: models.append(model) or trainer_class(config, model)

    get_trainer = quick_start.get_trainer
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run_recbole"])
        patch.setattr(quick_start, "get_trainer", remember)
        settings = {**SETTINGS, "load_col": COLUMNS[model_name], "checkpoint_dir": folder / "saved"}
        result = quick_start.run_recbole(model_name, "ml-100k", config_dict=settings)
    (file,) = (folder / "saved").iterdir()
    return Run(models[0], result, file)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    return {name: run_stock(name, tmp_path_factory.mktemp(name)) for name in COLUMNS}


@pytest.fixture
def trainer() -> Trainer:
    """A trainer that is about to replace the checkpoint ``saved/best.pth``."""
    trainer = Trainer(make_config(), TinyModel(1, 1))
    trainer.saved_model_file = os.path.join(trainer.checkpoint_dir, "best.pth")
    trainer._save_checkpoint(0, verbose=False)
    return trainer


class TinyModel(torch.nn.Linear):
    def other_parameter(self):
        return {}


def make_config(**settings) -> Config:
    return Config("SASRec", "ml-100k", config_dict={**SETTINGS, "state": "ERROR", **settings})


def run_in_fresh_process(code: str, *arguments: str | Path, folder: Path, warn="ignore") -> str:
    """Give what it wrote to stderr."""
    package_root = Path(compatibility.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", warn, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(package_root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    print(done.stderr)
    done.check_returncode()
    return done.stderr


def test_a_fresh_process_loads_the_trained_models(runs, tmp_path):
    run_in_fresh_process(LOAD, *(run.file for run in runs.values()), folder=tmp_path)
    loaded = torch.load(tmp_path / "results.pt")
    for run in runs.values():
        there = loaded[str(run.file)]
        with torch.no_grad():
            here = run.model.full_sort_predict(Interaction(there["interaction"]))
        assert len(here) == 121
        torch.testing.assert_close(there["scores"], here)


def test_what_users_cannot_mend_in_recbole_does_not_warn_them(tmp_path):
    warn = "warnings.warn_explicit({0!r}, FutureWarning, 'a.py', 1, module={0!r})"
    modules = ["recbole.data.dataset.dataset", "recbole.trainer", "recbole_tslrec", "of_the_user"]
    code = "\n".join(["import warnings, recbole_tslrec", *map(warn.format, modules)])
    said = run_in_fresh_process(code, folder=tmp_path, warn="default")
    assert [name for name in modules if f"FutureWarning: {name}" in said] == modules[2:]


def test_a_checkpoint_holds_what_recbole_keeps(runs):
    run = runs["SASRec"]
    checkpoint = load_checkpoint(run.file)
    assert set(checkpoint) == {
        "config",
        "epoch",
        "cur_step",
        "best_valid_score",
        "state_dict",
        "other_parameter",
        "optimizer",
    }
    assert checkpoint["epoch"] == 0
    assert checkpoint["best_valid_score"] == run.result["best_valid_score"]
    assert type(checkpoint["config"]) is Config
    assert checkpoint["config"]["hidden_size"] == 8
    assert checkpoint["optimizer"]["state"]
    for name, weight in run.model.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][name], weight)


def test_paths_and_numpy_numbers_in_a_config_survive(tmp_path):
    config = make_config(
        checkpoint_dir=tmp_path / "here", seed=np.int64(7), grid=[{"at": tmp_path}]
    )
    torch.save({"config": config, "state_dict": WEIGHTS}, tmp_path / "config.pth")
    loaded = load_checkpoint(tmp_path / "config.pth")["config"]
    assert loaded["checkpoint_dir"] == str(tmp_path / "here")
    assert loaded["seed"] == 7
    assert loaded["grid"] == [{"at": str(tmp_path)}]
    assert loaded["device"] == config["device"]
    assert loaded["MODEL_TYPE"] is config["MODEL_TYPE"]


def test_a_copied_config_still_works():
    class OwnConfig(Config):
        pass

    config = make_config()
    config.__class__ = OwnConfig
    copied = copy.deepcopy(config)
    assert type(copied) is OwnConfig
    assert copied.final_config_dict == config.final_config_dict
    assert copied.yaml_loader is config.yaml_loader


def test_another_plug_ins_config_is_kept_as_recboles(trainer):
    class OwnConfig(Config):
        pass

    trainer.config.__class__ = OwnConfig
    trainer._save_checkpoint(1)
    config = load_checkpoint(trainer.saved_model_file)["config"]
    assert type(config) is Config and type(trainer.config) is OwnConfig
    assert str(config) == str(trainer.config)


def test_a_second_apply_keeps_what_was_put_on_top(monkeypatch):
    def on_top(self, *arguments, **kwargs):
        pass

    monkeypatch.setattr(Trainer, "_save_checkpoint", on_top)
    trusted = set(torch.serialization.get_safe_globals())
    compatibility.apply()
    assert Trainer._save_checkpoint is on_top
    assert set(torch.serialization.get_safe_globals()) == trusted


class Forged:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("named", [True, False])
def test_a_pickled_data_set_beside_a_checkpoint_is_not_read(named, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = torch.load(runs["SASRec"].file, weights_only=True)
    values = content["config"].final_config_dict
    values |= {
        "checkpoint_dir": str(tmp_path),
        "data_path": str(Path(values["data_path"]).resolve()),
    }
    if named:
        values["dataset_save_path"] = values["dataloaders_save_path"] = str(tmp_path / "any.pth")
    torch.save(content, tmp_path / "theirs.pth", pickle_protocol=2)
    for name in ("any", "ml-100k-SequentialDataset", "ml-100k-for-SASRec-dataloader"):
        (tmp_path / f"{name}.pth").write_bytes(pickle.dumps(Forged()))
    quick_start.load_data_and_model(str(tmp_path / "theirs.pth"))
    assert not Path("ran").exists()
    pickle.loads((tmp_path / "any.pth").read_bytes())
    assert Path("ran").exists()  # it would have run


def test_whatever_a_yaml_holds_can_be_read_back(trainer):
    odd = {
        "day": datetime.date(2024, 11, 21),
        "paths": (Path("a"), 1),
        "names": {"x"},
        3: np.int8(1),
    }
    trainer.config.final_config_dict |= odd
    trainer._save_checkpoint(1)
    values = load_checkpoint(trainer.saved_model_file)["config"].final_config_dict
    assert {key: values[key] for key in odd} == {
        "day": "2024-11-21",
        "paths": ("a", 1),
        "names": ["x"],
        3: 1,
    }


def test_an_old_checkpoint_is_converted_by_who_names_its_hash(runs, tmp_path, monkeypatch):
    """The refusal gives the command; the converted file scores as the trained model does."""
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    state = torch.load(runs["SASRecF"].file, weights_only=True)
    with monkeypatch.context() as plain:  # as RecBole alone pickles its Config
        plain.delattr(Config, "__getstate__")
        state["config"].yaml_loader = state["config"]._build_yaml_loader()
        state["other_parameter"] = {"layer": torch.nn.Linear(1, 1)}
        torch.save(state, old, pickle_protocol=4)
    with pytest.raises(ValueError, match=r"old\.pth\] is refused.*convert") as refusal:
        quick_start.load_data_and_model(str(old))
    given = str(refusal.value).partition("--trusted_sha256=")[2]
    for wrong in ("0" * 64, ""):
        with pytest.raises(ValueError, match=f"{given}.*Nothing was read"):
            convert_checkpoint(old, new, wrong)
    assert not new.exists()
    command = f"recbole_tslrec convert --checkpoint={old} --output={new} --trusted_sha256={given}"
    monkeypatch.setattr(sys, "argv", command.split())
    command_line.main()
    _, model, *_, test_data = quick_start.load_data_and_model(str(new))
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        expected = runs["SASRecF"].model.eval().full_sort_predict(interaction)
        torch.testing.assert_close(model.eval().full_sort_predict(interaction), expected)


@pytest.mark.parametrize("reader", ["load_data_and_model", "resume_checkpoint", "evaluate"])
def test_recboles_own_readers_refuse_what_is_damaged(reader, runs, trainer, tmp_path):
    file = tmp_path / "damaged.pth"
    for damage in (cut_short, altered, emptied):
        file.write_bytes(damage(runs["SASRec"].file.read_bytes()))
        with pytest.raises(ValueError, match=r"damaged\.pth.*damaged or cut short"):
            if reader == "load_data_and_model":
                quick_start.load_data_and_model(str(file))
            elif reader == "resume_checkpoint":
                trainer.resume_checkpoint(file)
            else:
                trainer.evaluate([1], model_file=str(file))


def test_a_save_that_fails_leaves_the_previous_checkpoint(trainer, monkeypatch):
    before = Path(trainer.saved_model_file).read_bytes()

    def fail_midway(state, file, **kwargs):
        Path(file).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail_midway)
    with pytest.raises(OSError, match="no space"):
        trainer._save_checkpoint(1)
    assert Path(trainer.saved_model_file).read_bytes() == before
    assert os.listdir(trainer.checkpoint_dir) == ["best.pth"]


def test_a_save_replaces_the_previous_checkpoint(trainer):
    trainer._save_checkpoint(1)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 1
    assert os.listdir(trainer.checkpoint_dir) == ["best.pth"]
    trainer._save_checkpoint(2, saved_model_file=os.path.join(trainer.checkpoint_dir, "other.pth"))
    assert sorted(os.listdir(trainer.checkpoint_dir)) == ["best.pth", "other.pth"]


NOT_KEPT = {
    "expanded": ("a tensor with fewer numbers", lambda: torch.ones(1).expand(6)),
    "sparse": ("a tensor of an odd layout", lambda: torch.eye(4).to_sparse()),
    "array": ("other_parameter holds a ndarray", lambda: np.zeros(3)),
}


@pytest.mark.parametrize("kind", NOT_KEPT)
def test_what_no_reader_takes_is_refused_as_it_is_saved(kind, trainer):
    """And not only at the test, after all epochs; what was kept before stays."""
    what, make = NOT_KEPT[kind]
    if kind == "array":
        trainer.model.other_parameter = lambda: {"array": make()}
    else:
        trainer.model.register_buffer(kind, make())
    with pytest.raises(ValueError, match=rf"model: \[SASRec\] cannot be kept.*{what}.*saved=False"):
        trainer._save_checkpoint(1)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 0


def test_recboles_own_matrices_are_trained_and_tested_as_ever():
    settings = SETTINGS | {"load_col": INTERACTIONS_ALONE, "metrics": ["Hit"], "topk": [10]}
    settings |= {"valid_metric": "Hit@10", "eval_args": {"mode": "full"}, "state": "ERROR"}
    config = Config("EASE", "ml-100k", config_dict=settings)
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    model = get_model("EASE")(config, train_data.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "EASE")(config, model)
    trainer.fit(train_data, valid_data)
    assert trainer.evaluate(test_data, load_best_model=False)["hit@10"] > 0.3


def test_only_the_first_process_of_several_saves(trainer):
    trainer.config["single_spec"], trainer.config["local_rank"] = False, 1
    trainer._save_checkpoint(1)
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 0


def test_hyper_tuning_runs_outside_a_ray_session():
    pytest.importorskip("hyperopt")

    def objective(config_dict, config_file_list):
        settings = {**SETTINGS, "model": "SASRec", "dataset": "ml-100k", "state": "ERROR"}
        settings["load_col"] = INTERACTIONS_ALONE
        return quick_start.objective_function({**settings, **config_dict}, config_file_list)

    tuning = HyperTuning(objective, params_dict={"choice": {"learning_rate": [0.01, 1e-9]}})
    tuning.run()
    assert len(tuning.params2result) == 2
    assert tuning.best_params == {"learning_rate": 0.01}


@pytest.mark.parametrize(("detect", "check_nan"), [(False, True), (True, False)])
def test_anomaly_detection_which_sine_switches_on_is_as_the_user_had_it(detect, check_nan):
    code = f"""
        import torch
        torch.autograd.set_detect_anomaly({detect}, {check_nan})
        import recbole_tslrec
        import recbole.model.sequential_recommender.sine
        print(torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == [str(detect), str(check_nan)]
    assert done.stderr == ""  # ray's warning of pkg_resources among others


@pytest.mark.parametrize(
    "member", [ModelType.SEQUENTIAL, InputType.POINTWISE, EvaluatorType.RANKING]
)
def test_members_of_recboles_enums_are_written_by_value_on_every_python(member):
    text = pickle.dumps(member, protocol=2)
    assert b"getattr" not in text and pickle.loads(text) is member


def test_on_a_machine_with_a_gpu_an_experiment_on_the_cpu_ends(monkeypatch):
    """RecBole asks for the memory of config["device"], which torch has of GPUs alone."""
    config = Config("SASRec", "ml-100k", config_dict=SETTINGS | {"use_gpu": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        recbole_trainer.get_gpu_usage.__wrapped__(config["device"])
    assert recbole_trainer.get_gpu_usage(config["device"]) == "0.0 / 0.0"
    assert "0.0 / 0.0" in get_environment(config).draw()
    assert {device_of({"gpu_id": none}) for none in ("", "cpu", None)} == {"cpu"}
    assert device_of({}) == device_of({"gpu_id": "0"}) == device_of({"gpu_id": 1}) == "cuda"
    monkeypatch.setattr(cell_run, "machine", lambda device: device)
    cell = Cell("ml-100k", "SASRec", "Base", 2020, {"gpu_id": ""}, "data")
    assert cell_run.failure(cell, ValueError("none"))["machine"] == "cpu"
