"""DELRec: its two tasks, the weights of their losses, verbalizers, what each stage trains, runs."""

from functools import partial
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
from recbole.utils import get_model, init_seed
from support.letter_models import gpt_like_tokenizer, save_letter_model
from support.stages import pipeline_of
from support.texts import write_titles_of_two_words

from recbole_tslrec.evaluation.candidates import scores, top_items
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.language_model import memory
from recbole_tslrec.language_model.prompts.ragged import Ragged
from recbole_tslrec.language_model.prompts.segments import Items, TokenTable, Words, tokens_of
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.readout import Head, States
from recbole_tslrec.language_model.source import open_source
from recbole_tslrec.language_model.trie import Trie, log_likelihoods
from recbole_tslrec.language_model.verbalizer import LAST_WORDS
from recbole_tslrec.paradigms.delrec import examples as delrec_examples
from recbole_tslrec.paradigms.delrec import stages as delrec_stages
from recbole_tslrec.paradigms.delrec import verbalizers
from recbole_tslrec.paradigms.delrec.examples import Pair, analysis_values, pattern_values
from recbole_tslrec.paradigms.delrec.imitated import best_behind_histories
from recbole_tslrec.paradigms.delrec.prompts import Prompts, check_prompts, make_prompts
from recbole_tslrec.paradigms.delrec.ranker import Imitation, gradient_weights
from recbole_tslrec.paradigms.delrec.stages import SoftPromptsStage
from recbole_tslrec.paradigms.delrec.verbalizers import Titles
from recbole_tslrec.recbole_bridge.candidate_examples import values_of
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.trained_backbone import trained_backbone

MODEL = "DELRec_SASRec"


def save_t5(folder) -> str:
    """A T5 of random weights whose tokenizer knows letters."""
    torch.manual_seed(0)
    tokenizer = gpt_like_tokenizer()
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        dropout_rate=0,
        decoder_start_token_id=0,
        tie_word_embeddings=True,
    )
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {
        kind: save_letter_model(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2")
    }
    made["t5"] = save_t5(tmp_path_factory.mktemp("t5"))
    return made.__getitem__


@pytest.fixture
def titled(small_data):
    write_titles_of_two_words("Nail", "C")
    return small_data


@pytest.fixture
def settings(settings, folder):
    return settings | {
        "llm": folder("gpt2"),
        "item_text": "title",
        "delrec_items": "text",
        "sft_batch_positions": 2048,
        "sft_epochs": 1,
        "max_examples_per_user": 1,
    }


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """In fp32, so that what is computed in two ways is comparable."""
    monkeypatch.setattr("recbole_tslrec.recbole_bridge.passes.bf16_is_fast", lambda device: False)


# ---- the two tasks --------------------------------------------------------------------------------


def pair_of(items: list[int], best: tuple[int, ...] = ()) -> Pair:
    choice = (np.array([items[-2], 99]), 0)
    return Pair(np.array(items), np.array(best), choice, choice)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([1, 2, 3], ([], [], [], [1], [3])),
        ([1, 2, 3, 4, 5], ([], [], [], [1, 2, 3], [5])),
        ([1, 2, 3, 4, 5, 6], ([1, 2], [3], [4], [4], [6])),
        ([1, 2, 3, 4, 5, 6, 7, 8], ([1, 2], [3], [4], [4, 5, 6], [8])),
    ],
)
def test_temporal_analysis_leaves_out_the_last_item_but_one(items, expected):
    values = analysis_values([pair_of(items)])
    names = ("beginning", "answered", "following", "history", "next")
    assert tuple(values[name][0].tolist() for name in names) == expected


def test_pattern_simulating_tells_all_places_but_the_first():
    values = pattern_values([pair_of([1, 2, 3], best=(7, 8, 9))])
    assert values["places"][0].tolist() == [8, 9] and values["history"][0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("unseen", [False, True])
def test_the_backbone_predicts_what_it_was_not_trained_on(unseen, titled, settings):
    """RecBole's own validation rows have the whole training histories."""
    pipeline = pipeline_of(settings | {"MAX_ITEM_LIST_LENGTH": 4}, titled)
    model, histories = trained_backbone(pipeline), pipeline.histories
    found = best_behind_histories(model, pipeline.dataset, histories, 3, unseen)
    rows = pipeline.valid_data._dataset.inter_feat
    for row, user in enumerate(rows["user_id"].tolist()):
        place = int(np.searchsorted(histories.user_ids, user))
        had = torch.from_numpy(histories[place])[None] if unseen else None
        expected = top_items(scores(model, rows[torch.tensor([row])]), 3, had)
        assert found[place].tolist() == expected[0].tolist()


def test_examples_hold_what_is_asked_and_nothing_twice(titled, settings):
    examples = pipeline_of(settings, titled, MODEL).stage(SoftPromptsStage).examples()
    for number in range(len(examples)):
        pair = examples[number]
        (missing, place), (simulated, first) = pair.analysis, pair.pattern
        assert missing[place] == pair.history[-2] and simulated[first] == pair.best[0]
        assert set(pair.best) <= set(simulated) and len(simulated) == 5
        wrong = set(np.delete(missing, place)) | (set(simulated) - set(pair.best))
        assert not wrong & {*pair.history}


# ---- the weights ----------------------------------------------------------------------------------

gradients = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), min_size=2, max_size=4
)


