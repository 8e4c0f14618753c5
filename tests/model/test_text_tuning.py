"""Tuning the language model on the items' words: the loss against a loop, and what comes out."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_atomic
from support.stages import item_vectors, pipeline_of
from support.texts import write_texts
from test_contrastive_map import TOKENS, histories
from torch import nn
from torch.nn import functional

from recbole_tslrec.language_model import item_states, training
from recbole_tslrec.language_model.batches import make_batches
from recbole_tslrec.language_model.prompt import HISTORY
from recbole_tslrec.language_model.prompts.segments import Items, TokenTable, Words
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.paradigms.tslrec.augmentation.contrastive_map import _TEMPERATURE
from recbole_tslrec.paradigms.tslrec.augmentation.text_tuning import (
    TextTuner,
    UserPairs,
    tuning_task,
)
from recbole_tslrec.paradigms.tslrec.augmentation.tuned_texts import (
    ShuffledTextTuningStage,
    TextTuningStage,
    TunedTextVectorsStage,
)
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.text_vectors import TextVectorsStage
from recbole_tslrec.store import processes

TUNED = {"item_text": "title", "enhancement": "tuned_text", "lora_dropout": 0.0, "sft_epochs": 2}
ALL = np.ones(40, dtype=bool)


class Reader(nn.Module):
    """The sum of a vector for each word."""

    def __init__(self, n_words: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Parameter(torch.randn(n_words, 6, generator=generator))
        self.read = []

    def forward(self, token_ids, attention_mask):
        self.read.append(token_ids.shape)
        return (self.words[token_ids] * attention_mask[..., None]).sum(dim=1)


def task_of(*lists, n_items: int = 12, n_watched: int = 0, budget: int = 64):
    """A task on histories of items, whose texts have one word to five, and its users' pairs."""
    generator = np.random.default_rng(0)
    lengths = np.concatenate([[0], generator.integers(1, 6, n_items)])
    tokens = generator.integers(1, 9, lengths.sum())
    table = TokenTable(tokens, lengths)
    prompt = Template((Words([9]), Items(HISTORY, texts=table, most=1), Words([])), 10)
    pairs = UserPairs.of(histories(*lists), TOKENS, ALL, 50)
    users = np.arange(len(pairs))
    return tuning_task(prompt, pairs, users, users[:n_watched], budget), pairs, table


LISTS = ([1, 2, 3], [2, 5, 2], [4, 5], [9, 1, 2, 12])


def test_cosines_are_not_rounded_where_products_are():
    task, pairs, _ = task_of(*LISTS)
    tuner = TextTuner(Reader(10), torch.zeros(6), pairs.log_frequency, pairs_a_user=1.5)
    batch = task.collate([task.examples[user] for user in range(4)])
    exact = tuner(**batch)
    with torch.autocast("cpu", torch.bfloat16):  # as accelerate has it on a GPU
        found = tuner(**batch)
    assert torch.equal(found["error"], exact["error"])


def test_each_users_term_of_the_loss_is_that_of_a_loop():
    task, pairs, table = task_of(*LISTS)
    reader, mean = Reader(10), torch.full((6,), 0.3)
    tuner = TextTuner(reader, mean, pairs.log_frequency, pairs_a_user=1.5)
    with torch.no_grad():
        found = tuner(**task.collate([task.examples[user] for user in range(4)]))

    def vector(item: int) -> torch.Tensor:
        start = table.lengths[: item + 1].sum()
        words = [9, *table.tokens[start : start + table.lengths[item + 1]]]
        return functional.normalize(reader.words.detach()[words].sum(dim=0) - mean, dim=0)

    flat = pairs.pairs.flatten().tolist()
    share = {item: flat.count(item) / len(flat) for item in flat}
    for user in range(4):
        loss = right = 0.0
        for pair in pairs[user].tolist():
            for column in (1, 0):
                asked, answer = pair[1 - column], pair[column]
                logits, cosines = {}, {}
                candidates = [(user, pair[column])]
                for another in set(range(4)) - {user}:  # the user's own items are no wrong answers
                    candidates += [(another, item) for item in pairs[another][:, column].tolist()]
                for _, other in candidates:
                    if other != asked:
                        cosine = float(vector(asked) @ vector(other))
                        weight = math.exp(cosine / _TEMPERATURE) / share[other]
                        logits.setdefault(other, []).append(weight)
                        cosines[other] = cosine
                others = sum(sum(each) for item, each in logits.items() if item != answer)
                own = logits[answer][0]
                loss -= math.log(own / (own + others)) / 2
                right += (max(cosines, key=cosines.__getitem__) == answer) / 2
        assert found["error"][user].item() == pytest.approx(loss / 1.5, rel=1e-4)
        assert found["named_right"][user].item() == pytest.approx(right)
        assert found["n_pairs"][user].item() == len(pairs[user])


