"""``valid_protocol: masked``: the epoch is chosen by ranks without the user's own items."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from support.ranks import naive_rank

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.evaluation.ranks import metrics
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

GIVEN = {"enhancement": "random", "train_neg_sample_args": None, "metric_decimal_place": 12}
# So short that most lists have lost items of the history.
SHORT = {"MAX_ITEM_LIST_LENGTH": 3}


def masked_metrics(experiment) -> dict[str, float]:
    """Of the validation rows: by sorting all scores, and histories read from the file."""
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


def test_ranked_is_as_if_nothing_was_said(small_data, settings):
    config = Config("SASRec", small_data, config_dict=settings | GIVEN)
    assert config["valid_protocol"] == "ranked"
    known = training_settings(config.final_config_dict)
    masked = training_settings(config.final_config_dict | {"valid_protocol": "masked"})
    assert masked.items() - known.items() == {("valid_protocol", "masked")}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("SASRec", {"valid_protocol": "seen"}, r"\['seen'\] is not one of ranked, masked"),
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
