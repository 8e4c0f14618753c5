"""LLM-TRSR: blocks, summaries and whose they are, yes and no, and the whole of it in RecBole."""

import copy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed
from support.texts import write_texts
from test_pipeline import write_with_other_held_out

from recbole_tslrec.__main__ import main
from recbole_tslrec.evaluation.candidates import top_items
from recbole_tslrec.language_model.meter import Meter
from recbole_tslrec.language_model.prompts.segments import tokens_of
from recbole_tslrec.paradigms.llmtrsr import stages as stages_of_summaries
from recbole_tslrec.paradigms.llmtrsr import summariser
from recbole_tslrec.paradigms.llmtrsr.histories import TARGETS, blocks_of
from recbole_tslrec.paradigms.llmtrsr.kept_summaries import (
    Kept,
    KeptSummaries,
    as_tokens,
    items_since,
)
from recbole_tslrec.paradigms.llmtrsr.stages import SummariesStage
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.pipeline import Pipeline

MODEL = "LLMTRSR_SASRec"


@pytest.fixture
def settings(settings, yes_no_model_folder):
    return settings | {
        "llm": yes_no_model_folder,
        "item_text": "title",
        "MAX_ITEM_LIST_LENGTH": 50,
        "trsr_block_items": 2,
        "trsr_blocks": 3,
        "trsr_summary_tokens": 5,
        "trsr_recent_items": 3,
        "trsr_summary_instruction": "predict preferences",
        "trsr_merge_instruction": "predict distribution among preferences",
        "trsr_update_instruction": "given preferences , predict",
        "trsr_instruction": "predict yes",
        "trsr_instruction_alone": "predict no",
        "sft_batch_positions": 2048,
        "sft_epochs": 1,
    }


class Experiment:
    """What run_recbole makes, part by part."""

    def __init__(self, dataset: str, settings: dict):
        self.config = Config(MODEL, dataset, config_dict=settings)
        init_seed(self.config["seed"], self.config["reproducibility"])
        self.dataset = create_dataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, self.dataset)
        self.model = get_model(MODEL)(self.config, self.train._dataset)
        self.trainer = get_trainer(self.config["MODEL_TYPE"], MODEL)(self.config, self.model)

    def summarised(self):
        """With summaries; the backbone is not trained."""
        pipeline = Pipeline(self.config, self.train, self.valid, self.model.backbone, False)
        self.stage = pipeline.stage(SummariesStage)
        tokenizer, most = self.model.source.tokenizer, self.config["trsr_summary_tokens"]
        kept = as_tokens(self.stage.histories, self.stage.texts(), tokenizer, most)
        self.model.summaries.take(kept)
        return self


def stage_of(dataset: str, settings: dict) -> SummariesStage:
    config = Config(MODEL, dataset, config_dict=settings)
    train, valid, _ = data_preparation(config, create_dataset(config))
    return Pipeline(config, train, valid, None, show_progress=False).stage(SummariesStage)


# ---- histories and blocks ---------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
def test_blocks_stay_what_they_were_as_a_history_grows(n_items, size, most):
    history = np.arange(n_items)
    blocks = [block.tolist() for block in blocks_of(history, size, most)]
    whole = [list(range(start, min(start + size, n_items))) for start in range(0, n_items, size)]
    assert blocks == whole[-most:]


def test_each_target_has_what_is_before_it(titled, settings):
    stage = stage_of(titled, settings)
    rows = {"training": stage.pipeline.dataset.inter_feat}
    config = stage.config
    _, valid, test = data_preparation(config, create_dataset(config))
    rows |= {"validation": valid._dataset.inter_feat, "test": test._dataset.inter_feat}
    for one in stage.histories:
        for target in TARGETS:
            (own,) = torch.nonzero(rows[target]["user_id"] == one.user, as_tuple=True)
            row = own[-1]
            length = rows[target]["item_length"][row]
            had = rows[target]["item_id_list"][row, :length].tolist()
            assert one.before[target].tolist() == had
    assert [one.token for one in stage.histories] == sorted(f"u{user}" for user in range(40))


# ---- summaries --------------------------------------------------------------------------------------


