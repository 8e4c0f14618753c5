"""What all rerankers share: candidates, controls, whole-catalogue scores, examples with negatives."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from safetensors.torch import save
from support.stages import pipeline_of

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.data.negatives import random_negatives, shuffled_in
from recbole_tslrec.evaluation.ranks import rank_test_targets, target_ranks
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.reranker import Reranker


class ByNumber(Reranker):
    """Stands for a language model: the item with the highest number is best."""

    learning_rate_key = "learning_rate"
    seen_by_it: list

    def rerank(self, interaction, candidates):
        self.seen_by_it = [*getattr(self, "seen_by_it", []), *candidates.tolist()]
        return candidates.float()

    def get_extra_state(self):  # it has no language model
        return {}

    def set_extra_state(self, state):
        pass


class ByPlace(ByNumber):
    """What stands first in the prompt is worst."""

    def rerank(self, interaction, candidates):
        super().rerank(interaction, candidates)
        return torch.arange(candidates.shape[1]).float().expand(candidates.shape)


@pytest.fixture
def settings(settings):
    return settings | {"n_candidates": 5, "candidates": "all", "rerank_control": "none"}


class Experiment:
    def __init__(self, settings, dataset, kind=ByNumber, backbone="SASRec"):
        self.config = Config(f"TSLRec_{backbone}", dataset, config_dict=settings)
        self.loaders = data_preparation(self.config, create_dataset(self.config))
        kind = type(kind.__name__, (kind,), {"backbone": BACKBONES[backbone]})
        self.model = kind(self.config, self.loaders[0]._dataset)
        self.pipeline = pipeline_of(settings, dataset, f"TSLRec_{backbone}")
        self.model.prepare(self.pipeline)
        self.rows = self.loaders[2]._dataset.inter_feat
        with torch.no_grad():
            self.retrieved = self.model.retriever.full_sort_predict(self.rows).view(
                len(self.rows), -1
            )

    def scores(self):
        return self.model.full_sort_predict(self.rows)

    def had(self, row: int) -> set[int]:
        """All that the user had before a test row."""
        histories = training_histories(self.loaders[0]._dataset)
        user = int(self.rows["user_id"][row])
        own = {int(item) for item in self.rows["item_id_list"][row] if item > 0}
        places = np.flatnonzero(histories.user_ids == user)
        return own.union(*(histories[int(place)].tolist() for place in places))


def order_of(scores: torch.Tensor) -> list[int]:
    """Items, the best first, of equal ones the lower number."""
    return sorted(range(1, len(scores)), key=lambda item: (-scores[item].item(), item))


# One of each kind: causal, with rows for users, ours, with a table of more rows, and without padding.
KINDS = ["SASRec", "Caser", "LRURec", "BERT4Rec", "NARM"]


@pytest.mark.parametrize("backbone", KINDS)
@pytest.mark.parametrize("candidates", ["all", "unseen"])
def test_the_candidates_come_first_in_their_new_order(backbone, candidates, small_data, settings):
    longest = 6 if backbone == "BERT4Rec" else 3  # it masks a share of a list
    changes = {"candidates": candidates, "MAX_ITEM_LIST_LENGTH": longest}
    experiment = Experiment(settings | changes, small_data, backbone=backbone)
    found = experiment.scores()
    left_out = False
    for row, scores in enumerate(found):
        retrieved = order_of(experiment.retrieved[row])
        had = experiment.had(row) if candidates == "unseen" else set()
        best = [item for item in retrieved if item not in had][:5]
        expected = sorted(best, reverse=True) + [item for item in retrieved if item not in best]
        assert order_of(scores) == expected
        left_out |= best != retrieved[:5]
    assert left_out == (candidates == "unseen") and found.isfinite().all()
    model, rows = experiment.model, experiment.rows
    torch.testing.assert_close(model.predict(rows), found.gather(1, rows["item_id"][:, None])[:, 0])


def test_a_user_is_read_once_for_many_items(small_data, settings):
    experiment = Experiment(settings, small_data)
    rows = experiment.rows[torch.arange(3).repeat(7)]
    rows["item_id"] = torch.arange(1, 22)
    found = experiment.model.predict(rows)
    assert len(experiment.model.seen_by_it) == 3
    torch.testing.assert_close(
        found, experiment.model.full_sort_predict(rows)[range(21), range(1, 22)]
    )


def test_the_controls(small_data, settings):
    passed = Experiment(settings | {"rerank_control": "retriever"}, small_data)
    for scores, retrieved in zip(passed.scores(), passed.retrieved, strict=True):
        assert order_of(scores) == order_of(retrieved)
    assert not hasattr(passed.model, "seen_by_it")
    assert "control in tests: retriever" in passed.model.said_beside_figures()
    plain = Experiment(settings, small_data)
    shuffled = Experiment(settings | {"rerank_control": "shuffled"}, small_data)
    # What goes by the items comes to the same; what goes by their places does not.
    assert torch.equal(plain.scores(), shuffled.scores())
    assert plain.model.seen_by_it != shuffled.model.seen_by_it
    pairs = zip(plain.model.seen_by_it, shuffled.model.seen_by_it, strict=True)
    assert all(sorted(one) == sorted(other) for one, other in pairs)
    placed = Experiment(settings, small_data, ByPlace).scores()
    dealt = Experiment(settings | {"rerank_control": "shuffled"}, small_data, ByPlace)
    assert not torch.equal(placed, dealt.scores())
    assert torch.equal(dealt.scores(), dealt.scores())
    dealt.model.is_tested = False  # as in the training's own validation
    assert torch.equal(placed, dealt.scores())


def test_a_reranker_says_how():
    with pytest.raises(TypeError, match="abstract.*rerank"):
        type("Nothing", (Reranker,), {})(None, None)


def test_candidates_of_given_histories_are_shuffled_too(small_data, settings):
    changes = {"rerank_control": "shuffled", "candidates": "unseen"}
    model = Experiment(settings | changes, small_data).model
    lists = torch.tensor([[1, 2, 3], [1, 2, 0], [1, 2, 3]])  # of nobody in the data set
    rows = Interaction({"item_id_list": lists, "item_length": (lists > 0).sum(dim=1)})
    model.full_sort_predict(rows)
    one, other, again = model.seen_by_it
    assert one == again and one != other
    model.full_sort_predict(rows[torch.tensor([1])])  # whoever else is in the block
    assert model.seen_by_it[-1] == other


@pytest.mark.parametrize("candidates", ["all", "unseen"])
def test_masked_figures_are_of_unseen_candidates(candidates, small_data, settings):
    experiment = Experiment(settings | {"candidates": candidates}, small_data)
    ranks = rank_test_targets(experiment.model, *experiment.loaders)
    scores = experiment.scores()
    for row, target in enumerate(experiment.rows["item_id"].tolist()):
        had = experiment.had(row)
        retrieved = [item for item in order_of(experiment.retrieved[row]) if item not in had]
        best = sorted(retrieved[:5], reverse=True)
        masked = best + [item for item in retrieved if item not in best]
        if target in had:  # it keeps the retriever's rank
            before = experiment.retrieved[row] > experiment.retrieved[row, target]
            expected = 1 + len({item for item in range(1, 31) if before[item]} - had)
        else:
            expected = masked.index(target) + 1
        assert ranks.rank_masked[row] == expected
        assert ranks.rank[row] == order_of(scores[row]).index(target) + 1


def test_masked_validation_gives_a_target_the_masked_rank_of_tests(small_data, settings):
    """One that the user had before, too, which is no candidate."""
    changes = {"candidates": "unseen", "valid_protocol": "masked"}
    experiment = Experiment(settings | changes, small_data)
    model, rows = experiment.model, experiment.rows
    targets, seen = rows["item_id"].clone(), model._seen.pairs(rows)
    again = torch.arange(len(rows)) % 2 == 0
    targets[again] = rows["item_id_list"][again, 0]  # the list may have them anyway
    rows.interaction["item_id"] = targets
    _, masked = model.protocol_scores(rows, seen, targets)
    expected = target_ranks(masked, targets, seen)[1]
    assert (model.full_sort_predict(rows)[again] != experiment.retrieved[again]).any()
    model.is_tested = False
    for model.targets_alone in (True, False):
        assert torch.equal(target_ranks(model.full_sort_predict(rows), targets, seen)[1], expected)


@pytest.mark.parametrize(
    "protocol", [("all", "ranked"), ("unseen", "ranked"), ("unseen", "masked")]
)
@pytest.mark.parametrize(("metric", "asked"), [("MAP", False), ("ItemCoverage", True)])
def test_an_evaluation_asks_for_targets_alone_where_these_decide(
    protocol, metric, asked, small_data, settings
):
    """RecBole's metrics of its own scores, those of all users, but for the metrics of lists."""
    candidates, valid_protocol = protocol
    changes = {
        "candidates": candidates,
        "valid_protocol": valid_protocol,
        "valid_metric": "NDCG@10",
    }
    experiment = Experiment(settings | changes | {"metrics": ["NDCG", metric]}, small_data)
    train_data, valid_data, _ = experiment.loaders
    model = experiment.model
    model.trained = torch.nn.Parameter(torch.zeros(1))  # a trainer wants something to train
    trainer = LanguageModelTrainer(experiment.config, model)
    trainer._follow_valid_protocol(train_data, valid_data)
    trainer.eval_collector.data_collect(train_data)
    _, found = trainer._valid_epoch(valid_data)
    rows, model.seen_by_it = model.seen_by_it, []
    assert not model.targets_alone
    trainer.eval_collector.targets_suffice = lambda: False
    _, of_all = trainer._valid_epoch(valid_data)
    assert found == of_all
    assert len(model.seen_by_it) == len(valid_data._dataset.inter_feat)
    targets = valid_data._dataset.inter_feat["item_id"].tolist()
    with_target = [row for row, one in zip(model.seen_by_it, targets, strict=True) if one in row]
    assert 0 < len(with_target) < len(targets)
    assert sorted(rows) == sorted(model.seen_by_it if asked else with_target)


