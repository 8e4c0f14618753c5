"""RecBole's own entry points with the plug-in imported."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.quick_start import load_data_and_model, objective_function, run_recbole
from recbole.trainer import HyperTuning, Trainer
from recbole.utils import get_model, get_trainer
from support.small_backbones import keys_of

import recbole_tslrec
from recbole_tslrec.__main__ import main
from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.paradigms.tslrec.models import MODELS
from recbole_tslrec.recbole_bridge.register import register
from recbole_tslrec.recbole_bridge.trainers import TwoStageTrainer

CHECKOUT = Path(recbole_tslrec.__file__).parents[1]


def python(code: str, *arguments: str, folder: Path) -> str:
    """Run code in a fresh process; its standard output."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_model_is_found_by_name_with_its_trainer_and_both_yaml(small_data, settings):
    assert set(MODELS) == {f"{v}_{b}" for v in ("TSLRec", "CI", "Norm") for b in BACKBONES}
    for name, model in MODELS.items():
        assert get_model(name) is model and model.__name__ == name
        backbone = name.partition("_")[2]
        keys = settings | keys_of(backbone)
        if backbone == "S3Rec":
            keys |= {"train_stage": "finetune", "pre_model_path": __file__}
        config = Config(name, small_data, config_dict=keys)
        assert get_trainer(config["MODEL_TYPE"], name) is TwoStageTrainer
        assert config["fusion"] == "gate"  # from our yaml
        assert config["loss_type"] == ("BPR" if backbone == "TransRec" else "CE")  # the backbone's
    assert Config("TSLRec_GRU4Rec", small_data, config_dict=settings)["hidden_size"] == 128


def test_the_class_serves_in_place_of_the_name(small_data, settings):
    by_class = Config(MODELS["TSLRec_SASRec"], small_data, config_dict=settings)
    by_name = Config("TSLRec_SASRec", small_data, config_dict=settings)
    assert by_class["model"] == "TSLRec_SASRec"
    assert str(by_class) == str(by_name)