class Reference:
    """Summaries one prompt and one token at a time, by transformers' own model."""

    def __init__(self, stage: SummariesStage):
        self.config = stage.config
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.config["llm"])
        self.plain = transformers.AutoModelForCausalLM.from_pretrained(self.config["llm"]).eval()
        self.texts = stage.pipeline.catalogue.rows(stage.pipeline.tokens)

    @torch.no_grad()
    def answer(self, instruction: str, *content: str) -> str:
        words = " ".join([self.config[instruction], *content, "Description :"])
        tokens = self.tokenizer(words)["input_ids"]
        written = []
        while len(written) < 5:
            best = int(self.plain(torch.tensor([tokens + written])).logits[0, -1].argmax())
            if best == 2:  # <s>, the end by the model's config
                break
            written.append(best)
        return " ".join(self.tokenizer.decode(written, skip_special_tokens=True).split())

    def summary(self, history: np.ndarray) -> tuple[list[str], str]:
        blocks = [" ".join(self.texts[item] for item in own) for own in blocks_of(history, 2, 3)]
        if self.config["trsr_summary"] == "hierarchical":
            parts = [self.answer("trsr_summary_instruction", block) for block in blocks]
            if len(parts) == 1:
                return parts, parts[0]
            return parts, self.answer("trsr_merge_instruction", *parts)
        parts = [self.answer("trsr_summary_instruction", blocks[0])]
        for block in blocks[1:]:
            parts.append(self.answer("trsr_update_instruction", parts[-1], block))
        return parts, parts[-1]


@pytest.mark.parametrize("way", ["hierarchical", "recurrent"])
def test_summaries_are_those_of_one_prompt_after_the_other(way, titled, settings, monkeypatch):
    monkeypatch.setattr(
        "recbole_tslrec.language_model.generation.bf16_is_fast", lambda device: False
    )
    stage = stage_of(titled, settings | {"trsr_summary": way})
    lines = {(line["user"], line["target"]): line for line in stage.lines()}
    assert len(lines) == 3 * 40
    reference = Reference(stage)
    assert len({line["summary"] for line in lines.values()}) > 20
    for one in stage.histories[:6]:
        for target in TARGETS:
            line = lines[one.token, target]
            assert (line["parts"], line["summary"]) == reference.summary(one.before[target])
            assert line["read"] == len(one.before[target])
    cost = stage.stored.notes["cost"]
    assert cost["padding_share"] == 0 and cost["examples"] < 120 * 4 and cost["operations"] > 0


@pytest.mark.parametrize("way", ["hierarchical", "recurrent"])
def test_users_without_a_history_have_no_summary(way, titled, settings):
    summariser = stage_of(titled, settings | {"trsr_summary": way}).summariser()
    assert summariser.summaries([], Meter()) == []


@pytest.mark.parametrize("way", ["hierarchical", "recurrent"])
def test_words_of_the_other_way_of_summarising_do_not_count(way, titled, settings):
    other = {"hierarchical": "trsr_update", "recurrent": "trsr_merge"}[way]
    own = {"hierarchical": "trsr_merge", "recurrent": "trsr_update"}[way]
    changes = [{}, {f"{other}_instruction": "0 1 2"}, {f"{own}_instruction": "0 1 2"}]
    stages = [stage_of(titled, settings | {"trsr_summary": way} | change) for change in changes]
    one, with_other, with_own = (stage.made_from for stage in stages)
    assert one == with_other != with_own


def test_random_weights_that_write_are_those_of_the_seed(titled, settings):
    def made_from(llm, seed):
        return stage_of(titled, settings | {"llm": llm, "seed": seed}).made_from

    llm = settings["llm"]
    assert made_from(f"random:{llm}", 1) != made_from(f"random:{llm}", 2)
    assert made_from(llm, 1) == made_from(llm, 2)


@pytest.mark.parametrize("way", ["hierarchical", "recurrent"])
@pytest.mark.parametrize("n_last", [1, 2])
def test_no_summary_reads_what_is_held_out(n_last, way, tmp_path, settings):
    write_with_other_held_out(tmp_path, n_last)
    found = {}
    for name in ("one", "other"):
        write_texts(name, n_items=12)
        stage = stage_of(name, settings | {"trsr_summary": way, "trsr_block_items": 5})
        found[name] = {(line["user"], line["target"]): line for line in stage.lines()}
    same = {
        target: all(
            line == found["other"][place]
            for place, line in found["one"].items()
            if place[1] == target
        )
        for target in TARGETS
    }
    assert same == {"training": True, "validation": True, "test": n_last == 1}


