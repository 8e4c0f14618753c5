"""Late fusion: the term is its formula, is chosen on validation, kept, loaded and never folded away."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model
from support.ranks import naive_rank
from support.small_backbones import keys_of, pretrained
from support.texts import write_texts

from recbole_tslrec.evaluation.ranks import metrics
from recbole_tslrec.evaluation.scoring_term import check_metric
from recbole_tslrec.paradigms.tslrec.augmentation.late_fusion import HistorySimilarity
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge import trainers
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint

AFTER = {"score_term": "after", "enhancement": "random", "metric_decimal_place": 12}
N_ITEMS = 9  # with padding


def naive_term(vectors: np.ndarray, history: list[int], decay: float) -> list[float]:
    """The sum by its definition: over the history from the latest back, the item itself left out."""
    means = vectors.mean(axis=0)

    def cosine(one: int, other: int) -> float:
        a, b = vectors[one - 1] - means, vectors[other - 1] - means
        lengths = math.sqrt((a * a).sum() * (b * b).sum())
        return float((a * b).sum() / lengths) if lengths else 0.0

    return [0.0] + [
        sum(
            decay**k * cosine(seen, item)
            for k, seen in enumerate(reversed(history))
            if seen != item
        )
        for item in range(1, len(vectors) + 1)
    ]


def naive_scores(scores: list[float], term: list[float], weight: float) -> list[float]:
    items = np.array(scores[1:])
    return [0.0] + ((items - items.mean()) / items.std() + weight * np.array(term[1:])).tolist()


def term_of(vectors: np.ndarray, **keys) -> HistorySimilarity:
    term = HistorySimilarity(len(vectors) + 1, vectors.shape[1], **keys)
    term.set_vectors(torch.from_numpy(vectors))
    return term


@st.composite
def cases(draw):
    vectors = draw(arrays(np.float64, (N_ITEMS - 1, 3), elements=st.integers(-4, 4)))
    vectors[:, 0] += 9  # no row of zeros, and a mean that is not zero
    item = st.integers(1, N_ITEMS - 1)  # an item may come several times
    histories = draw(st.lists(st.lists(item, min_size=1, max_size=6), min_size=1, max_size=4))
    return vectors, histories, draw(st.sampled_from([0.3, 0.7, 1.0])), draw(st.booleans())


@given(cases())
def test_the_term_is_the_formula(case):
    vectors, histories, decay, padded_left = case
    rows = [
        [0] * (6 - len(one)) + one if padded_left else one + [0] * (6 - len(one))
        for one in histories
    ]
    term, item_seq = term_of(vectors), torch.tensor(rows)
    expected = [naive_term(vectors, history, decay) for history in histories]
    # The vectors are kept in half precision.
    found = term.similarity(item_seq, decay)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.01)
    scores = torch.randn(len(histories), N_ITEMS, dtype=torch.double)
    with_term = term.added(scores, item_seq, 0.5, decay)[:, 1:]
    for row, one, other in zip(with_term, scores.tolist(), expected, strict=True):
        np.testing.assert_allclose(row.numpy(), naive_scores(one, other, 0.5)[1:], atol=0.01)


def test_each_setting_of_the_grid_is_the_term_under_it():
    term = term_of(np.random.default_rng(0).normal(size=(N_ITEMS - 1, 3)))
    scores, item_seq = torch.randn(2, N_ITEMS), torch.tensor([[3, 1, 0], [5, 5, 2]])
    for settings, found in zip(term.grid, term.under_each(scores, item_seq), strict=True):
        torch.testing.assert_close(found, term.added(scores, item_seq, *settings))


def test_no_term_leaves_the_scores_alone():
    term = term_of(np.random.default_rng(0).normal(size=(N_ITEMS - 1, 3)))
    scores = torch.randn(2, N_ITEMS)
    assert term(scores, torch.tensor([[3, 1], [5, 0]])) is scores


def test_an_item_of_which_nothing_is_known_is_like_no_other():
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS - 1, 3))
    vectors[4] = 0
    term = term_of(vectors)
    similarity = term.similarity(torch.tensor([[1, 2, 5]]), 1.0)
    assert similarity[0, 5] == 0
    torch.testing.assert_close(similarity, term.similarity(torch.tensor([[1, 2]]), 1.0))


# ---- in a model ------------------------------------------------------------------------------------


def validation_metrics(experiment, protocol: str) -> dict[str, float]:
    model = experiment.trainer.model
    ranks = []
    for interaction, *_, targets in experiment.valid_data:
        with torch.no_grad():
            scores = model.full_sort_predict(interaction)
        for items, row, target in zip(
            interaction["item_id_list"].tolist(),
            scores.tolist(),
            targets.tolist(),
            strict=True,
        ):
            ranks.append(naive_rank(row, target, set(items) if protocol == "masked" else set()))
    return metrics(np.array(ranks))


@pytest.mark.parametrize(
    ("backbone", "fusion", "protocol"),
    [("Caser", "gate", "ranked"), ("GRU4Rec", "none", "masked"), ("SASRec", "none", "ranked")],
)
def test_the_best_setting_is_chosen_and_kept(backbone, fusion, protocol, small_data, settings):
    # So long that each list is the whole history.
    changes = AFTER | {"fusion": fusion, "valid_protocol": protocol, "MAX_ITEM_LIST_LENGTH": 30}
    experiment = run_experiment(f"TSLRec_{backbone}", small_data, config_dict=settings | changes)
    model, term = experiment.trainer.model, experiment.trainer.model.scoring_term
    chosen = tuple(term.chosen.tolist())
    found = {}
    for each in [(0.0, 0.0), *term.grid]:
        term.choose(each)
        found[each] = validation_metrics(experiment, protocol)["ndcg@10"]
    assert max(found, key=found.__getitem__) == chosen and chosen[0] > 0
    term.choose(chosen)
    assert experiment.best_valid_score == pytest.approx(found[chosen])
    _, loaded, _, _, _, test_data = load_data_and_model(experiment.checkpoint)
    assert loaded.scoring_term.chosen.tolist() == list(chosen)
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        scores = loaded.eval().full_sort_predict(interaction)
        torch.testing.assert_close(scores, model.eval().full_sort_predict(interaction))
        # As a ranking of few items asks: several rows of one history.
        twice = interaction.repeat_interleave(2)
        single = loaded.predict(twice)
    expected = scores[torch.arange(len(twice)) // 2, twice["item_id"]]
    torch.testing.assert_close(single, expected)


def test_a_term_is_chosen_with_nothing_of_the_optimiser_on_the_device(
    small_data, settings, monkeypatch
):
    read = []

    def load(path, map_location="the default"):
        read.append(map_location)
        return load_checkpoint(path)

    monkeypatch.setattr(trainers, "load_checkpoint", load)
    run_experiment("TSLRec_SASRec", small_data, config_dict=settings | AFTER)
    assert read == ["the default"]  # the CPU, whatever the trainer's device is


@pytest.mark.parametrize("enhancement", ["tfidf", "text", "shuffled_text"])
def test_items_that_share_the_substitute_of_a_text_are_not_alike(enhancement, small_data, settings):
    write_texts()
    file = Path("data/small/small.item")
    lines = file.read_text().splitlines()
    without = {"i3", "i7", "i20"}
    kept = [line for line in lines if line.split("\t")[0] not in without]
    file.write_text("\n".join(kept) + "\n")
    changes = AFTER | {"fusion": "none", "enhancement": enhancement, "item_text": "title"}
    changes |= {"item_text_missing": "unknown", "epochs": 1}
    experiment = run_experiment(
        "TSLRec_GRU4Rec", small_data, config_dict=settings | changes, test=False
    )
    dataset = experiment.train_data._dataset
    vectors = experiment.trainer.model.scoring_term.vectors
    nothing = {
        token
        for token in dataset.field2id_token["item_id"][1:]
        if not vectors[dataset.token2id("item_id", token)].any()
    }
    if enhancement == "tfidf":  # which does not count words of one letter
        assert without <= nothing
    elif enhancement == "text":
        assert without == nothing
    else:  # dealt out among all
        assert len(without) == len(nothing)


def test_a_resumed_training_validates_without_the_term(small_data, settings):
    given = settings | AFTER | {"epochs": 1}
    first = run_experiment("TSLRec_GRU4Rec", small_data, config_dict=given, test=False)
    trainer = first.trainer
    term = trainer.model.scoring_term
    assert term.in_use
    trainer.resume_checkpoint(first.checkpoint)
    trainer.epochs = 2
    in_use = []
    validate = trainer._valid_epoch

    def noted(*args, **kwargs):
        in_use.append((term.in_use, trainer.best_valid_score))
        return validate(*args, **kwargs)

    trainer._valid_epoch = noted
    term.choose((0, 0))
    plain, _ = validate(first.valid_data)
    term.choose((1.5, 1.0))
    trainer.fit(first.train_data, first.valid_data, show_progress=False)
    assert [used for used, _ in in_use] == [False, True]  # the epoch, and the choice at the end
    assert in_use[0][1] == pytest.approx(plain)  # what the epoch must beat


@pytest.mark.parametrize("backbone", ["GRU4Rec"])
def test_without_fusion_the_model_is_the_trained_backbone(backbone, small_data, settings):
    plain = settings | {"train_neg_sample_args": None, "metric_decimal_place": 12}
    base = run_experiment(backbone, small_data, config_dict=plain)
    ours = run_experiment(
        f"TSLRec_{backbone}", small_data, config_dict=settings | AFTER | {"fusion": "none"}
    )
    assert not ours.trainer.train_loss_dict  # RecBole's loop had no epoch
    ours.trainer.model.scoring_term.choose((0, 0))
    result = ours.trainer.evaluate(ours.test_data, load_best_model=False)
    assert dict(result) == dict(base.test_result)


def test_training_is_the_same_with_a_term_that_comes_after(small_data, settings):
    given = settings | AFTER | {"fusion": "gate"}
    states = []
    for changes in ({}, {"score_term": "none"}):
        experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=given | changes)
        states.append(experiment.trainer.model.state_dict())
    assert states[0].keys() - states[1].keys() == {"scoring_term.chosen", "scoring_term.vectors"}
    for name, weight in states[1].items():
        assert torch.equal(weight, states[0][name]), name


@pytest.mark.parametrize(
    "model", ["TSLRec_SASRec", "TSLRec_FMLPRec", "TSLRec_LRURec", "TSLRec_SINE", "TSLRec_GCSAN"]
)
def test_in_training_the_term_is_among_the_logits(model, small_data, settings):
    changes = {"score_term": "during", "score_weight": 2.0, "score_decay": 0.5}
    changes |= {"enhancement": "random", "epochs": 2}
    experiment = run_experiment(model, small_data, config_dict=settings | changes)
    trained = experiment.trainer.model.eval()
    interaction = next(iter(experiment.train_data))
    with torch.no_grad():
        logits = trained.full_sort_predict(interaction)
        term = trained.scoring_term.similarity(interaction["item_id_list"], 0.5)
        trained.scoring_term.choose((0, 0))
        torch.testing.assert_close(logits, trained.full_sort_predict(interaction) + 2 * term)
        trained.scoring_term.choose((2.0, 0.5))
        loss = trained.calculate_loss(interaction)
    expected = torch.nn.functional.cross_entropy(logits, interaction["item_id"])
    torch.testing.assert_close(loss.squeeze(), expected)  # GCSAN's is [1]
    _, loaded, *_ = load_data_and_model(experiment.checkpoint)
    torch.testing.assert_close(loaded.eval().full_sort_predict(interaction), logits)


# ---- what cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [{"score_weight": 2.0}, {"score_decay": 0.5}])
def test_what_validation_chooses_is_not_given(fixed, small_data, settings):
    with pytest.raises(ValueError, match="is for score_term: during; with score_term: .after."):
        Config("TSLRec_SASRec", small_data, config_dict=settings | AFTER | fixed)


def test_a_term_is_not_folded_away(small_data, settings, tmp_path):
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | AFTER)
    with pytest.raises(ValueError, match="score_term: .after.*plain .SASRec. has no place"):
        fold_checkpoint(experiment.checkpoint, tmp_path / "plain.pth")


def test_a_term_that_is_not_in_use_is_left_out(small_data, settings, tmp_path):
    given = settings | AFTER | {"epochs": 1}
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=given, test=False)
    content = load_checkpoint(experiment.checkpoint)
    content["state_dict"]["scoring_term.chosen"].zero_()
    write_checkpoint(content, tmp_path / "unused.pth")
    fold_checkpoint(tmp_path / "unused.pth", tmp_path / "plain.pth")
    _, plain, _, _, _, test_data = load_data_and_model(str(tmp_path / "plain.pth"))
    experiment.trainer.model.load_state_dict(content["state_dict"])
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        found = plain.eval().full_sort_predict(interaction)
        expected = experiment.trainer.model.eval().full_sort_predict(interaction)
    torch.testing.assert_close(found.view_as(expected), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "none", "score_term": "none"}, "fusion: .none.*Set score_term: after"),
        ({"valid_metric": "itemcoverage@5", "metrics": ["ItemCoverage"]}, "not made of ranks"),
        ({"eval_args": {"mode": "uni5"}}, "eval_args: its mode .* Set mode: full"),
        ({"eval_args": {"mode": {"valid": "uni5", "test": "full"}}}, "eval_args: its mode"),
        (
            {
                "score_term": "during",
                "loss_type": "BPR",
                "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
            },
            "score_term: .during.*Set loss_type: CE",
        ),
        (
            {"score_term": "during", "enable_amp": True},
            "score_term: .during.*Set enable_amp: False",
        ),
    ],
)
def test_what_cannot_be_is_said_early(changes, message, small_data, settings):
    with pytest.raises(ValueError, match=message):
        Config("TSLRec_SASRec", small_data, config_dict=settings | AFTER | changes)


@pytest.mark.parametrize("model", ["CI_SASRec", "Norm_SASRec"])
def test_a_model_without_vectors_ignores_their_keys_and_says_so(
    model, small_data, settings, caplog
):
    given = settings | {"score_term": "after", "enhancement": "text", "fusion": "none"}
    given |= {"valid_metric": "itemcoverage@5", "metrics": ["ItemCoverage"]}
    config = Config(model, small_data, config_dict=given)
    train_data, *_ = data_preparation(config, create_dataset(config))
    get_model(model)(config, train_data._dataset)
    assert f"enhancement, fusion, score_term: without effect: [{model}]" in caplog.text


def test_the_width_of_a_config_that_is_used_again(small_data, settings):
    def width(config) -> int:
        train_data, *_ = data_preparation(config, create_dataset(config))
        return get_model("TSLRec_SASRec")(config, train_data._dataset).fusion.enhanced.shape[1]

    given = settings | {"enhancement": "backbone_embedding", "hidden_size": 16, "inner_size": 16}
    config = Config("TSLRec_SASRec", small_data, config_dict=given)
    assert width(config) == 16
    config["hidden_size"] = 8
    assert width(config) == 8


@pytest.mark.parametrize("backbone", ["SASRecCPR", "BERT4Rec", "CORE", "S3Rec"])
def test_logits_by_which_nothing_is_ranked_get_no_term(backbone, small_data, settings):
    given = settings | keys_of(backbone) | {"score_term": "during", "enhancement": "random"}
    with pytest.raises(ValueError, match=rf"score_term: .during.*\[{backbone}\] is not trained"):
        Config(f"TSLRec_{backbone}", small_data, config_dict=given)


def test_the_metric_that_chooses_a_term_is_one_of_those_computed(small_data, settings):
    given = settings | AFTER | {"eval_step": 0, "metrics": ["NDCG"], "valid_metric": "MRR@10"}
    with pytest.raises(ValueError, match=r"valid_metric: \[MRR@10\] is not computed"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=given)


def test_a_term_of_a_backbone_that_counts_its_mask_among_the_items(small_data, settings):
    given = settings | keys_of("S3Rec") | AFTER | {"epochs": 1}
    given |= pretrained(small_data, settings)
    experiment = run_experiment("TSLRec_S3Rec", small_data, config_dict=given)
    _, loaded, dataset, *_, test_data = load_data_and_model(str(experiment.checkpoint))
    assert len(loaded.scoring_term.vectors) == dataset.item_num
    loaded.scoring_term.choose((1.0, 0.5))
    interaction = next(iter(test_data))[0]
    with torch.no_grad():
        assert loaded.eval().full_sort_predict(interaction).shape == (
            len(interaction),
            dataset.item_num,
        )


def test_without_validation_nothing_is_chosen(small_data, settings):
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | AFTER)
    with pytest.raises(ValueError, match="eval_args: .* leaves no validation"):
        experiment.trainer.fit(experiment.train_data, None)


def test_metrics_of_ranks():
    check_metric("MRR@10")
    with pytest.raises(ValueError, match="valid_metric: .AUC."):
        check_metric("AUC")


TERM_ALONE = {"fusion": "none", "score_term": "after"}


def test_a_given_backbone_is_refused_before_the_language_model_runs(small_data, settings):
    plain = settings | {"n_layers": 1, "train_neg_sample_args": None}
    trained = run_experiment("SASRec", small_data, config_dict=plain)
    changes = TERM_ALONE | {"backbone_checkpoint": str(trained.checkpoint), "n_layers": 2}
    with pytest.raises(ValueError, match="backbone_checkpoint: it is a SASRec of other settings"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    made = {path.name.partition("-")[0] for path in Path("saved/tslrec/small").iterdir()}
    assert made == {"backbone"}


def test_a_term_is_of_the_backbone_whose_scores_it_is_added_to(small_data, settings, monkeypatch):
    """The same settings give another backbone on another machine."""
    first = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | TERM_ALONE)
    (made,) = (stage for stage in first.stages if stage.name == "backbone")
    shutil.rmtree(made.folder)
    train = BackboneStage.train
    monkeypatch.setattr(BackboneStage, "train", lambda *given: train(*given) + 0.01)
    with pytest.raises(ValueError, match="augmentation: .* was made of other item embeddings"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings | TERM_ALONE)


def test_a_model_that_changes_what_it_scores_changes_no_training_row(small_data, settings):
    """HRM shortens the lists' lengths in place."""
    changes = TERM_ALONE | {"enhancement": "random", "pooling_type_layer_1": "average"}
    experiment = run_experiment("TSLRec_HRM", small_data, config_dict=settings | changes)
    assert experiment.by_protocol is not None