def test_a_state_dict_holds_the_retriever_and_serves_alone(small_data, settings):
    experiment = Experiment(settings, small_data)
    state = experiment.model.state_dict()
    assert {name for name in state if name != "_extra_state"} == {
        f"retriever.{name}" for name in experiment.model.retriever.state_dict()
    }
    other = type(experiment.model)(experiment.config, experiment.loaders[0]._dataset)
    other.load_state_dict(state)
    assert torch.equal(other.eval().full_sort_predict(experiment.rows), experiment.scores())
    assert not other.train().retriever.training


@pytest.mark.parametrize("change", [{"n_heads": 1}, {"hidden_size": 32}])
def test_a_backbone_of_other_settings_is_refused(change, small_data, settings):
    pipeline = pipeline_of(settings, small_data)
    experiment = Experiment(settings, small_data)
    other = Config("TSLRec_SASRec", small_data, config_dict=settings | change)
    model = type(experiment.model)(other, experiment.loaders[0]._dataset)
    with pytest.raises(ValueError, match="backbone_checkpoint: it is a SASRec of other settings"):
        model.prepare(pipeline)


def test_validation_without_seen_items_wants_candidates_without_them(small_data, settings):
    given = settings | {"valid_protocol": "masked"}
    with pytest.raises(ValueError, match=r"candidates: \[all\].*Set candidates: unseen"):
        Experiment(given, small_data)
    Experiment(given | {"candidates": "unseen"}, small_data)