@pytest.mark.parametrize("way", ["hierarchical", "recurrent"])
def test_shards_that_are_there_are_gone_on_from(way, titled, settings, monkeypatch, caplog):
    settings |= {"trsr_summary": way}
    monkeypatch.setattr(stages_of_summaries, "USERS_A_SHARD", 15)
    unbroken = stage_of(titled, settings | {"tslrec_dir": "unbroken"}).lines()
    write, calls = stages_of_summaries._lines, []

    def stopped(summariser, users, meter):
        calls.append([one.token for one in users])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(summariser, users, meter)

    monkeypatch.setattr(stages_of_summaries, "_lines", stopped)
    with pytest.raises(KeyboardInterrupt):
        _ = stage_of(titled, settings).stored
    shard, _ = sorted(Path("saved/tslrec/small").rglob("shard-*.json"))
    shard.write_text(shard.read_text().replace('"summary": "', '"summary": "no ', 1))
    assert stage_of(titled, settings).lines() == unbroken
    assert calls[3:] == [calls[0], calls[2]] and len(calls[2]) == 10
    assert "a partial result is made again" in caplog.text
    assert not list(Path("saved/tslrec/small").rglob("shard-*.json"))


def test_another_language_model_may_write(titled, settings, headed_model_folder):
    other = stage_of(titled, settings | {"trsr_summarizer": headed_model_folder("llama")})
    own = stage_of(titled, settings)
    assert other.fingerprint != own.fingerprint
    assert other.lines()[0]["summary"] != own.lines()[0]["summary"]


# ---- which summary a row has ------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(2, 6), st.integers(0, 12))
def test_items_since_an_earlier_history(items, most, n_before):
    """Lists of ``most`` items may have lost some: the fewest that can have come since."""
    n_before = min(n_before, len(items) - 1) or 1
    before, history = np.array(items[:n_before][-most:]), np.array(items[-most:])
    since = items_since(before, history, most)
    actual = len(items) - n_before
    if len(history) < most:
        assert since == actual
    elif actual < most:
        assert since is not None and since <= actual
        kept = history[: most - since]
        assert before[-len(kept) :].tolist() == kept.tolist()


def kept(user, target, items, words):
    return Kept(user, target, np.array(items), np.array(words))


def test_a_row_has_the_latest_summary_of_what_was_before_it():
    own = KeptSummaries(4, seed=0)
    own.take(
        [
            kept(1, 0, [5, 6], [10]),
            kept(1, 1, [5, 6, 7], [11, 11]),
            kept(1, 2, [5, 6, 7, 8], []),
            kept(2, 0, [9, 9, 9, 9, 9], [20]),
            kept(2, 1, [9, 9, 9, 9, 9, 9], [21]),
        ]
    )

    def found(user, *items, latest="test", shuffled=False):
        (words,) = own.of([user], [np.array(items)], latest, shuffled)
        return words.tolist()

    assert found(1, 5, 6) == [10] and found(1, 5, 6, 7) == [11, 11] and found(1, 5, 6, 7, 8) == []
    assert found(1, 7, 8, 3, 4, latest="validation") == [11, 11]  # a full list later than all
    assert found(1, 7, 8, 3, 4, latest="training") == found(1, 8, 3, 4) == []
    assert found(1, 6, 5) == found(1, 5) == found(3, 5, 6) == []  # of others
    assert found(2, 9, 9, 9, 9) == [20]  # where two could be meant, that of fewer items
    assert found(2, 9, 9, 9, 4) == [20]
    assert found(1, 5, 6, shuffled=True) == [20] and found(1, 5, 6, 7, shuffled=True) == [21]
    assert found(1, 5, 6, 7, 8, shuffled=True) == [21]  # the other user has none for the test
    assert found(2, 9, 9, 9, 9, shuffled=True) == [10]
    assert found(1, 5, 6, latest="training") == [10]
    assert found(1, 5, 6, 7, latest="training") == [10]
    other = KeptSummaries(4, seed=0)
    other.load_state_dict(own.state_dict())
    assert other.content_hash() == own.content_hash()
    assert other.of([1], [np.array([5, 6, 7])])[0].tolist() == [11, 11]


