"""P5: its prompts, loss and scores against naive ones; a T5 from scratch and a trained one."""

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model
from support.codes import untrained

from recbole_tslrec.language_model.load import load_language_model
from recbole_tslrec.language_model.scratch import give_rows
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.paradigms.p5.examples import Interactions, user_numbers
from recbole_tslrec.paradigms.p5.prompts import Prompts
from recbole_tslrec.paradigms.p5.vocabulary import END, Vocabulary, own_words
from recbole_tslrec.recbole_bridge.quick_start import run_experiment


@pytest.fixture
def settings(settings):
    return settings | {"llm": "scratch", "sft_batch_positions": 2048, "code_leaf_items": 6}


def small_prompts(**changes) -> tuple[Prompts, Vocabulary]:
    sentences = ("so far {user} took {items} .", "{items} by {user}")
    words, starts = own_words(["so far took . by ,"])
    codes = np.array([[-1, -1], [0, 3], [1, 3], [2, -1]])
    vocabulary = Vocabulary(words, starts, codes)
    return Prompts(vocabulary, sentences, ",", 2, 64, **changes), vocabulary


def test_a_prompt_is_written_by_hand():
    prompts, vocabulary = small_prompts()
    n = vocabulary.n_words
    assert n == 8  # padding, the end, and six words
    so, far, took, stop, by, comma = (vocabulary.words(w)[0] for w in "so far took . by ,".split())
    users = vocabulary.users(np.array([7, 205]), 300)
    user, item, zero, code = n, n + 1, n + 2, n + 102
    assert users.tolist() == [[user, zero, zero + 7], [user, zero + 2, zero + 5]]
    batch = prompts.batch(np.array([0, 1]), users, [np.array([3, 2, 1]), np.array([3])])
    first = [so, far, user, zero, zero + 7, took]
    first += [item, code + 1, code + 3, comma, item, code, code + 3, stop, END]
    second = [item, code + 2, by, user, zero + 2, zero + 5, END]
    assert batch["token_ids"].tolist() == [first, second + [0] * 8]
    assert batch["attention_mask"].sum(dim=1).tolist() == [15, 7]
    assert prompts.lengths(np.array([0, 1]), users, [[3, 2, 1], [3]]).tolist() == [15, 7]
    answers = prompts.answers(np.array([3, 1]))
    assert answers.tolist() == [[code + 2, END, -1], [code, code + 3, END]]


def test_all_tokens_of_a_whole_word_share_its_number(small_data, settings):
    model, _, _ = untrained(settings, small_data)
    tokens = model.vocabulary.words("here is") + tuple(model.users_written(np.array([1]))[0])
    tokens += tuple(model.vocabulary.answers()[3][:3]) + (END, 0)
    numbers = model.reader.word_numbers(torch.tensor([tokens]))
    n_user = model.users_written(np.array([1])).shape[1]
    assert numbers[0].tolist() == [1, 2] + [3] * n_user + [3] * 3 + [0, 0]
    items, _ = model.vocabulary.items()
    assert model.reader.word_numbers(torch.from_numpy(items[None, 1:5])).tolist() == [[1, 1, 1, 2]]
    many = torch.full((1, 600), model.vocabulary.words("here")[0])
    assert model.reader.word_numbers(many).max() == 511  # the last row serves all that follow


def interaction_of(dataset, rows: range):
    return dataset.inter_feat[torch.tensor(list(rows))]


def test_the_loss_is_the_mean_over_tokens_and_then_over_answers(small_data, settings):
    """Against transformers' own loss, answer by answer."""
    model, dataset, _ = untrained(settings, small_data)
    rows = interaction_of(dataset, range(12))
    expected = []
    for row in range(12):
        one = interaction_of(dataset, range(row, row + 1))
        users, items = model._read(one)
        batch = model.prompts.batch(np.array([0]), users, items)
        states = model.reader(**batch)
        answer = model.prompts.answers(one[model.POS_ITEM_ID].numpy())
        answer = answer[:, : int((answer >= 0).sum())]
        output = model.reader.language_model(
            encoder_outputs=(states.hidden,), attention_mask=states.attention_mask, labels=answer
        )
        expected.append(output.loss)
    loss = model.calculate_loss(rows)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not without  # all weights are trained


def naive_score(model, interaction, item: int) -> torch.Tensor:
    """An item's score by its code alone, written behind every prompt. [B]"""
    users, items = model._read(interaction)
    batch = model.prompts.batch(np.zeros(len(items), dtype=np.int64), users, items)
    code = model.prompts.answers(np.full(len(items), item))
    code[code == END] = -1
    steps = model.learner().log_probabilities(code, batch)
    return model._scored(steps.sum(dim=1), (code >= 0).sum(dim=1))


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_scores_of_all_items_are_those_of_each_code(score, small_data, settings, monkeypatch):
    model, _, interaction = untrained(settings | {"code_score": score}, small_data)
    monkeypatch.setattr(
        "recbole_tslrec.paradigms.p5.language_model.bf16_is_fast", lambda device: False
    )
    with torch.no_grad():
        scores = model.full_sort_predict(interaction)
        for item in range(1, model.n_items):
            own = naive_score(model, interaction, item)
            torch.testing.assert_close(own, scores[:, item], rtol=1e-4, atol=1e-4)
            interaction[model.ITEM_ID] = torch.full((len(interaction),), item)
            assert torch.equal(model.predict(interaction), scores[:, item])
    assert (scores[:, 0] == scores[:, 1:].amin(dim=1)).all()
    assert scores.isfinite().all() and scores[:, 1:].std(dim=1).min() > 0.1


