"""One true run per variant and backbone on the shortest histories of ml-100k."""

import logging
from dataclasses import replace

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.paradigms.tslrec.models import MODELS
from recbole_tslrec.recbole_bridge import trainers as trainer_module

ML_100K = {
    "user_inter_num_interval": "[0,30]",
    "item_inter_num_interval": "[5,inf)",
}


def trained(model: str, settings: dict, dataset: str = "ml-100k"):
    """Train and test a model as run_recbole does; the trainer and the test result."""
    config = Config(model, dataset, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    recommender = get_model(model)(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
    trainer.fit(train_data, valid_data)
    return trainer, trainer.evaluate(test_data)


# The paper's; tests/backbones/test_table.py has every line of the table.
BACKBONES_OF_THE_PAPER = ("GRU4Rec", "Caser", "SASRec", "FMLPRec")


@pytest.mark.parametrize(
    "model", [name for name in MODELS if name.partition("_")[2] in BACKBONES_OF_THE_PAPER]
)
def test_every_model_trains_and_tests(model, settings):
    trainer, result = trained(model, settings | ML_100K)
    assert 0 <= result["ndcg@10"] <= result["hit@10"] <= 1
    names = [stage.name for stage in trainer.stages]
    if model.startswith("CI"):
        assert names == ["backbone", "categories"]
        categories = trainer.model.fusion.categories
        assert categories[0] == 4 and set(categories[1:].tolist()) == {0, 1, 2, 3}
    elif model.startswith("Norm"):
        assert names == []
    else:
        assert names == ["backbone", "categories", "fine_tuning", "augmentation"]
        assert trainer.model.fusion.enhanced[1:].abs().sum() > 0
        gate = trainer.model.mean_gate()
        assert gate.shape == (trainer.model.n_items,) and (0 < gate).all() and (gate < 1).all()


@pytest.mark.parametrize("loss", ["CE", "BPR"])
@pytest.mark.parametrize(
    "enhancement", ["mean_preference", "backbone_embedding", "random", "frozen_lm"]
)
def test_the_controls(enhancement, loss, small_data, settings, caplog):
    caplog.set_level(logging.INFO)
    changes = {"enhancement": enhancement, "loss_type": loss}
    trainer, _ = trained("TSLRec_SASRec", settings | changes, small_data)
    names = [stage.name for stage in trainer.stages]
    expected = {
        "mean_preference": (["backbone", "categories"], 4),
        "backbone_embedding": (["backbone"], 64),
        "random": ([], 32),
        "frozen_lm": (["backbone", "augmentation"], 32),
    }
    assert (names, trainer.model.fusion.enhanced.shape[1]) == expected[enhancement]
    assert ("Stages: none is needed." in caplog.text) == (enhancement == "random")


@pytest.mark.parametrize("model", ["TSLRec_SASRec", "CI_SASRec", "Norm_SASRec"])
def test_rows_of_one_length_are_trained(model, small_data, settings):
    changes = {"enhancement": "backbone_embedding", "item_norm": "l2"}
    learned = []
    for rate in (1e-9, 1e-2):
        trainer, _ = trained(model, settings | changes | {"learning_rate": rate}, small_data)
        lengths = trainer.model.item_table.weight.detach().norm(dim=1)
        torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))
        (length,) = (p for name, p in trainer.model.named_parameters() if name.endswith("length"))
        assert length.item() == pytest.approx(lengths[0].item())
        learned.append(length.item())
    # It starts at the id embeddings' length (0.02 a number), whatever is fused with them.
    assert learned[0] == pytest.approx(0.02 * 64**0.5, rel=0.05)
    assert learned[1] != pytest.approx(learned[0], rel=0.01)


def test_ci_needs_no_language_model_and_a_control_no_categories(small_data, settings):
    trained("CI_GRU4Rec", settings | {"llm": "no/such"}, small_data)
    control = {"enhancement": "backbone_embedding", "n_categories": 1000, "llm": "no/such"}
    trained("TSLRec_GRU4Rec", settings | control, small_data)


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("variant", ["", "Norm_", "CI_", "TSLRec_"])
def test_whole_sequences_train_every_variant(variant, backbone, small_data, settings):
    changes = {"train_batching": "sequence", "train_neg_sample_args": None, "epochs": 4}
    trainer, _ = trained(variant + backbone, settings | changes, small_data)
    losses = trainer.train_loss_dict
    assert losses[3] < losses[0]


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_trimmed_rows_train_as_recboles_do(loss_type, small_data, settings):
    negatives = {"distribution": "uniform", "sample_num": 1} if loss_type == "BPR" else None
    changes = {"loss_type": loss_type, "train_neg_sample_args": negatives, "epochs": 2}
    runs = [
        trained("Caser", settings | changes | {"train_batching": batching}, small_data)
        for batching in ("prefix", "trimmed")
    ]
    one, other = (trainer.train_loss_dict for trainer, _ in runs)
    assert list(other.values()) == pytest.approx(list(one.values()), rel=1e-4)
    weights = [trainer.model.state_dict() for trainer, _ in runs]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.parametrize("loss", ["softmax", "gbce"])
