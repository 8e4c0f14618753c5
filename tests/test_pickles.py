"""No file on disk runs code: every place where RecBole unpickles, with a payload that leaves a trace."""

import json
import pickle
import pickletools
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import recbole.model.general_recommender.ldiffrec as ldiffrec
import recbole.quick_start.quick_start as quick_start
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import get_model

from recbole_tslrec import Recommender
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge import pickles
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

TRACE = Path("ran")
KEYS = ("dataset_save_path", "dataloaders_save_path")
BESIDE = ("small-SequentialDataset.pth", "small-for-{model}-dataloader.pth")


class Payload:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (TRACE,)


def would_have_run(file: Path) -> bool:
    pickle.loads(file.read_bytes())
    return TRACE.exists()


def trained(model: str, data: str, settings: dict) -> Path:
    given = settings | {"train_neg_sample_args": None, "enhancement": "random"}
    return Path(run_experiment(model, data, config_dict=given).checkpoint)


def set_again(checkpoint: Path, forged: Path, values: dict[str, str]) -> None:
    """Have a checkpoint's pickle set keys of its config once the Config is made, from its memo."""
    with zipfile.ZipFile(checkpoint) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in records if name.endswith("/data.pkl")]
    operations = list(pickletools.genops(records[name]))
    keys = [argument for _, argument, _ in operations]
    at = keys.index("final_config_dict")
    number = next(arg for code, arg, _ in operations[at + 2 :] if code.name.endswith("BINPUT"))
    take = pickle.LONG_BINGET + number.to_bytes(4, "little")

    def text(of: str) -> bytes:
        return pickle.BINUNICODE + len(of).to_bytes(4, "little") + of.encode()

    more = text("again") + take
    for key, value in values.items():
        more += text(key) + text(value) + pickle.SETITEM
    records[name] = records[name][:-1] + more + pickle.SETITEM + pickle.STOP
    with zipfile.ZipFile(forged, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)


@pytest.fixture
def stolen(tmp_path) -> Path:
    """A pickle of somebody else's."""
    file = tmp_path / "stolen.pth"
    file.write_bytes(pickle.dumps(Payload()))
    return file


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("read", [quick_start.load_data_and_model, fold_checkpoint])
def test_what_a_checkpoint_sets_again_after_it_was_read_names_no_pickle(
    key, read, small_data, settings, tmp_path, stolen
):
    forged = tmp_path / "forged.pth"
    set_again(trained("TSLRec_SASRec", small_data, settings), forged, {key: str(stolen)})
    values = torch.load(forged, weights_only=True)["config"].final_config_dict
    assert values[key] == str(stolen)  # it got past torch, and past any check within it
    read(str(forged), *([tmp_path / "plain.pth"] if read is fold_checkpoint else []))
    assert not TRACE.exists() and would_have_run(stolen)


