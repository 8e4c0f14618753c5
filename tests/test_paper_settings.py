"""properties/paper.yaml means the paper's evaluation for every backbone."""

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_tslrec.recbole_bridge.config_files import read_config_file

PAPERS_BACKBONES = ("GRU4Rec", "Caser", "SASRec", "FMLPRec")
FILE = "properties/paper.yaml"  # found from any folder


@pytest.mark.parametrize("backbone", PAPERS_BACKBONES)
@pytest.mark.parametrize("variant", ["", "CI_", "TSLRec_"])
def test_every_model_gets_the_papers_settings(variant, backbone, small_data):
    places = {"data_path": "data", "gpu_id": ""}
    config = Config(variant + backbone, small_data, [FILE], config_dict=places)
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["eval_args"]["order"] == "TO"
    assert config["eval_args"]["mode"] == {"valid": "full", "test": "full"}
    assert config["metrics"] == ["Hit", "NDCG"]
    assert config["topk"] == [5, 10]
    assert config["valid_metric"] == "NDCG@10"
    assert config["valid_metric_bigger"]
    assert config["stopping_step"] == 10
    assert config["loss_type"] == "CE"
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config["learning_rate"] == 1e-4  # a number: in plain yaml it would be a text
    assert config["train_batch_size"] == 1024
    assert config["MAX_ITEM_LIST_LENGTH"] == 50
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}


@pytest.mark.parametrize("backbone", PAPERS_BACKBONES)
def test_every_backbone_is_256_wide_and_leaves_one_out(backbone, small_data):
    places = {"data_path": "data", "gpu_id": ""}
    config = Config(backbone, small_data, [FILE], config_dict=places)
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    assert len(valid_data.dataset) == len(test_data.dataset) == 40  # one row a user
    model = get_model(backbone)(config, train_data.dataset)
    assert model.item_embedding.weight.shape == (dataset.item_num, 256)
    user = model(*(train_data.dataset[:2][field] for field in _inputs(model)))
    assert user.shape == (2, 256)


@pytest.mark.parametrize("paradigm", ["llamarec", "llmtrsr"])
def test_a_model_of_7_billion_has_batches_that_one_gpu_holds(paradigm):
    values = read_config_file(f"properties/{paradigm}_paper.yaml")
    assert values["llm_gradient_checkpointing"] and values["sft_batch_positions"] <= 8192


def test_a_file_of_the_same_path_comes_before_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config_file(FILE)["topk"] == [5, 10]
    (tmp_path / "properties").mkdir()
    (tmp_path / FILE).write_text("topk: [7]\n")
    assert read_config_file(FILE) == {"topk": [7]}


def _inputs(model) -> list[str]:
    """The columns that the model's forward takes."""
    if type(model).__name__ == "Caser":
        return [model.USER_ID, model.ITEM_SEQ]
    return [model.ITEM_SEQ, model.ITEM_SEQ_LEN]