def test_more_candidates_than_items_are_refused(small_data, settings):
    with pytest.raises(ValueError, match=r"n_candidates: \[31\] is more than the 30 items"):
        Experiment(settings | {"n_candidates": 31}, small_data)


# ---- negatives ------------------------------------------------------------------------------------

rows_of_examples = st.lists(
    st.tuples(st.lists(st.integers(0, 8), min_size=6, max_size=6), st.integers(1, 8)), min_size=1
)


@given(rows_of_examples, st.integers(0, 2**32))
def test_negatives_are_neither_the_target_nor_what_came_before(rows, seed):
    had, targets = (np.array(part) for part in zip(*rows, strict=True))
    found = random_negatives(had, targets, 9, 4, np.random.default_rng(seed))
    for items, target, drawn in zip(had.tolist(), targets.tolist(), found.tolist(), strict=True):
        free = set(range(1, 9)) - {*items, target}
        assert set(drawn) <= free if free else drawn == [0] * 4


def test_negatives_are_drawn_uniformly():
    had = np.tile([[3, 0, 7, 3]], (4000, 1))
    found = random_negatives(had, np.full(4000, 1), 10, 5, np.random.default_rng(0))
    counts = np.bincount(found.ravel(), minlength=10)
    assert (counts[[0, 1, 3, 7]] == 0).all()
    assert np.abs(counts[[2, 4, 5, 6, 8, 9]] / 20_000 - 1 / 6).max() < 0.01


@given(rows_of_examples, st.integers(0, 2**32))
def test_the_target_is_shuffled_in(rows, seed):
    negatives, targets = (np.array(part) for part in zip(*rows, strict=True))
    candidates, place = shuffled_in(targets, negatives, np.random.default_rng(seed))
    assert (candidates[range(len(targets)), place] == targets).all()
    for row, given_row, target in zip(candidates, negatives, targets, strict=True):
        assert sorted(row) == sorted([*given_row, target])
        assert (np.diff((row > 0).astype(int)) <= 0).all()


def test_every_place_is_as_likely():
    targets, negatives = np.full(6000, 9), np.tile([[1, 2, 3, 0, 0]], (6000, 1))
    _, place = shuffled_in(targets, negatives, np.random.default_rng(0))
    counts = np.bincount(place, minlength=6) / 6000
    assert np.abs(counts[:4] - 0.25).max() < 0.03 and (counts[4:] == 0).all()


def test_a_retriever_may_have_weights_under_two_names():
    def made_from(retriever):
        own = {"settings": {}, "source": SimpleNamespace(identity="a"), "texts_fingerprint": None}
        task = SimpleNamespace(examples=SimpleNamespace(content_hash=lambda: "b"))
        return Reranker.made_from(SimpleNamespace(retriever=retriever, **own), task)["retriever"]

    tied = torch.nn.ModuleDict({"table": torch.nn.Linear(2, 3), "out": torch.nn.Linear(2, 3)})
    tied.load_state_dict({name: weight * 0 + 1 for name, weight in tied.state_dict().items()})
    apart = made_from(tied)
    assert apart == hashlib.sha256(save(tied.state_dict())).hexdigest()  # as it ever was
    tied["out"].weight = tied["table"].weight
    tied.register_buffer("mask", torch.ones(2, 3).t())
    assert made_from(tied) != apart
    del tied.mask
    assert made_from(tied) == apart