def test_a_script_that_took_recboles_functions_before_is_covered(
    small_data, settings, tmp_path, stolen
):
    forged = tmp_path / "forged.pth"
    again = dict.fromkeys(KEYS, str(stolen))
    set_again(trained("SASRec", small_data, settings), forged, again)
    code = """
        from recbole.data import create_dataset, data_preparation
        from recbole.quick_start import load_data_and_model
        import recbole_tslrec, sys, torch
        load_data_and_model(sys.argv[1])
        config = torch.load(sys.argv[1])["config"]
        data_preparation(config, create_dataset(config))
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-c", code, str(forged)], check=True, cwd=tmp_path)
    assert not TRACE.exists() and would_have_run(stolen)


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_a_run_reads_no_pickle_that_lies_in_its_folder(model, small_data, settings, capsys):
    Path("saved").mkdir()
    for name in BESIDE:
        Path("saved", name.format(model=model)).write_bytes(pickle.dumps(Payload()))
    checkpoint = trained(model, small_data, settings)
    said = capsys.readouterr().err
    quick_start.load_data_and_model(str(checkpoint))
    assert not TRACE.exists() and would_have_run(Path("saved", BESIDE[0]))
    for key, name in zip(KEYS, BESIDE, strict=True):
        assert f"{key}: [saved/{name.format(model=model)}] is not read" in said


def test_the_one_file_that_the_user_names_is_read(small_data, settings, monkeypatch, capsys):
    monkeypatch.setattr(pickles, "_asked_for", set())
    base = settings | {"train_neg_sample_args": None}
    config = Config(
        "SASRec", small_data, config_dict=base | {"save_dataset": True, "save_dataloaders": True}
    )
    data_preparation(config, create_dataset(config))
    files = [f"saved/{name.format(model='SASRec')}" for name in BESIDE]
    assert all(Path(file).is_file() for file in files)
    named = base | dict(zip(KEYS, files, strict=True))
    capsys.readouterr()
    run_experiment("SASRec", small_data, config_dict=named)
    said = capsys.readouterr().err
    assert all(f"[{file}]" in said for file in files) and "is not read" not in said
    Path(files[0]).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(AttributeError):  # it was read, as asked
        create_dataset(Config("SASRec", small_data, config_dict=named))
    assert TRACE.exists()


def test_the_teacher_of_a_stored_config_is_a_name_and_no_program():
    keys = {"gpu_id": "", "state": "INFO", "phase": "teacher_training", "teacher": "CIN"}
    keys |= {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"}
    config = Config("KD_DAGFM", "ml-100k", config_dict=keys | {"user_inter_num_interval": "[0,25)"})
    train_data, *_ = data_preparation(config, create_dataset(config))
    get_model("KD_DAGFM")(config, train_data._dataset)
    config["teacher"] = "__import__('pathlib').Path('ran').touch() or CIN"
    with pytest.raises(ValueError, match="teacher: .*touch.* is no network of KD_DAGFM"):
        get_model("KD_DAGFM")(config, train_data._dataset)
    assert not TRACE.exists()


def test_item_vectors_in_a_data_folder_are_numbers(small_data, settings, tmp_path):
    given = {key: settings[key] for key in ("data_path", "gpu_id", "state", "load_col")}
    config = Config("LDiffRec", small_data, config_dict=given | {"n_cate": 2})
    train_data, *_ = data_preparation(config, create_dataset(config))
    file = tmp_path / "data" / small_data / "item_emb.npy"
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        get_model("LDiffRec")(config, train_data._dataset)
    assert not TRACE.exists()
    np.load(file, allow_pickle=True)
    assert TRACE.exists()
    numbers = np.ones((3, 2))
    np.save(file, numbers)
    assert np.array_equal(ldiffrec.np.load(file, allow_pickle=True), numbers)


WEIGHTS_OF_OTHERS = {
    "ConvNCF": {"pre_model_path": "weights.pth", "train_method": "after_pretrain"},
    "NAIS": {"pretrain_path": "weights.pth"},
    "RaCT": {"pre_model_path": "weights.pth", "train_stage": "finetune"},
    "NeuMF": {"mf_pretrain_path": "weights.pth", "use_pretrain": True},
    "S3Rec": {"pre_model_path": "weights.pth", "train_stage": "finetune"},
}


@pytest.mark.parametrize("model", WEIGHTS_OF_OTHERS)
def test_weights_that_a_model_starts_from_are_read_with_torchs_check(model):
    torch.save({"state_dict": Payload()}, "weights.pth")
    given = {"gpu_id": "", "state": "INFO", "user_inter_num_interval": "[0,25)"}
    if model == "S3Rec":
        given |= {"train_neg_sample_args": None}
    config = Config(model, "ml-100k", config_dict=given | WEIGHTS_OF_OTHERS[model])
    train_data, *_ = data_preparation(config, create_dataset(config))
    refused = (
        "Weights only load failed|is refused: it holds"  # the latter of S3Rec, looked at first
    )
    with pytest.raises((pickle.UnpicklingError, ValueError), match=refused):
        get_model(model)(config, train_data._dataset)
    assert not TRACE.exists()


@pytest.mark.parametrize("load", [quick_start.load_data_and_model, Recommender])
def test_code_beside_a_language_model_that_a_checkpoint_names_does_not_run(
    load, small_data, settings, tmp_path
):
    # transformers runs the code of a folder of one name once a process.
    folder = Path(shutil.copytree(settings["llm"], tmp_path / f"theirs_{load.__name__}"))
    (folder / "theirs.py").write_text(f"import pathlib\npathlib.Path({str(TRACE)!r}).touch()")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    content = torch.load(trained("TSLRec_SASRec", small_data, settings), weights_only=True)
    values = content["config"].final_config_dict
    values |= {"llm": str(folder), "llm_trust_remote_code": True}
    values |= {"enhancement": "tslrec", "enhanced_width": None}
    torch.save(content, "forged.pth", pickle_protocol=2)
    with suppress(ValueError):  # the widths may differ
        load("forged.pth")
    assert not TRACE.exists()
    with suppress(OSError, ValueError):  # asked for: it runs, and has no such class
        load("forged.pth", llm_trust_remote_code=True)
    assert TRACE.exists()


def test_what_a_checkpoint_would_have_saved_again_is_not(small_data, settings, tmp_path):
    forged = tmp_path / "forged.pth"
    elsewhere = {"checkpoint_dir": str(tmp_path / "elsewhere" / "deep")}
    again = dict.fromkeys(("save_dataset", "save_dataloaders"), "yes") | elsewhere
    set_again(trained("SASRec", small_data, settings), forged, again)
    config, *_ = quick_start.load_data_and_model(str(forged))
    assert config["checkpoint_dir"] == elsewhere["checkpoint_dir"]
    assert not Path(elsewhere["checkpoint_dir"]).parent.exists()


class SaysWhatItKeeps(AbstractRecommender):
    mean = 0

    def other_parameter(self):
        return {"mean": self.mean}


def test_a_model_may_say_by_a_method_what_it_keeps():
    model = SaysWhatItKeeps()
    model.load_other_parameter({"mean": 1})
    assert model.mean == 1
    with pytest.raises(ValueError, match=r"other_parameter: \[predict\] is nothing"):
        model.load_other_parameter({"mean": 2, "predict": 1})
    assert model.mean == 1


def test_other_parameters_are_no_methods(small_data, settings, tmp_path):
    content = torch.load(trained("SASRec", small_data, settings), weights_only=True)
    content["other_parameter"] = {"full_sort_predict": 1}
    torch.save(content, tmp_path / "forged.pth", pickle_protocol=2)
    with pytest.raises(ValueError, match=r"forged\.pth.*other_parameter: \[full_sort_predict\]"):
        quick_start.load_data_and_model(str(tmp_path / "forged.pth"))