def test_summaries_are_taken_from_the_device_all_at_once(monkeypatch):
    summaries = KeptSummaries(4, seed=0)
    words = [np.arange(n, dtype=np.int64) for n in (2, 0, 3)]
    kept = [Kept(user, 2 - user % 2, words[user] + 1, words[user]) for user in range(3)]
    summaries.take(kept)
    asked = []
    for name in ("__int__", "__index__", "item"):
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, name=name: asked.append(name) or 0)
    found = summaries.of([2, 0], [words[2] + 1, words[0] + 1])
    assert [row.tolist() for row in found] == [[0, 1, 2], [0, 1]]
    assert asked == []


def test_a_validated_row_reads_no_summary_of_its_future():
    """Its cut history may begin with an item that the user has again later."""
    own, history = KeptSummaries(3, seed=0), [np.array([3, 4, 5])]
    own.take([kept(4, 1, [1, 2], [30]), kept(4, 2, [1, 2, 3, 4, 5, 6, 3], [31])])
    assert own.of([4], history, "validation")[0].tolist() == [30]
    assert own.of([4], history)[0].tolist() == [31]


def test_every_row_has_its_own_summary(titled, settings):
    experiment = Experiment(titled, settings | {"MAX_ITEM_LIST_LENGTH": 5}).summarised()
    texts, model = experiment.stage.texts(), experiment.model
    names = experiment.dataset.field2id_token["user_id"]
    for target, loader in zip(TARGETS[1:], (experiment.valid, experiment.test), strict=True):
        rows = loader._dataset.inter_feat
        users, histories = model._read(rows)
        for user, words in zip(users, model.summaries.of(users, histories), strict=True):
            expected = model.source.tokenizer(texts[names[user], target], add_special_tokens=False)
            assert words.tolist() == expected["input_ids"][:5]
    examples = model.task(experiment.train._dataset).examples
    read = {tuple(example.summary.tolist()) for example in examples}
    written = [text for (_, target), text in texts.items() if target == "training"]
    tokens = model.source.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert read == {tuple(row[:5]) for row in tokens}


# ---- yes and no -------------------------------------------------------------------------------------


def text_of(experiment, summary: np.ndarray, history, candidate: int) -> str:
    """The prompt as one would write it down."""
    texts = experiment.stage.pipeline.catalogue.rows(experiment.stage.pipeline.tokens)
    had = " ".join(texts[item] for item in history[-3:])
    summary = experiment.model.source.tokenizer.decode(summary.tolist())
    return (
        f"predict yes [ Preference Summary ] {summary} [ Historical Items ] {had} "
        f"[ Next Item ] {texts[candidate]} Answer :"
    )


