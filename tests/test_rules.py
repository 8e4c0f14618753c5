"""The rules beside which a gain must stand: the user's own history, and a penalty on seen items."""

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model

from recbole_tslrec.evaluation.candidates import scores
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.paradigms.rules.models import SeenPenalty
from recbole_tslrec.recbole_bridge import trainers
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages import trained_backbone

EXACT = {"metric_decimal_place": 12, "MAX_ITEM_LIST_LENGTH": 30}


def ranks_of(experiment):
    model = experiment.trainer.model
    return rank_test_targets(
        model, experiment.train_data, experiment.valid_data, experiment.test_data
    )


def test_the_history_comes_first_from_the_latest_item_back(small_data, settings):
    experiment = run_experiment("Repeat", small_data, config_dict=settings | EXACT)
    assert not experiment.trainer.train_loss_dict
    ranks = ranks_of(experiment)
    lines = [line.split("\t") for line in open("data/small/small.inter").read().splitlines()[1:]]
    for place, user in enumerate(ranks.user):
        *history, target = [item for other, item, _ in lines if other == user]
        latest_first = list(dict.fromkeys(reversed(history)))
        assert ranks.repeated[place] == (target in history)
        if target in history:
            assert ranks.rank[place] == latest_first.index(target) + 1
        else:
            assert ranks.rank[place] > len(latest_first)
    _, loaded, *_, test_data = load_data_and_model(experiment.checkpoint)
    interaction = next(iter(test_data))[0]
    scores = loaded.full_sort_predict(interaction)
    single = loaded.predict(interaction)
    assert single.tolist() == scores[torch.arange(len(scores)), interaction["item_id"]].tolist()


def test_a_penalty_is_on_seen_items_alone():
    scores = torch.randn(2, 6)
    item_seq = torch.tensor([[3, 1, 0], [5, 5, 2]])
    found = SeenPenalty().added(scores, item_seq, 2.0)
    for row, seen in enumerate(({1, 3}, {2, 5})):
        deviation = np.std(scores[row, 1:].tolist())
        for item in range(1, 6):
            penalty = 2.0 * deviation if item in seen else 0.0
            assert found[row, item].item() == pytest.approx(scores[row, item].item() - penalty)


def test_the_penalty_is_the_trained_backbones_and_masks_where_it_is_large(small_data, settings):
    given = settings | EXACT | {"train_neg_sample_args": None}
    base = ranks_of(run_experiment("GRU4Rec", small_data, config_dict=given))
    experiment = run_experiment("SeenPenalty_GRU4Rec", small_data, config_dict=settings | EXACT)
    assert not experiment.trainer.train_loss_dict
    term = experiment.trainer.model.scoring_term
    term.choose((0,))
    assert np.array_equal(ranks_of(experiment).rank, base.rank)
    term.choose((1e6,))
    novel = ~base.repeated
    assert np.array_equal(ranks_of(experiment).rank[novel], base.rank_masked[novel])


def test_the_penalty_is_chosen_with_seen_items_ranked(small_data, settings, monkeypatch):
    """Masked, it changes nothing, and none would be chosen: the row would be Base once more."""
    asked, choose = [], trainers.choose_settings
    monkeypatch.setattr(
        trainers, "choose_settings", lambda *given: asked.append(given[-1]) or choose(*given)
    )
    given = settings | EXACT | {"valid_protocol": "masked"}
    run_experiment("SeenPenalty_GRU4Rec", small_data, config_dict=given)
    assert asked == [None]


@pytest.mark.parametrize("change", [{"n_heads": 1}, {"hidden_size": 32}])
@pytest.mark.parametrize(
    "model, more",
    [
        ("SeenPenalty_SASRec", {}),
        ("TSLRec_SASRec", {"fusion": "none", "score_term": "after", "enhancement": "random"}),
    ],
)
def test_a_backbone_of_other_settings_is_refused(model, more, change, small_data, settings):
    given = settings | {"epochs": 1, "train_neg_sample_args": None}
    base = run_experiment("SASRec", small_data, config_dict=given, test=False)
    other = settings | more | change | {"backbone_checkpoint": base.checkpoint}
    with pytest.raises(ValueError, match="backbone_checkpoint: it is a SASRec of other settings"):
        run_experiment(model, small_data, config_dict=other, test=False)


def test_two_copies_of_a_backbone_may_differ_by_rounding(small_data, settings, monkeypatch):
    def on_a_gpu(*given):  # sums in another order each time
        found = scores(*given)
        return found + 3e-7 * found.abs().max() * torch.randn_like(found)

    monkeypatch.setattr(trained_backbone, "scores", on_a_gpu)
    given = settings | {"epochs": 1, "train_neg_sample_args": None}
    base = run_experiment("SASRec", small_data, config_dict=given, test=False)
    same = given | {"backbone_checkpoint": base.checkpoint}
    assert run_experiment("SeenPenalty_SASRec", small_data, config_dict=same, test=False).checkpoint


def test_a_penalty_is_chosen_by_ranks(small_data, settings):
    with pytest.raises(ValueError, match="valid_metric"):
        changes = {"valid_metric": "itemcoverage@5", "metrics": ["ItemCoverage"]}
        Config("SeenPenalty_SASRec", small_data, config_dict=settings | changes)