@pytest.mark.parametrize(
    ("model", "batching"),
    [("TSLRec_SASRec", "sequence"), ("GRU4Rec", "sequence"), ("Caser", "prefix")],
)
def test_sampled_losses_train(model, batching, loss, small_data, settings):
    changes = {"train_batching": batching, "train_neg_sample_args": None, "epochs": 4}
    changes |= {"sampled_loss": loss, "sampled_negatives": 20, "learning_rate": 0.01}
    trainer, _ = trained(model, settings | changes | {"enhancement": "random"}, small_data)
    losses = trainer.train_loss_dict
    assert losses[3] < losses[0]


@pytest.mark.parametrize("model", ["Caser", "CI_FMLPRec"])
def test_whole_sequences_are_refused_where_filters_see_the_future(model, small_data, settings):
    with pytest.raises(ValueError, match=f"train_batching.*{model}"):
        Config(model, small_data, config_dict=settings | {"train_batching": "sequence"})


def test_the_embedded_language_model(small_data, settings):
    changes = {"llm": "embedded", "sft_epochs": 1, "lora_r": 4}
    trainer, _ = trained("TSLRec_GRU4Rec", settings | changes, small_data)
    assert trainer.model.fusion.enhanced.shape[1] == 128  # of 384


def test_a_config_may_be_changed_and_used_again(small_data, settings):
    config = Config("TSLRec_SASRec", small_data, config_dict=settings | {"enhancement": "random"})
    dataset = data_preparation(config, create_dataset(config))[0]._dataset
    for key, value, width in (("enhanced_dim", 16, 16), ("enhancement", "mean_preference", 4)):
        config[key] = value
        model = get_model("TSLRec_SASRec")(config, dataset)
        assert model.fusion.enhanced.shape[1] == width


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_recboles_metrics_of_the_whole_list_are_computed(model, small_data, settings):
    names = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    changes = {"enhancement": "random", "metrics": ["NDCG", *names], "train_neg_sample_args": None}
    _, result = trained(model, settings | changes, small_data)
    assert {f"{name.lower()}@10" for name in names} <= set(result)
    assert 0 < result["itemcoverage@10"] <= 1


def test_a_backbones_table_is_found_by_its_name(small_data, settings, monkeypatch):
    asked = []
    original = trainer_module.whole_sequence_loss

    def loss(model, interaction, item_table, *more):
        asked.append(item_table)
        return original(model, interaction)

    monkeypatch.setattr(trainer_module, "whole_sequence_loss", loss)
    monkeypatch.setitem(BACKBONES, "SASRec", replace(BACKBONES["SASRec"], item_table="x"))
    changes = {"train_batching": "sequence", "train_neg_sample_args": None}
    trained("SASRec", settings | changes, small_data)
    assert set(asked) == {"x"}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantised_on_the_cpu(quantization, small_data, settings):
    changes = {"llm_quantization": quantization, "sft_epochs": 1}
    trainer, _ = trained("TSLRec_SASRec", settings | changes, small_data)
    assert trainer.model.fusion.enhanced[1:].isfinite().all()


def test_one_fusion_a_step_and_one_an_evaluation(small_data, settings, monkeypatch):
    config = Config("TSLRec_SASRec", small_data, config_dict=settings | {"train_batch_size": 16})
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    model = get_model("TSLRec_SASRec")(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "TSLRec_SASRec")(config, model)
    trainer.fit(train_data, valid_data)
    calls = []
    model.fusion.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    trainer._train_epoch(train_data, 0)
    assert calls == [True] * len(train_data) and len(train_data) > 3
    calls.clear()
    trainer.evaluate(valid_data, load_best_model=False)
    assert calls == [False]


@pytest.mark.parametrize(
    "changes", [{}, {"worker": 1, "eval_args": {"order": "TO", "mode": "uni20"}}]
)
def test_the_fused_model_does_not_depend_on_whether_stages_were_reused(
    changes, small_data, settings
):
    """Not even where a loader's workers draw what is ranked: training the backbone reads it, too."""
    settings = settings | {"epochs": 2} | changes
    first, result = trained("TSLRec_SASRec", settings, small_data)
    again, result_again = trained("TSLRec_SASRec", settings, small_data)
    assert first.best_valid_score == again.best_valid_score
    assert not any(stage.reused for stage in first.stages)
    assert [stage.name for stage in again.stages] == ["augmentation"] and again.stages[0].reused
    assert result == result_again
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