@torch.no_grad()
def logits_of(settings, tokens: list[int]) -> torch.Tensor:
    plain = transformers.AutoModelForCausalLM.from_pretrained(settings["llm"]).eval()
    return plain(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("continues", [True, False])
def test_scores_are_the_whole_models_logits(continues, titled, settings, monkeypatch):
    monkeypatch.setattr("recbole_tslrec.recbole_bridge.passes.bf16_is_fast", lambda device: False)
    monkeypatch.setattr("recbole_tslrec.recbole_bridge.passes.POSITIONS_A_PASS", 300)
    experiment = Experiment(titled, settings).summarised()
    model, rows = experiment.model.eval(), experiment.test._dataset.inter_feat
    assert model.continues
    model.continues = continues
    candidates = top_items(model.retriever.full_sort_predict(rows), 5)
    candidates[3, 2:], candidates[4] = 0, 0
    with torch.no_grad():
        found = model.rerank(rows, candidates)
    assert found[3, 2:].eq(0).all() and found[4].eq(0).all()
    users, histories = model._read(rows)
    summaries = model.summaries.of(users, histories)
    tokenizer = model.source.tokenizer
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert model.answers == (yes, no)
    for row, column in [(0, 0), (0, 4), (1, 2), (3, 1)]:
        item = int(candidates[row, column])
        text = text_of(experiment, summaries[row], histories[row], item)
        logits = logits_of(settings, tokenizer(text)["input_ids"])[-1]
        torch.testing.assert_close(
            found[row, column], logits[yes] - logits[no], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("loss", "packed"), [("answer", True), ("answer", False), ("text", True)])
def test_the_loss_is_over_the_answer_or_the_text(loss, packed, titled, settings, monkeypatch):
    monkeypatch.setattr("recbole_tslrec.language_model.encoder.packs", lambda model: packed)
    experiment = Experiment(titled, settings | {"trsr_loss": loss}).summarised()
    model = experiment.model.eval()
    task = model.task(experiment.train._dataset)
    assert model.trains_continuing == (packed and loss == "answer")
    examples = [task.examples[number] for number in range(5)]
    examples.append(examples[0]._replace(candidates=examples[0].candidates[:1]))  # without a no
    found = model.ranker(**task.collate(examples))["error"]
    for example, error in zip(examples, found, strict=True):
        expected = []
        for item, answer in zip(example.candidates, ("yes", "no"), strict=False):
            text = text_of(experiment, example.summary, example.history, item)
            tokens = model.source.tokenizer(f"{text} {answer}")["input_ids"]
            logits = logits_of(settings, tokens)[:-1].log_softmax(dim=1)
            errors = -logits[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
            expected.append(errors[-1] if loss == "answer" else errors.mean())
        torch.testing.assert_close(error, torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


def test_the_loss_over_the_text_is_trained_with(titled, settings):
    run = run_experiment(MODEL, titled, config_dict=settings | {"trsr_loss": "text"})
    assert run.stages[-1].name == MODEL.lower()
    assert run.stages[-1].notes["cost"]["positions"] > 0
    assert 0 <= run.test_result["ndcg@10"] <= 1


def test_lengths_are_the_positions_that_are_read(titled, settings):
    experiment = Experiment(titled, settings).summarised()
    model = experiment.model
    task = model.task(experiment.train._dataset)
    assert model.trains_continuing
    for number in range(8):
        batch = task.collate([task.examples[number]])
        read = batch["attention_mask"].sum() + batch["prefix_mask"].sum()
        assert read == task.lengths[number]


def test_examples_are_one_yes_and_one_no_of_each_user(titled, settings):
    experiment = Experiment(titled, settings).summarised()
    dataset = experiment.train._dataset
    task, again = experiment.model.task(dataset), experiment.model.task(dataset)
    assert task.examples.content_hash() == again.examples.content_hash()
    assert len(task.examples) == 40 and (task.lengths > 0).all()
    for number, one in enumerate(experiment.stage.pipeline.histories.user_ids):
        history = experiment.stage.pipeline.histories[number]
        example = task.examples[number]
        assert one and example.history.tolist() == history[:-1].tolist()
        positive, negative = example.candidates
        assert positive == history[-1] and negative not in history
    other = Experiment(titled, settings | {"seed": 1}).summarised().model.task(dataset)
    assert other.examples.content_hash() != task.examples.content_hash()


@pytest.mark.parametrize("context", [48, 56, 64])
def test_history_and_summary_are_cut_and_the_candidate_never(
    context, titled, settings, yes_no_model_folder
):
    """Of a summary that would fill the context: the candidates keep their differences."""
    experiment = Experiment(titled, settings | {"trsr_summary_tokens": 100})
    template = replace(experiment.model.template, context_length=context)
    values = {
        "summary": [np.full(100, 9)],
        "history": [np.array([1, 2, 3])],
        "candidate": [np.arange(1, 6)],
    }
    batch = template.continued(values, "candidate")
    texts = next(
        part for part in template.segments if getattr(part, "name", "") == "candidate"
    ).texts
    for item, tokens, mask in zip(
        range(1, 6), batch["token_ids"], batch["attention_mask"], strict=True
    ):
        own = texts.tokens[texts.starts[item] :][: texts.lengths[item]].tolist()
        last = list(template.segments[-1].ids)
        assert tokens[mask.bool()].tolist() == own + last
        assert batch["prefix_mask"].sum() + mask.sum() <= context


# ---- the whole --------------------------------------------------------------------------------------


def test_controls_share_what_is_trained_and_no_summary_does_without_the_stage(titled, settings):
    first = run_experiment(MODEL, titled, config_dict=settings)
    names = [stage.name for stage in first.stages]
    assert names == ["backbone", "summaries", "llmtrsr_sasrec"]
    assert first.test_result["hit@5"] >= 0
    shuffled = run_experiment(MODEL, titled, config_dict=settings | {"trsr_control": "shuffled"})
    assert all(stage.reused for stage in shuffled.stages)
    assert shuffled.best_valid_result == first.best_valid_result
    without = run_experiment(MODEL, titled, config_dict=settings | {"trsr_summary": "none"})
    assert [stage.name for stage in without.stages] == ["backbone", "llmtrsr_sasrec"]
    assert not [stage for stage in without.stages[1:] if stage.reused]
    model = without.trainer.model
    assert not {"trsr_instruction", "trsr_summary_tokens"} & model.settings.keys()
    segments = model.template.segments
    alone = tokens_of(model.source.tokenizer, model.settings["trsr_instruction_alone"])
    assert segments[0].ids[-len(alone) :] == alone
    assert "summary" not in [getattr(part, "name", None) for part in segments]


def test_the_shuffled_control_gives_other_summaries_in_tests_alone(titled, settings):
    experiment = Experiment(titled, settings | {"trsr_control": "shuffled"}).summarised()
    model, rows = experiment.model, experiment.test._dataset.inter_feat
    candidates = torch.ones(len(rows), 1, dtype=torch.int64)
    tested = model._values(rows, candidates)["summary"]
    model.is_tested = False
    validated = model._values(rows, candidates)["summary"]
    own = model.summaries.of(*model._read(rows))
    before = model.summaries.of(*model._read(rows), "validation")
    assert list(map(tuple, validated)) == list(map(tuple, before)) != list(map(tuple, own))
    assert sum(not np.array_equal(*pair) for pair in zip(tested, own, strict=True)) > 20
    assert sorted(map(tuple, tested)) == sorted(map(tuple, own))


def test_someone_new_is_ranked_for_without_a_summary(titled, settings):
    model = (experiment := Experiment(titled, settings).summarised()).model.eval()
    known = experiment.test._dataset.inter_feat[:3]
    new = Interaction({name: known[name] for name in (model.ITEM_SEQ, model.ITEM_SEQ_LEN)})
    assert [len(words) for words in model._values(new, torch.ones(3, 1))["summary"]] == [0, 0, 0]
    scores = model.full_sort_predict(new)
    assert scores.shape == (3, model.n_items) and scores.isfinite().all()


def test_a_checkpoint_holds_summaries_and_no_base_weights(titled, settings):
    experiment = Experiment(titled, settings | {"epochs": 1})
    experiment.trainer.fit(experiment.train, experiment.valid)
    state = torch.load(experiment.trainer.saved_model_file, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {
        "_extra_state",
        "ranker",
        "retriever",
        "summaries",
    }
    assert not [name for name in state if "base_layer" in name or "embed_tokens" in name]
    other = Experiment(titled, settings | {"seed": 7}).model
    other.load_state_dict(state)
    experiment.model.load_state_dict(state)
    rows = experiment.test._dataset.inter_feat
    scores = experiment.model.eval().full_sort_predict(rows)
    other.summaries.seed = experiment.model.summaries.seed
    assert torch.equal(other.eval().full_sort_predict(rows), scores)
    assert torch.equal(copy.deepcopy(other).full_sort_predict(rows), scores)
    assert other.knows_users  # summaries are kept by users' numbers
    assert not Experiment(titled, settings | {"trsr_summary": "none"}).model.knows_users


def test_the_day_is_in_no_summarys_prompt():
    class Chat:
        chat_template = "as Llama 3's"

        def apply_chat_template(self, messages, strftime_now, date_string, **more):
            return f"{strftime_now('%d %b %Y')} {date_string} {messages[0]['content']} end"

        def __call__(self, text, add_special_tokens):
            return {"input_ids": text.split()}

    before, after = summariser._frame(SimpleNamespace(tokenizer=Chat()))
    assert before == ("26", "Jul", "2024", "26", "Jul", "2024") and after == ("end",)


def test_a_turns_end_by_the_generation_config_ends_a_summary(titled, settings, tmp_path):
    """Gemma's stands there alone: without it a model talks on as the user."""
    before = stage_of(titled, settings)
    assert summariser.end_tokens(before.source) == [2] and "ends" not in before.made_from
    folder = shutil.copytree(settings["llm"], tmp_path / "turns")
    transformers.GenerationConfig(eos_token_id=[2, 7]).save_pretrained(folder)
    stage = stage_of(titled, settings | {"llm": str(folder)})
    assert summariser.end_tokens(stage.source) == [2, 7] and stage.made_from["ends"] == [7]
    (folder / "generation_config.json").unlink()
    source = stage_of(titled, settings | {"llm": str(folder)}).source
    assert summariser.end_tokens(source) == [2] and summariser.made_otherwise(source) == {}
    (folder / "generation_config.json").write_text('{"num_return_sequences": 3}')
    with pytest.raises(ValueError, match=r"llm: \[.*turns\] has a generation_config.json that"):
        summariser.end_tokens(source)


def test_a_model_that_could_think_aloud_writes_at_once(titled, settings, tmp_path):
    folder = shutil.copytree(settings["llm"], tmp_path / "thinks")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = "user {{ messages[0]['content'] }} response"
    closed = "{% if enable_thinking is defined and not enable_thinking %} : {% endif %}"
    for template, made in ((words, {}), (words + closed, {"thinking": False})):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        source = stage_of(titled, settings | {"llm": str(folder)}).source
        assert summariser.made_otherwise(source) == made
        after = " response :" if made else " response"
        assert summariser._frame(source)[1] == tokens_of(tokenizer, after)


WRONG = [
    ({"item_text": None}, "summarises what a user had in words.*item_text names no column"),
    ({"rerank_control": "shuffled"}, "rerank_control: .shuffled.*prompt of its own"),
    ({"trsr_control": "shuffled", "trsr_summary": "none"}, "trsr_control: .*makes none"),
    ({"trsr_instruction": "word " * 300}, "the prompt: its words and candidates"),
    ({"llm": "no/such"}, "llm: .*no/such"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_cannot_serve_is_refused_before_any_training(changes, message, titled, settings):
    with pytest.raises((ValueError, OSError), match=message):
        Experiment(titled, settings | changes)


def test_an_encoder_cannot_write(titled, settings, language_model_folder):
    bert = {"llm": language_model_folder("bert")}
    with pytest.raises(ValueError, match="llm: .*encoder.*cannot write.*smollm2"):
        Experiment(titled, settings | bert)
    summarizer = {"trsr_summarizer": language_model_folder("bert")}
    with pytest.raises(ValueError, match="trsr_summarizer: .*encoder"):
        run_experiment(MODEL, titled, config_dict=settings | summarizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trsr_summary_tokens": 256}, "trsr_summary_tokens: .256. tokens leave no room"),
        ({"trsr_merge_instruction": "word " * 300}, "trsr_merge_instruction: .*context"),
    ],
)
def test_summaries_that_do_not_fit_are_refused_before_the_backbone(
    changes, message, titled, settings
):
    with pytest.raises(ValueError, match=message):
        run_experiment(MODEL, titled, config_dict=settings | changes)
    assert not Path("saved/tslrec").exists()


def test_a_command_prints_history_blocks_and_summaries(titled, settings, monkeypatch, capsys):
    def printed(*more: str) -> str:
        keys = [f"--{key}={value!r}" for key, value in settings.items()]
        words = ["summaries", f"--dataset={titled}", "--users=u3,u1", *more, *keys]
        monkeypatch.setattr(sys, "argv", ["recbole_tslrec", *words])
        main()
        return capsys.readouterr().out

    at_once = printed()
    assert not Path("saved/tslrec").exists()  # written for these two, and not kept
    stage = stage_of(titled, settings)
    lines = {(line["user"], line["target"]): line for line in stage.lines()}
    assert printed() == at_once
    assert at_once.index("User u3") < at_once.index("User u1")
    for user in ("u1", "u3"):
        assert f"Summary: {lines[user, 'test']['summary']}" in at_once
    with pytest.raises(SystemExit):
        printed("--model=SASRec")
    with pytest.raises(SystemExit):
        printed("--users=nobody")


def test_a_comparison_has_its_row_and_controls(titled, settings, monkeypatch, capsys):
    keys = [f"--{key}={value!r}" for key, value in settings.items()]
    rows = "Base,LLMTRSR,llmtrsr_retriever_order,llmtrsr_no_summary,llmtrsr_shuffled_summaries"
    words = ["compare", f"--dataset={titled}", f"--variants={rows}", "--seeds=1", *keys]
    monkeypatch.setattr(sys, "argv", ["recbole_tslrec", *words])
    main()
    printed = capsys.readouterr().out
    for row in rows.split(",")[1:]:
        assert row in printed
    stages = [folder.name.partition("-")[0] for folder in Path("saved/tslrec/small").iterdir()]
    assert stages.count("summaries") == 1 and stages.count("llmtrsr_sasrec") == 2
