"""The linear map of the term's vectors, against a loop, and what it may read."""

import math

import numpy as np
import pytest
import torch
from test_trainer import prepared
from torch.nn import functional

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.paradigms.tslrec.augmentation.contrastive_map import (
    _TEMPERATURE,
    consecutive,
    contrastive_map,
    info_nce,
)
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

CPU = torch.device("cpu")


def histories(*lists) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    return Histories(np.arange(1, 1 + len(lists)), offsets, np.concatenate(lists))


TOKENS = np.array(["[PAD]", *map(str, range(9, 0, -1)), *map(str, range(1000, 40_000))])


def pairs_of(*lists) -> np.ndarray:
    return consecutive(histories(*lists), TOKENS)[0]


def test_pairs_stay_within_a_user_and_are_of_two_items():
    """Users come by token: the third one, "7", before the first, "9"."""
    assert pairs_of([1, 2, 2, 3], [4], [5, 6]).tolist() == [[4, 5], [0, 1], [1, 2]]


def test_the_loss_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(1)
    vectors = functional.normalize(torch.randn(7, 2, 5, generator=generator), dim=-1)
    items = torch.tensor([[0, 1], [2, 1], [3, 4], [5, 6], [1, 0], [4, 3], [6, 2]])
    share = torch.bincount(items.flatten()).float() / items.numel()
    total = 0.0
    for asked, answer in ((0, 1), (1, 0)):
        for own in range(7):
            terms = {}
            for other in range(7):
                if other != own and items[other, answer] in (items[own, answer], items[own, asked]):
                    continue  # the right answer once more, or who asks
                cosine = (vectors[own, asked] * vectors[other, answer]).sum().item()
                terms[other] = math.exp(cosine / _TEMPERATURE) / share[items[other, answer]].item()
            total -= math.log(terms[own] / sum(terms.values())) / 14
    found = info_nce(vectors, items, share.log())
    assert found.loss.mean().item() == pytest.approx(total, rel=1e-5)


def test_items_that_follow_each_other_become_alike_and_what_is_unknown_stays_so():
    """Item i and item i + 20 share half of their words, and always follow each other."""
    generator = np.random.default_rng(0)
    words = torch.from_numpy(generator.standard_normal((41, 16))).float()
    words[20:40] = 0.5 * words[:20] + words[20:40]
    words -= words.mean(dim=0)
    words[40] = 0  # an item of which nothing is known
    users = [[i, i + 20] for i in generator.integers(1, 21, 30_000)] + [[41, 1], [2, 41]]
    given = (words, pairs_of(*users), 3, CPU)
    mapped = contrastive_map(*given)
    assert mapped.shape == words.shape and not mapped[40].any()
    torch.testing.assert_close(mapped[:40].norm(dim=1), torch.ones(40))
    before = functional.normalize(words, dim=1)
    pairs, others = (
        lambda rows: (rows[:20] * rows[20:40]).sum(dim=1).mean(),
        lambda rows: (rows[:20] @ rows[20:40].T).mean(),
    )
    assert pairs(mapped) - others(mapped) > pairs(before) - others(before) + 0.05
    assert torch.equal(mapped, contrastive_map(*given))


def test_without_a_pair_the_words_stay_as_they_are(caplog):
    caplog.set_level("INFO")
    words = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    mapped = contrastive_map(words, pairs_of([1], [2, 2]), 0, CPU)
    torch.testing.assert_close(mapped, functional.normalize(words, dim=1))
    assert "Map" not in caplog.text  # nothing was learned, and no loss is told


@pytest.mark.parametrize("when", ["after", "during"])
def test_an_experiment_with_it(when, small_data, settings):
    """Another map, other vectors; the stored ones are what a loaded model scores with."""
    changes = {"enhancement": "backbone_embedding", "fusion": "none", "score_term": when}
    found = {
        kind: run_experiment(
            "TSLRec_SASRec", small_data, config_dict=settings | changes | {"score_map": kind}
        )
        for kind in ("none", "contrastive")
    }
    vectors = {kind: one.trainer.model.scoring_term.vectors for kind, one in found.items()}
    assert vectors["none"].shape == vectors["contrastive"].shape
    assert not torch.allclose(vectors["none"], vectors["contrastive"], atol=1e-2)
    lengths = vectors["contrastive"][1:].float().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-2, rtol=0)
    state = torch.load(found["contrastive"].checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(state["scoring_term.vectors"], vectors["contrastive"].cpu())


def test_without_a_term_the_map_changes_no_cell():
    def cell(variant, **settings):
        return Cell("ml-100k", "SASRec", variant, 2020, settings, "data").id

    assert cell("TSLRec") == cell("TSLRec", score_map="contrastive", score_decay=0.5)
    assert cell("TextTerm") != cell("TextTerm", score_map="contrastive")
    with_term = {"score_term": "during", "score_weight": 2.0}
    assert cell("TSLRec", **with_term) != cell("TSLRec", **with_term, score_map="contrastive")


def test_a_map_without_a_term_is_told(small_data, settings, caplog):
    changes = {"enhancement": "random", "score_map": "contrastive"}
    prepared("TSLRec_SASRec", settings | changes, small_data)
    assert "score_map: [contrastive] is without effect" in caplog.text
