"""``valid_protocol``: the epoch is chosen by ranks without the user's own items, or novel targets."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from support.ranks import naive_rank

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.evaluation.ranks import metrics
from recbole_tslrec.recbole_bridge import trainers
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

GIVEN = {"enhancement": "random", "train_neg_sample_args": None, "metric_decimal_place": 12}
# So short that most lists have lost items of the history.
SHORT = {"MAX_ITEM_LIST_LENGTH": 3}


def masked_metrics(experiment, novel: bool = False) -> dict[str, float]:
    """Of the validation rows: by sorting all scores, and histories read from the file.

    Args:
        novel: whether of those alone whose target is not in the training history.
    """
    lines = open("data/small/small.inter").read().splitlines()[1:]
    histories: dict[str, list[str]] = {}
    for user, item, _ in (line.split("\t") for line in lines):
        histories.setdefault(user, []).append(item)
    dataset, model = experiment.train_data._dataset, experiment.trainer.model
    ranks = []
    for interaction, *_ in experiment.valid_data:
        with torch.no_grad():
            scores = model.full_sort_predict(interaction).view(len(interaction), -1)
        users = dataset.id2token("user_id", interaction["user_id"].numpy())
        for user, row in zip(users, scores.tolist(), strict=True):
            *training, target, _ = dataset.token2id("item_id", np.array(histories[user])).tolist()
            if not (novel and target in training):
                ranks.append(naive_rank(row, target, set(training)))
    return metrics(np.array(ranks))


@pytest.mark.parametrize("changes", [{}, SHORT])
@pytest.mark.parametrize("model", ["Caser", "GRU4Rec", "TSLRec_SASRec"])
def test_the_epoch_is_chosen_by_masked_ranks(model, changes, small_data, settings):
    changes = GIVEN | changes | {"epochs": 3, "valid_protocol": "masked"}
    experiment = run_experiment(model, small_data, config_dict=settings | changes)
    # After the test the model has the best epoch's weights.
    assert dict(experiment.best_valid_result) == pytest.approx(masked_metrics(experiment))
    ranked = experiment.trainer.evaluate(experiment.valid_data, load_best_model=False)
    assert dict(ranked) != dict(experiment.best_valid_result)


@pytest.mark.parametrize(
    "mode", [{"test": "full"}, {"valid": "full"}, {"valid": "full", "test": "uni5"}]
)
def test_a_mode_of_one_part_is_recboles_for_both(mode, small_data, settings):
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": mode}
    given = settings | GIVEN | {"eval_args": eval_args, "valid_protocol": "masked"}
    assert Config("SASRec", small_data, config_dict=given)["eval_args"]["mode"]["valid"] == "full"
    given["eval_args"]["mode"] = {"test": "uni5"}
    with pytest.raises(ValueError, match=r"valid_protocol: \[masked\] ranks all .* mode \[uni5\]"):
        Config("SASRec", small_data, config_dict=given)


@pytest.mark.parametrize("changes", [{}, SHORT])
@pytest.mark.parametrize("model", ["GRU4Rec", "TSLRec_SASRec"])
def test_the_epoch_is_chosen_by_novel_targets(model, changes, small_data, settings):
    changes = GIVEN | changes | {"epochs": 3, "valid_protocol": "novel"}
    experiment = run_experiment(model, small_data, config_dict=settings | changes)
    novel = masked_metrics(experiment, novel=True)
    assert dict(experiment.best_valid_result) == pytest.approx(novel)
    assert novel != pytest.approx(masked_metrics(experiment))


def test_a_term_is_chosen_by_novel_targets(small_data, settings, monkeypatch):
    rows, choose = [], trainers.choose_settings

    def counted(model, blocks, *given):
        rows.append(len(blocks.order))
        return choose(model, blocks, *given)

    monkeypatch.setattr(trainers, "choose_settings", counted)
    changes = GIVEN | {"fusion": "none", "score_term": "after", "valid_protocol": "novel"}
    changes |= {"enhancement": "backbone_embedding", "epochs": 2}
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    novel = masked_metrics(experiment, novel=True)
    assert 0 < rows[0] < len(experiment.valid_data._dataset)
    assert dict(experiment.best_valid_result) == pytest.approx(novel)


def test_a_second_fit_goes_by_its_own_rows(small_data, settings):
    given = settings | GIVEN | {"valid_protocol": "novel", "epochs": 1}
    experiment = run_experiment("GRU4Rec", small_data, config_dict=given, test=False)
    trainer, first = experiment.trainer, experiment.trainer._novel
    rows = experiment.valid_data._dataset
    half = rows.copy(rows.inter_feat[: len(rows) // 2])
    valid_data = type(experiment.valid_data)(trainer.config, half, experiment.valid_data._sampler)
    trainer._follow_valid_protocol(experiment.train_data, valid_data)
    assert 0 < len(trainer._novel) < len(first)


@pytest.mark.parametrize("model", ["SASRec", "TSLRec_SASRec"])
def test_without_a_novel_target_it_is_refused_at_once(model, settings, tmp_path):
    path = tmp_path / "data" / "same" / "same.inter"
    path.parent.mkdir(parents=True)
    rows = [f"u{user}\ti{user % 12}\t{time}" for user in range(20) for time in range(6)]
    path.write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    given = settings | GIVEN | {"valid_protocol": "novel"}
    with pytest.raises(ValueError, match=r"valid_protocol: \[novel\] has nothing to go by"):
        run_experiment(model, "same", config_dict=given)
    assert not list((tmp_path / "saved").rglob("backbone*"))


def test_ranked_is_as_if_nothing_was_said(small_data, settings):
    config = Config("SASRec", small_data, config_dict=settings | GIVEN)
    assert config["valid_protocol"] == "ranked"
    known = training_settings(config.final_config_dict)
    masked = training_settings(config.final_config_dict | {"valid_protocol": "masked"})
    assert masked.items() - known.items() == {("valid_protocol", "masked")}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("SASRec", {"valid_protocol": "seen"}, r"\['seen'\] is not one of ranked, masked, novel"),
        ("HGN", {"valid_protocol": "masked"}, r"\[masked\] .* \[HGN\].*RecBole's own trainer"),
        (
            "TSLRec_SASRec",
            {"valid_protocol": "masked", "eval_args": {"order": "TO", "mode": "uni10"}},
            r"\[masked\] ranks all items.*uni10.*mode: full",
        ),
    ],
)
def test_what_nobody_could_follow_is_refused(model, changes, message, small_data, settings):
    with pytest.raises(ValueError, match=f"valid_protocol: {message}"):
        Config(model, small_data, config_dict=settings | GIVEN | changes)
