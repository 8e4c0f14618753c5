"""All items' likelihoods by the trie against each code by itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.readout import States
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.trie import Trie, log_likelihoods

CPU = torch.device("cpu")
CODES = [[5, 6, 7], [5, 6, 8], [5, 9], [40], [5, 7, 6, 6], [41, 5], [41, 6, 2], [299, 5, 3]]


def padded(codes: list[list[int]]) -> np.ndarray:
    width = max(len(code) for code in codes)
    return np.array([code + [-1] * (width - len(code)) for code in codes])


@pytest.fixture(scope="module", params=["t5", "t5-untied"])
def model(request, headed_model_folder):
    source = open_source(headed_model_folder(request.param), kinds=("encoder-decoder",))
    model = load_language_model(source, "none", CPU, head=True)
    # The factor of a T5's first embeddings makes all logits alike: larger ones tell codes apart.
    with torch.no_grad():
        model.get_output_embeddings().weight *= 3
    return model


PROMPTS = {
    "input_ids": torch.randint(2, 300, (3, 6), generator=torch.Generator().manual_seed(1)),
    "attention_mask": (torch.arange(6) < torch.tensor([6, 3, 1])[:, None]).long(),
}


@torch.no_grad()
def states_of(model) -> States:
    return States(model.get_encoder()(**PROMPTS).last_hidden_state, PROMPTS["attention_mask"])


@torch.no_grad()
def brute_force(model, states: States, codes: list[list[int]]) -> torch.Tensor:
    """Each code written into the decoder, prompt by prompt, without a cache. [B, n_items]"""
    scores = torch.empty(len(states.hidden), len(codes))
    for user in range(len(states.hidden)):
        for item, code in enumerate(codes):
            written = torch.tensor([[model.config.decoder_start_token_id, *code[:-1]]])
            logits = model(
                encoder_outputs=(states.hidden[user : user + 1],),
                attention_mask=states.attention_mask[user : user + 1],
                decoder_input_ids=written,
            ).logits[0]
            steps = logits.log_softmax(dim=1)[range(len(code)), code]
            scores[user, item] = steps.sum()
    return scores


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 512])
def test_every_item_has_its_codes_likelihood(model, rows_at_once):
    states = states_of(model)
    scores = log_likelihoods(model, states, Trie(padded(CODES)), rows_at_once)
    expected = brute_force(model, states, CODES)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)
    assert expected.std(dim=1).min() > 0.1  # else the test would tell nothing apart
    assert (scores.argsort(dim=1) == expected.argsort(dim=1)).all()


@settings(max_examples=20)
@given(st.sets(st.lists(st.integers(2, 5), max_size=3).map(tuple), min_size=1, max_size=12))
def test_random_codes(headed_model_folder, codes):
    source = open_source(headed_model_folder("t5"), kinds=("encoder-decoder",))
    model = load_language_model(source, "none", CPU, head=True)
    codes = [[*code, 1] for code in codes]  # an end of their own
    states = states_of(model)
    scores = log_likelihoods(model, states, Trie(padded(codes)), 5)
    torch.testing.assert_close(scores, brute_force(model, states, codes), rtol=1e-5, atol=1e-4)


def test_a_whole_vocabulary_of_codes_has_all_the_likelihood(model):
    trie = Trie(np.arange(300)[:, None])
    total = log_likelihoods(model, states_of(model), trie).logsumexp(dim=1)
    torch.testing.assert_close(total, torch.zeros(3), atol=1e-4, rtol=0)


def test_the_order_of_items_does_not_matter(model):
    states, order = states_of(model), np.random.default_rng(0).permutation(len(CODES))
    scores = log_likelihoods(model, states, Trie(padded(CODES)))
    shuffled = log_likelihoods(model, states, Trie(padded(CODES)[order]))
    torch.testing.assert_close(shuffled, scores[:, order])


def test_a_beam_as_wide_as_the_catalogue_finds_the_same_best_items(model):
    """transformers' own constrained beam search, which is what the papers decode with."""
    codes = [[*code, 1] for code in CODES if len(code) == 3]  # of one length
    following: dict[tuple[int, ...], set[int]] = {}
    for code in codes:
        for end in range(len(code)):
            following.setdefault(tuple(code[:end]), set()).add(code[end])
    scores = log_likelihoods(model, states_of(model), Trie(padded(codes)))
    found = model.generate(
        **PROMPTS,
        num_beams=len(codes),
        num_return_sequences=len(codes),
        max_new_tokens=4,
        eos_token_id=1,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(following.get(tuple(ids[1:].tolist()), {0})),
    )
    best = [codes.index(row) for row in found[:, 1:].tolist()]
    assert best == scores.argsort(dim=1, descending=True).flatten().tolist()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[3, 4], [3, 4]], "two items have the same code"),
        ([[3, 4], [3]], "the code of item 1 begins another item's"),
        ([[3, 4], []], "the code of item 1 is empty"),
    ],
)
def test_codes_that_cannot_be_told_apart_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        Trie(padded(codes))