def test_memory_changes_no_score(small_data, settings, monkeypatch):
    model, _, interaction = untrained(settings, small_data)
    monkeypatch.setattr(
        "recbole_tslrec.paradigms.p5.language_model.bf16_is_fast", lambda device: False
    )
    with torch.no_grad():
        scores = model.full_sort_predict(interaction)
        for constant in ("POSITIONS_A_PASS", "_COPIED_AT_ONCE"):
            monkeypatch.setattr(f"recbole_tslrec.paradigms.p5.recommender.{constant}", 1)
            torch.testing.assert_close(model.full_sort_predict(interaction), scores)


def test_each_epoch_draws_its_sentences_from_seed_and_epoch():
    def examples(seed):
        one = np.ones((200, 3), dtype=np.int64)
        return Interactions(one, one, one[:, 0], one[:, 0], 10, seed)

    def drawn(examples, epoch):
        examples.set_epoch(epoch)
        return [examples[number][0] for number in range(len(examples))]

    one, again = examples(1), examples(1)
    later = drawn(one, 3)
    assert set(later) == set(range(10))
    assert drawn(one, 2) != later == drawn(again, 3) == drawn(one, 3)
    assert drawn(examples(2), 3) != later


def test_a_user_is_the_place_of_the_token_not_the_internal_id():
    assert user_numbers(["[PAD]", "b", "c", "a"]).tolist() == [0, 2, 3, 1]


def test_a_trained_t5_is_given_rows_and_is_read_again(headed_model_folder, small_data, settings):
    folder = headed_model_folder("t5")
    experiment = run_experiment(
        "P5", small_data, config_dict=settings | {"llm": folder, "code_leaf_items": 10}
    )
    model = experiment.trainer.model
    vocabulary = model.vocabulary
    assert vocabulary.n_words == 300
    assert model.reader.language_model.get_input_embeddings().num_embeddings == vocabulary.size
    _, loaded, _, _, _, test_data = load_data_and_model(experiment.checkpoint)
    interaction = next(iter(test_data))[0]
    model.eval(), loaded.eval()
    torch.testing.assert_close(
        loaded.full_sort_predict(interaction), model.full_sort_predict(interaction)
    )
    other = loaded.source.identity | {"config.json": "another"}
    with pytest.raises(ValueError, match="llm: .* is not the one that these"):
        loaded.set_extra_state(other)


@pytest.mark.parametrize("kind", ["t5", "t5-untied"])
def test_new_rows_stand_among_the_words(kind, headed_model_folder):
    source = open_source(headed_model_folder(kind), kinds=("encoder-decoder",))
    model = load_language_model(source, "none", torch.device("cpu"), head=True, trainable=True)
    words = model.get_input_embeddings().weight[:300].clone()
    head = model.get_output_embeddings().weight[:300].clone()
    assert torch.equal(words, head) == (kind == "t5")
    for size in (900, 700):  # once more, for other codes
        give_rows(model, 300, size, seed=0)
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            assert table.shape == (size, 32) and table.requires_grad
            new, own = table[300:], table[:300]
            torch.testing.assert_close(new.mean(), own.mean(), atol=0.1 * float(own.std()), rtol=0)
            torch.testing.assert_close(new.std(), own.std(), rtol=0.1, atol=0)
    model.tie_weights()
    torch.testing.assert_close(model.get_input_embeddings().weight[:300], words, rtol=0, atol=0)
    torch.testing.assert_close(model.get_output_embeddings().weight[:300], head, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("llm", "message"),
    [("llama", "of the kind causal"), ("bert", "of the kind encoder"), ("bart", "not a T5")],
)
def test_another_kind_of_language_model_is_refused(
    llm, message, language_model_folder, small_data, settings, tmp_path
):
    if llm == "bart":
        from transformers import BartConfig, BartForConditionalGeneration

        shape = dict(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=64)
        heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
        widths = dict(encoder_ffn_dim=16, decoder_ffn_dim=16)
        from conftest import small_tokenizer

        BartForConditionalGeneration(BartConfig(**shape, **heads, **widths)).save_pretrained("bart")
        small_tokenizer().save_pretrained("bart")
    folder = "bart" if llm == "bart" else language_model_folder(llm)
    with pytest.raises(ValueError, match=f"^llm: .*{message}"):
        run_experiment("P5", small_data, config_dict=settings | {"llm": folder})


def test_embedding_codes_train_a_backbone_first_and_others_none(small_data, settings):
    found = run_experiment("P5", small_data, config_dict=settings | {"item_code": "embedding"})
    names = [stage.name for stage in found.stages]
    assert names == ["backbone", "categories", "item_codes", "p5"]
    found = run_experiment("P5", small_data, config_dict=settings)
    assert [stage.name for stage in found.stages] == ["item_codes", "p5"]
    assert found.trainer.pipeline.backbone is None