@given(gradients)
def test_weights_are_inverse_roots_of_gradient_norms(rows):
    found = gradient_weights(torch.tensor(rows)).tolist()
    norms = [sum(value**2 for value in row) ** 0.5 for row in rows]
    if min(norms) < 1e-15:  # its square is none in fp32
        return
    powers = [norm**-0.5 for norm in norms]
    assert found == pytest.approx([power / sum(powers) for power in powers], rel=1e-4)


def test_a_task_without_gradient_takes_no_weight_from_the_other():
    assert gradient_weights(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@pytest.mark.parametrize("verbalizer", ["letters", "title"])
def test_stage_1_reaches_the_vectors_alone_with_the_weighted_gradient(
    kind, verbalizer, titled, settings, folder
):
    settings |= {"llm": folder(kind), "delrec_verbalizer": verbalizer}
    stage = pipeline_of(settings, titled, MODEL).stage(SoftPromptsStage)
    examples = stage.examples()
    ranker, task = stage.ranker_and_task(examples)
    learner = Imitation(ranker).eval()  # without dropout
    batch = task.collate([examples[number] for number in range(4)])
    learner(**batch)["error"].sum().backward()
    reached = {name for name, weight in learner.named_parameters() if weight.grad is not None}
    trained = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    assert reached == trained == {"soft_vectors"}
    found, norms = [], []
    for prefix in ("analysis_", "pattern_"):
        own = {n.removeprefix(prefix): t for n, t in batch.items() if n.startswith(prefix)}
        place, count = own.pop("place"), own.pop("count")
        vectors = ranker.reader.soft_vectors.clone().requires_grad_()
        given_scores = ranker.scores(own, vectors)
        loss = sum(
            -row[:n].log_softmax(0)[right]
            for row, n, right in zip(given_scores, count, place, strict=True)
        )
        (gradient,) = torch.autograd.grad(loss, vectors)
        found.append(gradient)
        norms.append(gradient.norm())
    weights = [norm**-0.5 / sum(other**-0.5 for other in norms) for norm in norms]
    expected = sum(weight * gradient for weight, gradient in zip(weights, found, strict=True))
    torch.testing.assert_close(learner.soft_vectors.grad, expected, rtol=1e-4, atol=1e-6)


# ---- verbalizers ----------------------------------------------------------------------------------


class Experiment:
    """A model of random vectors, before its tuning, and two prompts."""

    def __init__(self, dataset, settings):
        self.config = Config(MODEL, dataset, config_dict=settings)
        init_seed(self.config["seed"], True)
        self.train, _, _ = data_preparation(self.config, create_dataset(self.config))
        self.model = get_model(MODEL)(self.config, self.train._dataset).eval()
        self.candidates = [np.array([4, 9, 2, 30, 7]), np.array([1, 12, 25])]
        histories = [np.array([3, 8, 5]), np.array([6])]
        self.values = values_of(
            [(had, own, 0) for had, own in zip(histories, self.candidates, strict=True)]
        )

    def scores(self):
        with torch.no_grad():
            ranker = self.model.ranker
            return ranker.scores(ranker.verbalizer.batch(self.model.template, self.values))

    def prompt(self, number: int) -> torch.Tensor:
        """What one prompt is for the language model. [1, T, H]"""
        one = {name: [own[number]] for name, own in self.values.items()}
        batch = self.model.template.batch(one)
        reader = self.model.ranker.reader
        parts = []
        if "prefix_ids" in batch:
            parts.append(reader.embed(batch["prefix_ids"], None, batch["prefix_soft_rows"]))
        parts.append(reader.embed(batch["token_ids"], None, batch["soft_rows"])[0])
        return torch.cat(parts)[None]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_titles_have_the_whole_models_mean_log_likelihood(kind, titled, settings, folder):
    experiment = Experiment(titled, settings | {"llm": folder(kind), "delrec_verbalizer": "title"})
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder(kind)).eval()
    words, found = whole.get_input_embeddings(), experiment.scores()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(kind))
    dataset = experiment.train._dataset
    for number, items in enumerate(experiment.candidates):
        prompt = experiment.prompt(number)
        for place, item in enumerate(items):
            name = dataset.id2token("item_id", int(item))
            title = f"{'Nail' if int(name[1:]) < 15 else 'C'} n{name[1:]}"
            front = len(tokenizer(LAST_WORDS, add_special_tokens=False)["input_ids"])
            # As the title is written behind these words: a Llama's has a blank before it elsewhere.
            tokens = tokenizer(LAST_WORDS + title, add_special_tokens=False)["input_ids"][front:]
            read = torch.cat([prompt, words(torch.tensor([tokens]))], dim=1)
            steps = whole(inputs_embeds=read).logits[0, -len(tokens) - 1 : -1].log_softmax(dim=1)
            expected = steps[range(len(tokens)), tokens].mean()
            torch.testing.assert_close(found[number, place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_items_of_equal_titles_have_equal_scores(kind, titled, settings, folder):
    """Or the last digits of their sums would order them, and not the retriever."""
    settings = settings | {"llm": folder(kind), "delrec_verbalizer": "title"}
    experiment = Experiment(titled, settings)
    verbalizer = experiment.model.ranker.verbalizer
    texts = [
        verbalizer.titles.tokens[start:][:length] for start, length in spans(verbalizer.titles)
    ]
    texts[9] = texts[30] = texts[4]
    rows = Ragged.of(texts)
    verbalizer.titles = TokenTable(rows.flat, rows.counts)
    found = experiment.scores()
    assert found[0, 0] == found[0, 1] == found[0, 3] != found[0, 2]


def spans(titles: TokenTable) -> list[tuple[int, int]]:
    return list(zip(titles.starts.tolist(), titles.lengths.tolist(), strict=True))


def test_a_title_is_alike_to_one_of_its_own_prompt_alone():
    titles = TokenTable.of(gpt_like_tokenizer(), ["", "a", "b", "a", "a b"])
    found = titles.first_alike([np.array([1, 2, 3]), np.array([3, 4, 1]), np.array([4])])
    assert found.tolist() == [0, 1, 0, 3, 4, 3, 6]


def test_of_the_head_one_copy_is_kept_for_all_pieces_of_a_batch(monkeypatch):
    head = Head(torch.randn(100, 16, dtype=torch.bfloat16))
    monkeypatch.setattr(verbalizers, "head_of", lambda model: head)
    monkeypatch.setattr(verbalizers, "_LOGITS_AT_ONCE", 3 * 100 * 8)  # eight of the forty titles
    kept = []

    def keep(tensor):
        if sorted(tensor.shape) == [16, 100]:
            kept.append(tensor)  # so that none takes the place of another in memory
        return tensor

    before = torch.randn(40, 3, 16, requires_grad=True)
    tokens = torch.randint(0, 100, (40, 3))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        verbalizers._mean_log_likelihoods(None, before, tokens, torch.ones_like(tokens))
    assert len(kept) == 5
    assert len({tensor.data_ptr() for tensor in kept}) == 1


def test_titles_do_not_run_together_where_a_tokenizer_drops_line_ends(language_model_folder):
    source = open_source(language_model_folder("llama"))
    assert tokens_of(source.tokenizer, "\n") == ()
    texts = TokenTable.of(source.tokenizer, ["", "0", "1", "2"])
    prompts = make_prompts(source, "predict", "SASRec", texts, 2, 3, 1)
    shown = [part for part in prompts.pattern.segments if isinstance(part, Items)]
    assert all(part.separator == tokens_of(source.tokenizer, "; ") for part in shown)


def test_a_t5_reads_more_than_its_tokenizer_says(tmp_path):
    """Its positions are relative; the paper's prompts of DELRec are twice as long as its training's."""
    folder = save_t5(tmp_path)
    tokenizer = gpt_like_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    assert open_source(folder, kinds=("encoder-decoder",)).context_length > 10_000


@torch.no_grad()
def test_titles_of_a_t5_have_the_likelihoods_of_a_trie(titled, settings, folder):
    experiment = Experiment(titled, settings | {"llm": folder("t5"), "delrec_verbalizer": "title"})
    found, ranker = experiment.scores(), experiment.model.ranker
    model, titles = ranker.reader.language_model, ranker.verbalizer.titles
    for number, items in enumerate(experiment.candidates):
        prompt = experiment.prompt(number)
        hidden = model.get_encoder()(inputs_embeds=prompt).last_hidden_state
        ends = np.cumsum(titles.lengths)
        codes = [titles.tokens[ends[item] - titles.lengths[item] : ends[item]] for item in items]
        codes = [[*code, 0] for code in codes]  # an end, as a trie wants; its share is taken off
        width = max(map(len, codes))
        padded = np.array([[*code, *[-1] * (width - len(code))] for code in codes])
        states = States(hidden, torch.ones(hidden.shape[:2], dtype=torch.int64))
        with_end = log_likelihoods(model, states, Trie(padded))[0]
        for place, code in enumerate(codes):
            written = model(
                encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([[0, *code[:-1]]])
            )
            end = written.logits[0, -1].log_softmax(dim=0)[0]
            expected = (with_end[place] - end) / (len(code) - 1)
            torch.testing.assert_close(found[number, place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@torch.no_grad()
def test_letters_have_the_whole_models_logits(kind, titled, settings, folder):
    experiment = Experiment(titled, settings | {"llm": folder(kind)})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder(kind))
    letters = [tokenizer(letter)["input_ids"][0] for letter in "ABCDE"]
    found = experiment.scores()
    for number in range(2):
        prompt = experiment.prompt(number)
        if kind == "t5":
            whole = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder(kind)).eval()
            logits = whole(inputs_embeds=prompt, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        else:
            whole = transformers.AutoModelForCausalLM.from_pretrained(folder(kind)).eval()
            logits = whole(inputs_embeds=prompt).logits[0, -1]
        torch.testing.assert_close(found[number], logits[letters], rtol=1e-4, atol=1e-4)


# ---- whole runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("t5", {}), ("llama", {"delrec_items": "slots"})],
)
def test_the_vectors_stay_while_the_adapters_are_trained(kind, changes, titled, settings, folder):
    settings |= {"llm": folder(kind)} | changes
    run = run_experiment(MODEL, titled, config_dict=settings)
    model = run.trainer.model
    stage = pipeline_of(settings, titled, MODEL).stage(SoftPromptsStage)
    kept = delrec_stages.load_file(stage.stored.folder / delrec_stages._FILE)
    assert torch.equal(model.ranker.reader.soft_vectors, kept["soft_vectors"])
    start = get_model(MODEL)(run.trainer.config, stage.pipeline.dataset).ranker.reader.soft_vectors
    assert not torch.equal(start, kept["soft_vectors"])
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name or "linear_proj" in name for name in trained)
    assert [stage.name for stage in run.stages] == ["backbone", "soft_prompts", MODEL.lower()]
    assert 0 <= run.test_result["ndcg@10"] <= 1


def test_a_comparison_shows_what_the_first_stage_adds(titled, settings):
    rows = ("Base", "DELRec", "delrec_random_prompts", "delrec_retriever_order")
    settings |= {"delrec_verbalizer": "title"}
    comparison = compare(Grid((titled,), variants=rows, settings=settings), Path("results"))
    base, _, without, passed = comparison.lines
    assert passed["test"] == base["test"]
    assert passed["reused_stages"] == ["backbone", "soft_prompts", "delrec_sasrec"]
    assert without["reused_stages"] == ["backbone"]
    assert "DELRec_SASRec, delrec_random_prompts" in comparison.tables()


def test_an_interrupted_first_stage_goes_on_to_the_same_vectors(titled, settings, monkeypatch):
    from recbole_tslrec.language_model import training

    settings |= {"delrec_soft_epochs": 2, "sft_batch_positions": 4096}
    whole = pipeline_of(settings | {"tslrec_dir": "whole"}, titled, MODEL).stage(SoftPromptsStage)
    expected = delrec_stages.load_file(whole.stored.folder / delrec_stages._FILE)

    def stop(self, *args, **kwargs):  # the first epoch's checkpoint is written
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(training._Watch, "on_save", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline_of(settings, titled, MODEL).stage(SoftPromptsStage).stored  # noqa: B018
    stage = pipeline_of(settings, titled, MODEL).stage(SoftPromptsStage)
    found = delrec_stages.load_file(stage.stored.folder / delrec_stages._FILE)
    assert torch.equal(found["soft_vectors"], expected["soft_vectors"])


def test_vectors_that_are_kept_need_no_memory_for_a_second_model(titled, settings, monkeypatch):
    pipeline_of(settings, titled, MODEL).stage(SoftPromptsStage).stored  # noqa: B018
    # The recommender is loaded by then, and little is left beside it.
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    pipeline_of(settings, titled, MODEL).check([SoftPromptsStage])
    with pytest.raises(ValueError, match="^llm: the weights of .* are free"):
        pipeline_of(settings | {"seed": 1}, titled, MODEL).check([SoftPromptsStage])


def test_vectors_are_the_same_where_activations_are_computed_again(titled, settings):
    settings |= {"delrec_verbalizer": "title"}
    found = []
    for changes in ({}, {"llm_gradient_checkpointing": True, "tslrec_dir": "again"}):
        stage = pipeline_of(settings | changes, titled, MODEL).stage(SoftPromptsStage)
        found.append(delrec_stages.load_file(stage.stored.folder / delrec_stages._FILE))
    torch.testing.assert_close(found[1]["soft_vectors"], found[0]["soft_vectors"])


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"delrec_verbalizer": "title", "delrec_items": "slots"},
            "delrec_verbalizer: .title. scores",
        ),
        ({"n_candidates": 27}, "n_candidates: .27. are more than the 26 letters"),
        ({"delrec_predictions": 6}, "delrec_predictions: .6. are to be among"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message, titled, settings):
    with pytest.raises(ValueError, match=message):
        Config(MODEL, titled, config_dict=settings | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_text": None}, "item_text"),
        (
            {"delrec_soft_vectors": 600},
            "the prompt: its words .* fewer candidates or learned vectors",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(changes, message, titled, settings):
    with pytest.raises(ValueError, match=message):
        Experiment(titled, settings | changes)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.0, "of 3 items or more, and the data have none. Set delrec_soft_prompts"),
        (0.5, "the share .0.5. of the users, sft_users, has none. Set sft_users to more"),
    ],
)
def test_histories_that_are_too_short_are_refused_before_any_training(
    share, message, titled, settings, monkeypatch
):
    monkeypatch.setattr(delrec_examples, "SHORTEST", 1_000)
    message = message.replace("3 items", "1000 items")
    with pytest.raises(ValueError, match=message):
        run_experiment(MODEL, titled, config_dict=settings | {"sft_users": share})
    assert not list(Path("saved/tslrec").glob("**/manifest.json"))