def test_each_item_of_a_batch_is_read_once_with_little_padding():
    task, pairs, table = task_of(*LISTS, [7, 8, 10, 11])
    reader = Reader(10)
    tuner = TextTuner(reader, torch.zeros(6), pairs.log_frequency, 1.0)
    batch = task.collate([task.examples[user] for user in range(5)])
    tuner(**batch)
    items = batch["items"].numpy()
    assert sorted(items.tolist()) == sorted(set(pairs.pairs.flatten().tolist()))
    assert sum(rows for rows, _ in reader.read) == len(items)
    padded = len(items) * (1 + int(table.lengths[items + 1].max()))
    assert sum(rows * columns for rows, columns in reader.read) < padded
    own = [1 + table.lengths[np.unique(pairs[user]) + 1] for user in range(5)]
    assert task.lengths.tolist() == [lengths.sum() for lengths in own]
    assert task.positions_of(np.arange(5)) == len(items) + table.lengths[items + 1].sum()


def test_many_pairs_of_two_items_take_room_as_well():
    task, _, _ = task_of([1, 2] * 30, [3, 4])
    assert task.lengths.max() == 50  # the latest 50 pairs


def test_pairs_of_users():
    """Users by token, the latest pairs of each, none with an item of unknown words or twice the same."""
    given = histories([1, 2, 3, 4], [5], [6, 6], [7, 8, 9], [1, 2])
    known = ALL.copy()
    known[7] = False  # item 8
    pairs = UserPairs.of(given, TOKENS, known, 2)
    assert [pairs[user].tolist() for user in range(len(pairs))] == [[[0, 1]], [[1, 2], [2, 3]]]
    assert pairs.log_frequency.exp().tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6])


def histories_of_two_kinds(name: str, order: int = 1, last: int = 0) -> None:
    """Users have items of one half of the catalogue, but for the last two, which are held out."""
    rows = []
    for user in range(60):
        generator = np.random.default_rng(user)
        own = generator.permutation(15)[:6] + 15 * (user % 2)
        held_out = (own[:2] + last) % 30
        items = [*own[2:], *held_out]
        rows += [(f"u{user}", f"i{item}", n) for n, item in enumerate(items)]
    write_atomic(Path("data"), name, rows[::order])


def vectors_by_token(name: str, settings: dict, **changes) -> torch.Tensor:
    write_texts(name)
    pipeline = pipeline_of(settings | TUNED | changes, name)
    rows = dict(zip(pipeline.tokens, item_vectors(pipeline), strict=True))
    return torch.stack([rows[f"i{item}"] for item in range(30)])


def nearness(vectors: torch.Tensor) -> float:
    """How much more alike two items of one half are than two of different halves."""
    rows = functional.normalize(vectors - vectors.mean(dim=0), dim=1)
    cosines = rows @ rows.T
    within = (cosines[:15, :15].sum() + cosines[15:, 15:].sum() - 30) / (2 * 15 * 14)
    return float(within - cosines[:15, 15:].mean())


def test_items_that_follow_each_other_become_alike(settings, tmp_path):
    histories_of_two_kinds("halves")
    of = {"sft_epochs": 15, "sft_learning_rate": 0.01, "sft_batch_positions": 512}
    # Of a smaller rank some seeds learn nothing by heart.
    of |= {"sft_valid_ratio": 0.0, "lora_r": 8}
    before = vectors_by_token("halves", settings, enhancement="text")
    tuned = vectors_by_token("halves", settings, **of)
    shuffled = vectors_by_token("halves", settings, enhancement="shuffled_tuned_text", **of)
    assert nearness(tuned) > nearness(before) + 0.2
    # It learns by heart what the words do not say: that is what the control is for.
    assert nearness(shuffled) > nearness(before) + 0.2


