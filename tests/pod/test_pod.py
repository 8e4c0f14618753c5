"""POD: segments, candidates, and the learned vectors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.codes import untrained

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.paradigms.p5.vocabulary import END
from recbole_tslrec.paradigms.pod.examples import Segments, longest_segment
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

LENGTHS = [2, 3, 9, 30]
ITEMS = [np.arange(1 + 10 * user, 1 + 10 * user + n) % 40 + 1 for user, n in enumerate(LENGTHS)]


@pytest.fixture
def settings(settings):
    return settings | {"llm": "scratch", "sft_batch_positions": 2048}


def examples(n_candidates=12, seed=1, room=10_000) -> Segments:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    histories = Histories(np.arange(1, 5), offsets, np.concatenate(ITEMS))
    users = np.arange(8).reshape(4, 2)
    sizes, rooms = 1 + np.arange(41) % 3, np.full(4, room)  # an item takes one to three positions
    return Segments(histories, users, [range(8), range(8, 13)], sizes, n_candidates, rooms, seed)


def test_a_segment_and_its_target_follow_each_other_in_training():
    found = examples()
    seen = [set() for _ in LENGTHS]
    for epoch in range(400):
        found.set_epoch(epoch)
        for user, history in enumerate(ITEMS):
            sentence, written, items, target = found[user]
            start = history.tolist().index(items[0])
            assert history[start : start + len(items) + 1].tolist() == [*items, target]
            assert 0 <= sentence < 8 and written.tolist() == [2 * user, 2 * user + 1]
            seen[user].add((start, start + len(items)))
    # Every beginning before the last item, every end behind it.
    assert seen[0] == {(0, 1)} and seen[1] == {(0, 1), (0, 2), (1, 2)}
    assert len(seen[2]) == 8 * 9 / 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 14))
def test_no_segment_takes_more_positions_than_the_longest(history, most):
    history, sizes = np.array(history), np.array([0, 3, 1, 1, 2, 5, 1, 4, 2, 1])
    n = min(most, len(history))
    windows = [history[start : start + n] for start in range(len(history) - n + 1)]
    found = longest_segment(history, sizes, most)
    assert any(np.array_equal(found, window) for window in windows)
    assert sizes[found].sum() == max(sizes[window].sum() for window in windows)


def test_candidates_are_the_positive_and_items_outside_the_history():
    found = examples()
    for epoch in range(20):
        found.set_epoch(epoch)
        for user, history in enumerate(ITEMS):
            sentence, _, items, positive = found[len(LENGTHS) + user]
            assert 8 <= sentence < 13
            assert positive in history
            assert len(items) == len(set(items.tolist())) == min(12, 41 - len(history))
            assert set(items.tolist()) & set(history.tolist()) == {positive}


def test_candidates_that_do_not_fit_are_left_out():
    wide, narrow = examples(), examples(room=14)
    for epoch in range(20):
        wide.set_epoch(epoch), narrow.set_epoch(epoch)
        for row in range(len(LENGTHS), 2 * len(LENGTHS)):
            (*_, items, positive), (*_, fewer, same) = wide[row], narrow[row]
            taken = narrow.sizes[fewer].sum()
            assert same == positive and positive in fewer and set(fewer) <= set(items)
            assert 14 - 3 < taken <= 14 < wide.sizes[items].sum()


def test_what_is_drawn_follows_from_seed_and_epoch():
    def drawn(found, epoch):
        found.set_epoch(epoch)
        rows = (found[number] for number in range(len(found)))
        return [(s, items.tolist(), target) for s, _, items, target in rows]

    first, again = examples(), examples()
    assert drawn(first, 2) != drawn(first, 5) == drawn(again, 5)
    assert drawn(examples(seed=2), 5) != drawn(first, 5)


def test_the_vectors_of_a_task_lead_and_have_no_whole_word(small_data, settings):
    changes = {"pod_vectors": 3, "pod_tasks": ["sequential", "top_n"], "pod_candidates": 5}
    model, _, _ = untrained(settings | changes, small_data, "POD")
    assert model.reader.soft_vectors.shape == (6, 64)
    assert model.reader.soft_vectors.abs().max() <= 0.1
    users = model.users_written(np.array([1, 2]))
    batch = model.prompts.batch(np.array([0, 8]), users, [np.array([3]), np.array([1, 2])])
    assert batch["soft_rows"][:, :4].tolist() == [[0, 1, 2, -1], [3, 4, 5, -1]]
    assert batch["attention_mask"][:, :3].all()
    entered = {}
    trunk = model.reader.language_model.get_encoder()
    hook = trunk.register_forward_pre_hook(
        lambda _, args, given: entered.update(given), with_kwargs=True
    )
    model.reader(**batch)
    hook.remove()
    vectors = model.reader.soft_vectors.detach()
    torch.testing.assert_close(entered["inputs_embeds"][:, :3], vectors.view(2, 3, 64))
    # Users and items are whole words, and nothing else is.
    numbers = model.reader.word_numbers(batch["token_ids"])[0]
    user = len(users[0])
    assert numbers[3 : 3 + user].tolist() == [1] * user
    item = batch["token_ids"][0, 3 + user :].tolist().index(END)
    assert numbers[3 + user :][:item].tolist() == [2] * item
    words = torch.tensor([model.vocabulary.words(model.sentences[2].format(user="", items=""))])
    assert (model.reader.word_numbers(words) == 0).all()


def test_without_vectors_and_with_its_prompts_it_is_p5(small_data, settings, monkeypatch):
    """The same seed, sentences, separator and whole words: the same scores."""
    from recbole_tslrec.paradigms.p5.model import P5
    from recbole_tslrec.paradigms.pod.model import POD

    p5, _, interaction = untrained(settings, small_data)
    monkeypatch.setattr(POD, "sentences_for", staticmethod(P5.sentences_for))
    monkeypatch.setattr(POD, "separator", P5.separator)
    monkeypatch.setattr(POD, "words_are_whole", True)
    pod, _, _ = untrained(settings | {"pod_vectors": 0}, small_data, "POD")
    with torch.no_grad():
        scores = pod.full_sort_predict(interaction)
        torch.testing.assert_close(scores, p5.full_sort_predict(interaction), rtol=0, atol=0)


def test_both_tasks_are_trained(small_data, settings):
    changes = {"pod_tasks": ["sequential", "top_n"], "pod_candidates": 5, "pod_vectors": 2}
    found = run_experiment("POD", small_data, config_dict=settings | changes)
    vectors = found.trainer.model.reader.soft_vectors
    other = run_experiment(
        "POD",
        small_data,
        config_dict=settings | changes | {"sft_epochs": 1, "pod_learning_rate": 1e-9},
    )
    moved = (vectors - other.trainer.model.reader.soft_vectors).abs().amax(dim=1)
    assert vectors.shape == (4, 64) and (moved > 1e-4).all()


def test_too_many_candidates_are_refused_before_training(small_data, settings):
    changes = {"pod_tasks": ["sequential", "top_n"], "item_code": "independent"}
    changes |= {"pod_vectors": 500}
    with pytest.raises(ValueError, match="pod_candidates: two of them, .*Set pod_vectors"):
        run_experiment("POD", small_data, config_dict=settings | changes)
    with pytest.raises(ValueError, match="Shorten the words"):
        run_experiment("POD", small_data, config_dict=settings | changes | {"pod_vectors": 600})


def test_as_many_candidates_as_fit_are_read_in_every_epoch(small_data, settings):
    changes = {"pod_tasks": ["sequential", "top_n"], "pod_vectors": 470, "sft_epochs": 1}
    changes |= {"sft_users": 0.25, "eval_step": 0}  # long prompts take long
    found = run_experiment("POD", small_data, config_dict=settings | changes)
    model, dataset = found.trainer.model, found.train_data._dataset
    task = model.task(dataset)
    n_users = len(task.examples) // 2
    for epoch in range(3):
        task.examples.set_epoch(epoch)
        drawn = [task.examples[row][2] for row in range(n_users, 2 * n_users)]
        assert 2 <= min(map(len, drawn)) and max(map(len, drawn)) < model.n_items - 2