def test_a_prompt_must_leave_room_for_the_title_behind_it():
    titles = TokenTable(np.arange(1, 241), np.array([0] + [8] * 30))
    segments = (
        Words((1,) * 10),
        Items("history", texts=titles, most=5),
        Items("candidates", texts=titles, candidates=True),
        Words((2, 2)),
    )
    words = SimpleNamespace(num_embeddings=1000)
    source = SimpleNamespace(
        kind="causal", shape=SimpleNamespace(get_input_embeddings=lambda: words)
    )
    values = {"history": [np.array([1, 2])], "candidates": [np.arange(3, 8)]}
    needed = 10 + 8 + 5 * 8 + 2  # with one item of the history
    for context, fits in ((needed + 7, False), (needed + 8, True)):
        template = Template(segments, context)
        prompts = Prompts(template, template, template)
        check_prompts(source, prompts, 5)  # letters take no room
        batch = partial(Titles(titles, 5, writes=False).batch, template, values)
        for refuses in (partial(check_prompts, source, prompts, 5, titles), batch):
            if fits:
                refuses()
                continue
            with pytest.raises(ValueError, match=f"take {needed + 8} positions"):
                refuses()


def test_a_model_that_needs_a_cache_does_not_compute_activations_again(
    titled, settings, monkeypatch
):
    settings |= {"delrec_verbalizer": "title", "llm_gradient_checkpointing": True}
    Experiment(titled, settings)
    monkeypatch.setattr("recbole_tslrec.language_model.encoder.packs", lambda model: False)
    with pytest.raises(ValueError, match="delrec_verbalizer: .title. .* from a cache alone"):
        Experiment(titled, settings)


def test_logits_that_are_not_the_models_own_are_refused(titled, settings, folder, tmp_path):
    """A BART adds a bias that is no part of its head."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("t5"))
    sizes = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, max_position_embeddings=512, **sizes
    )
    model = transformers.BartForConditionalGeneration(config)
    for bias, refused in ((0.0, False), (1.0, True)):
        model.final_logits_bias[:] = bias
        own = tmp_path / str(bias)
        model.save_pretrained(own)
        tokenizer.save_pretrained(own)
        changes = {"llm": str(own)}
        if not refused:
            Experiment(titled, settings | changes)
            continue
        with pytest.raises(ValueError, match="a bart, makes its logits in a way"):
            Experiment(titled, settings | changes)


def test_an_encoder_is_refused(titled, settings, language_model_folder):
    with pytest.raises(ValueError, match="llm: .*encoder"):
        Experiment(titled, settings | {"llm": language_model_folder("bert")})