def test_what_is_held_out_and_the_order_of_ids_change_nothing(settings, monkeypatch):
    # In bfloat16 the order of the rows shows in the sums.
    for module in (training, item_states):
        monkeypatch.setattr(module, "bf16_is_fast", lambda device: False)
    histories_of_two_kinds("one")
    histories_of_two_kinds("other", order=-1)
    histories_of_two_kinds("another", last=7)
    one = vectors_by_token("one", settings)
    torch.testing.assert_close(vectors_by_token("other", settings), one, atol=2e-3, rtol=1e-3)
    # The fingerprint of the training histories is the same as well: the stage itself is.
    torch.testing.assert_close(vectors_by_token("another", settings), one, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(vectors_by_token("one", settings, enhancement="text"), one, atol=0.01)


def without_texts(*items: str) -> None:
    file = Path("data/small/small.item")
    lines = file.read_text().splitlines()
    kept = [line for line in lines if line.split("\t")[0] not in items]
    file.write_text("\n".join(kept) + "\n")


def test_the_control_reads_the_words_that_its_items_are_dealt(settings, small_data):
    """Those of items that have some: it learns from as many pairs."""
    write_texts()
    without_texts("i3", "i7")
    pipeline = pipeline_of(settings | TUNED | {"item_text_missing": "w1"}, small_data)
    own, dealt = pipeline.stage(TextTuningStage), pipeline.stage(ShuffledTextTuningStage)
    read = dealt.words_of()
    assert sorted(read) == list(range(30)) and (read != np.arange(30)).sum() > 20
    missing = [pipeline.tokens.index(item) for item in ("i3", "i7")]
    assert read[missing].tolist() == missing
    expected = read[own.pairs().pairs]
    assert not np.isin(missing, own.pairs().pairs).any()
    assert np.array_equal(dealt.pairs().pairs, expected)
    assert own.fingerprint == dealt.fingerprint and own.name != dealt.name


def test_whose_words_are_missing_is_part_of_the_fingerprint(settings, small_data):
    def prints():
        changes = {"item_text_missing": "w1"}
        pipeline = pipeline_of(settings | TUNED | changes, small_data)
        return [pipeline.stage(kind).fingerprint for kind in (TextVectorsStage, TextTuningStage)]

    texts = write_texts()
    without_texts("i3")
    frozen, tuned = prints()
    write_texts()
    file = Path("data/small/small.item")
    file.write_text(file.read_text().replace(f"i3\t{texts['i3']}\n", "i3\tw1\n"))
    again = prints()
    assert again[0] == frozen and again[1] != tuned


def test_stages_depend_on_what_they_are_made_from(settings, small_data):
    def prints(**changes):
        pipeline = pipeline_of(settings | TUNED | changes, small_data)
        kinds = (TextVectorsStage, TextTuningStage, TunedTextVectorsStage)
        return [pipeline.stage(kind).fingerprint for kind in kinds]

    write_texts()
    frozen, tuned, vectors = prints()
    assert prints(n_categories=5, llm_pooling="mean", llm_response="x") == [frozen, tuned, vectors]
    for changes in ({"sft_epochs": 3}, {"lora_r": 3}, {"seed": 3}, {"llm_max_history": 9}):
        changed = prints(**changes)
        assert changed[0] == frozen and changed[1] != tuned and changed[2] != vectors
    write_texts(seed=1)
    assert not {frozen, tuned, vectors} & set(prints())


def test_a_model_with_it_trains_and_loads(settings, small_data):
    write_texts()
    changes = TUNED | {"fusion": "none", "score_term": "after", "score_map": "contrastive"}
    found = run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    assert found.trainer.model.scoring_term.vectors[1:].any(dim=1).all()


def test_too_few_users_are_refused(settings, small_data):
    write_texts()
    pipeline = pipeline_of(settings | TUNED | {"sft_users": 0.001}, small_data)
    with pytest.raises(ValueError, match=r"enhancement: \[tuned_text\].* Set sft_users: 1.0"):
        pipeline.stage(TextTuningStage).pairs()
    two = settings | TUNED | {"sft_users": 0.05}  # of whom one is held out
    with pytest.raises(ValueError, match=r"two users at least .* there are 2\. Set sft_users"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=two)
    assert not Path("saved/tslrec").exists()
    short = settings | TUNED | {"llm_max_history": 1}
    with pytest.raises(ValueError, match=r"llm_max_history: \[1\] leaves no two items"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=short)


def test_few_users_in_a_batch_are_told(settings, small_data, caplog, monkeypatch):
    write_texts()
    pipeline = pipeline_of(settings | TUNED | {"sft_batch_positions": 64}, small_data)
    assert pipeline.stage(TextTuningStage).stored
    assert "Set sft_batch_positions: 1000 or more" in caplog.text
    caplog.clear()
    monkeypatch.setattr(processes, "count", lambda: 4)
    pipeline.stage(TextTuningStage)._tell_if_few(SimpleNamespace(lengths=np.array([20, 30])))
    assert "Set sft_batch_positions: 2000 or more" in caplog.text


@pytest.mark.parametrize("n_processes", [1, 2])
def test_no_user_is_alone_in_a_batch_nor_in_a_process(n_processes, monkeypatch):
    """Alone there is no wrong answer, and the loss is 0."""
    lists = [[1 + (user + n) % 9 for n in range(2 + user % 5)] for user in range(13)]
    task, pairs, _ = task_of(*lists, budget=1)
    tuner = TextTuner(Reader(10), torch.zeros(6), pairs.log_frequency, pairs_a_user=1.0)
    assert not tuner(**task.collate([task.examples[4]]))["error"].any()
    monkeypatch.setattr(processes, "count", lambda: n_processes)
    monkeypatch.setenv("RANK", "0")
    how = training.TrainingSettings(1, 1e-3, 1, "adamw_torch", 1, seed=0)
    sampler, _ = make_batches(task, how)
    for batch in sampler.batches():
        for process in range(n_processes):
            share = [task.examples[user] for user in batch[process::n_processes]]
            assert len(share) > 1 and (tuner(**task.collate(share))["error"] > 0).all()


def test_two_users_are_watched_or_none(settings, small_data):
    write_texts()
    for ratio, n_watched in ((0.05, 2), (0.0, 0)):  # of 20 users
        changes = TUNED | {"sft_users": 0.5, "sft_valid_ratio": ratio}
        stage = pipeline_of(settings | changes, small_data).stage(TextTuningStage)
        _, task = stage.tuner_and_task(torch.zeros(32))
        assert len(task.examples) == 20 - n_watched
        watched = 0 if task.validation is None else len(task.validation.examples)
        assert watched == n_watched


@pytest.mark.parametrize("n_watched", range(12))
def test_no_held_out_user_is_alone_in_a_batch(n_watched):
    lists = [[1 + user % 9, 2 + user % 9, 3 + user % 9] for user in range(n_watched + 2)]
    for budget in (1, 40, 60):
        task, _, _ = task_of(*lists, n_watched=n_watched, budget=budget)
        if n_watched < 2:
            assert task.validation is None
            continue
        assert len(task.validation.examples) == n_watched
        assert n_watched % task.validation.batch_size != 1 and task.validation.batch_size > 1


def test_another_language_model_is_refused(settings, small_data, language_model_folder):
    write_texts()
    pipeline = pipeline_of(settings | TUNED | {"sft_epochs": 1}, small_data)
    stage = pipeline.stage(TextTuningStage)
    (stage.stored.folder / "language_model.json").write_text('{"name": "another"}')
    pipeline = pipeline_of(settings | TUNED | {"sft_epochs": 1}, small_data)
    with pytest.raises(ValueError):
        pipeline.stage(TextTuningStage).tuned_encoder()


def test_its_cost_can_be_measured(settings, small_data):
    write_texts()
    pipeline = pipeline_of(settings | TUNED, small_data)
    (tuning,) = pipeline.stage(TextTuningStage).workloads(ablation=False)
    (reading,) = pipeline.stage(TunedTextVectorsStage).workloads(ablation=False)
    assert tuning.part == "text tuning" and sum(map(len, tuning.batches)) > 10
    assert reading.part == "items" and sum(map(len, reading.batches)) == 30
    for work in (tuning, reading):
        work.run(work.batches[0], SimpleNamespace())
    assert not Path("saved/tslrec").exists()  # no stage was made