class Mean(SequentialRecommender):
    """A user's model."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.table = torch.nn.Embedding(self.n_items, 8, padding_idx=0)

    def full_sort_predict(self, interaction):
        return self.table(interaction[self.ITEM_SEQ]).mean(1) @ self.table.weight.T

    def calculate_loss(self, interaction):
        scores = self.full_sort_predict(interaction)
        return torch.nn.functional.cross_entropy(scores, interaction[self.POS_ITEM_ID])


@pytest.mark.parametrize("name", ["SASRec", "FMLPRec"])
def test_a_users_class_may_have_a_name_of_the_table(name, small_data, settings):
    given = settings | {"train_neg_sample_args": None, "loss_type": "CE"}
    model_class = type(name, (Mean,), {})
    config = Config(model_class, small_data, config_dict=given)
    assert config["inner_size"] == (256 if name == "SASRec" else None)  # RecBole's yaml, not ours
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    model = model_class(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert type(trainer) is Trainer
    trainer.fit(train_data, valid_data, verbose=False)
    assert trainer.evaluate(test_data)["ndcg@10"] >= 0


def test_registering_twice_changes_nothing():
    before = Config._load_internal_config_dict
    register()
    assert Config._load_internal_config_dict is before


@pytest.mark.parametrize(
    ("name", "meant"),
    [("TSLRec_SASrec", "TSLRec_SASRec"), ("CI_Casr", "CI_Caser"), ("sasrec", "SASRec")],
)
def test_a_misspelt_model_names_the_ones_that_exist(name, meant, small_data, settings):
    with pytest.raises(
        ValueError, match=f"no model .{name}.*Did you mean.*{meant}.*CI_<backbone>.*FMLPRec"
    ):
        Config(name, small_data, config_dict=settings)


def test_importing_the_package_does_not_import_transformers(tmp_path):
    code = """
        import sys, recbole_tslrec
        slow = ("transformers", "peft", "bitsandbytes", "faiss")
        print([name for name in slow if name in sys.modules])
    """
    assert python(code, folder=tmp_path).strip() == "[]"


def test_stock_run_recbole_then_load_in_a_fresh_process(small_data, settings, tmp_path):
    result = run_recbole(model="TSLRec_SASRec", dataset=small_data, config_dict=settings)
    assert set(result) == {
        "best_valid_score",
        "valid_score_bigger",
        "best_valid_result",
        "test_result",
    }
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    code = """
        import sys, recbole_tslrec, torch
        from recbole.quick_start import load_data_and_model
        from recbole.utils import get_trainer
        file, sys.argv = sys.argv[1], sys.argv[:1]
        config, model, _, _, _, test_data = load_data_and_model(file)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        result = trainer.evaluate(test_data, load_best_model=False)
        print(type(model).__name__, dict(result))
    """
    last = python(code, str(checkpoint), folder=tmp_path).strip().splitlines()[-1]
    assert last == f"TSLRec_SASRec {dict(result['test_result'])}"


def test_a_trained_model_loads_without_its_language_model(small_data, settings, tmp_path):
    llm = shutil.copytree(settings["llm"], tmp_path / "llm")
    run_recbole(
        model="TSLRec_GRU4Rec", dataset=small_data, config_dict=settings | {"llm": str(llm)}
    )
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    shutil.rmtree(llm)
    config, model, *_, test_data = load_data_and_model(str(checkpoint))
    assert model.mean_gate().shape == (model.n_items,)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert trainer.evaluate(test_data, load_best_model=False)["ndcg@10"] > 0


def test_hyper_tuning_reuses_every_stage_for_another_gate(small_data, settings, tmp_path):
    tuning = HyperTuning(
        objective_function=lambda values, files: objective_function(
            {"model": "TSLRec_SASRec", "dataset": small_data, **settings, **values}, files
        ),
        params_dict={"choice": {"enhanced_scale": [1.0, 0.1]}},
        algo="exhaustive",
    )
    tuning.run()
    assert len(tuning.score_list) == 2
    stages = sorted(
        path.name.split("-")[0] for path in (tmp_path / "saved/tslrec/small").glob("[!.]*")
    )
    assert stages == ["augmentation", "backbone", "categories", "fine_tuning"]


def test_spawned_processes_know_our_models(tmp_path):
    """torch spawns; the import at the script's top level reaches the children."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch.multiprocessing as mp
            import recbole_tslrec
            import recbole.utils

            def child(rank, names):
                for name in names:
                    print(recbole.utils.get_model(name).__name__)

            if __name__ == "__main__":
                mp.spawn(child, args=(["TSLRec_SASRec", "FMLPRec"],), nprocs=1)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["TSLRec_SASRec", "FMLPRec"]


def test_numpys_numbers_are_taken(small_data, settings):
    numbers = {"seed": np.int64(7), "n_categories": np.int64(5)}
    config = Config("TSLRec_SASRec", small_data, config_dict=settings | numbers)
    assert json.dumps([config["seed"], config["n_categories"]]) == "[7, 5]"


def test_the_processes_of_run_know_the_plug_in(small_data, tmp_path):
    """They start with nothing of the program that starts them; without GPUs, run refuses them."""
    code = """
        from recbole_tslrec.commands import run

        run._check_processes = lambda *given: None
        run.run_command()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), "--model=TSLRec_SASRec", "--nproc=2"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, f"--dataset={small_data}", "--data_path=data", "--gpu_id=0"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=environment,
    )
    # RecBole's own refusal of more processes than GPUs, which comes once the model is known.
    assert 'final_config_dict["nproc"]' in done.stderr and "lightgbm" not in done.stderr


def test_the_command_line_from_another_folder(small_data, settings, tmp_path, monkeypatch, capsys):
    """Every key as --key=value; a second run with another gate reuses all stages and says so."""
    script = Path(__file__).parents[1] / "run_recbole_tslrec.py"
    flat = {key: value for key, value in settings.items() if not isinstance(value, (dict, list))}
    keys = [f"--{key}={value}" for key, value in flat.items()]
    keys += ["--load_col={'inter':['user_id','item_id','timestamp']}"]
    command = [script, "--model=TSLRec_SASRec", f"--dataset={small_data}", *keys]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout + done.stderr
    assert "test result" in printed and "Stage augmentation: reused" not in printed
    monkeypatch.setattr(sys, "argv", ["recbole_tslrec", "run", *command[1:], "--fusion=sum"])
    main()
    printed = "".join(capsys.readouterr())
    assert "test result" in printed and printed.count("Stage augmentation: reused") == 1
