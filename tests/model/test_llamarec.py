"""LlamaRec: prompts, letters, losses, examples, and the whole of it in RecBole."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from support.letter_models import save_letter_model
from support.texts import write_titles_of_two_words

from recbole_tslrec.data.histories import latest_rows, training_histories
from recbole_tslrec.evaluation.candidates import top_items
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.recbole_bridge import passes
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.candidates import CandidatesStage

KINDS = ["llama", "gpt2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {kind: save_letter_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}
    return made.__getitem__


@pytest.fixture
def titled(small_data):
    write_titles_of_two_words("Ab", "Cd")
    return small_data


@pytest.fixture
def settings(settings, folder):
    return settings | {
        "llm": folder("gpt2"),
        "item_text": "title",
        "n_candidates": 5,
        "llamarec_instruction": "Pick one.",
        "llamarec_max_history": 20,
        "llamarec_items": "text",
        "llamarec_head": "letters",
        "sft_batch_positions": 2048,
        "sft_epochs": 1,
        "max_examples_per_user": 2,
    }


class Experiment:
    """What run_recbole makes, part by part."""

    def __init__(self, dataset: str, settings: dict, model: str = "LlamaRec_SASRec"):
        self.config = Config(model, dataset, config_dict=settings)
        init_seed(self.config["seed"], self.config["reproducibility"])
        self.dataset = create_dataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, self.dataset)
        self.model = get_model(model)(self.config, self.train._dataset)
        self.trainer = get_trainer(self.config["MODEL_TYPE"], model)(self.config, self.model)
        self.rows = self.test._dataset.inter_feat

    def fit(self):
        self.trainer.fit(self.train, self.valid)
        return self

    def title(self, item: int) -> str:
        number = int(self.dataset.id2token("item_id", item)[1:])
        return f"{'Ab' if number < 15 else 'Cd'} n{number}"

    def history(self, rows, row: int) -> list[int]:
        return rows["item_id_list"][row, : rows["item_length"][row]].tolist()


def text_of(experiment, history: list[int], candidates: list[int]) -> str:
    """The prompt as one would write it down."""
    had = "\n".join(f"({n}) {experiment.title(item)}" for n, item in enumerate(history, 1))
    pool = "\n".join(
        f"({letter}) {experiment.title(item)}"
        for letter, item in zip("ABCDE", candidates, strict=False)
    )
    return f"Pick one.\n\nHistory:\n{had}\n\nCandidates:\n{pool}\n\nAnswer:\n"


def whole_model(settings: dict):
    return transformers.AutoModelForCausalLM.from_pretrained(settings["llm"]).eval()


def letters_of(settings: dict) -> list[int]:
    """The ids of A to E behind the prompt, by the tokenizer's own reading of the two together."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["llm"])
    before = tokenizer("x\n")["input_ids"]
    found = [tokenizer(f"x\n{letter}")["input_ids"] for letter in "ABCDE"]
    assert all(row[:-1] == before for row in found)
    return [row[-1] for row in found]


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_and_its_letters_in_context(kind, titled, settings, folder):
    settings |= {"llm": folder(kind), "llamarec_max_history": 3}
    experiment = Experiment(titled, settings)
    model = experiment.model
    history, candidates = [4, 9, 2, 30], [7, 1, 12]
    batch = model.template.batch(
        {"history": [np.array(history)], "candidates": [np.array(candidates)]}
    )
    tokens = [
        *batch.get("prefix_ids", torch.tensor([])).int().tolist(),
        *batch["token_ids"][0].tolist(),
    ]
    tokenizer = model.source.tokenizer
    read = tokenizer.decode(tokens, skip_special_tokens=True).replace("▁", " ")
    written = text_of(experiment, history[1:], candidates)
    if kind == "llama":  # each part of the prompt begins with the start of a word
        assert read.replace(" ", "") == written.replace(" ", "")
        assert tokens[0] == tokenizer.bos_token_id
    else:
        assert read == written and tokens == tokenizer(written)["input_ids"]
    assert list(model.answers.tokens) == letters_of(settings)
    # The letters in the pool are those that are answered; by itself, a letter may be another token.
    assert all(token in tokens for token in model.answers.tokens[:3])
    alone = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in "ABC"]
    assert (alone == [[token] for token in model.answers.tokens[:3]]) == (kind == "gpt2")


def test_logits_that_are_not_the_models_own_are_refused(titled, settings, tmp_path):
    """Between a ModernBERT decoder's states and its head there is a layer more."""
    source = Path(settings["llm"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    config = transformers.ModernBertDecoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        **dict.fromkeys((f"{name}_token_id" for name in ("pad", "eos", "bos", "cls", "sep")), 0),
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="a modernbert-decoder, makes its logits in a way"):
        Experiment(titled, settings | {"llm": str(tmp_path / "other")})


@pytest.mark.parametrize("shared", [True, False])
def test_scores_are_the_whole_models_logits_at_the_letters(shared, titled, settings, monkeypatch):
    """GPT-2's tokens are those of the prompt in one piece: transformers' own model can be asked."""
    monkeypatch.setattr("recbole_tslrec.recbole_bridge.passes.bf16_is_fast", lambda device: False)
    if not shared:
        monkeypatch.setattr(
            "recbole_tslrec.language_model.shared_prefix.can_share_prefix", lambda model: False
        )
    experiment = Experiment(titled, settings)
    model, rows = experiment.model.eval(), experiment.rows
    assert model.template.shared_prefix == shared
    plain = whole_model(settings)
    monkeypatch.setattr(passes, "POSITIONS_A_PASS", 300)  # in parts, by length
    with torch.no_grad():
        retrieved = model.retriever.full_sort_predict(rows)
        candidates = top_items(retrieved, 5)
        found = model.rerank(rows, candidates)
        for row in range(len(rows)):
            prompt = text_of(experiment, experiment.history(rows, row), candidates[row].tolist())
            tokens = model.source.tokenizer(prompt, return_tensors="pt")
            logits = plain(**tokens).logits[0, -1, letters_of(settings)]
            torch.testing.assert_close(found[row], logits, rtol=1e-4, atol=1e-4)
            best = candidates[row][logits.argsort(descending=True)]
            assert model.full_sort_predict(rows)[row].topk(5).indices.tolist() == best.tolist()
            if row == 5:
                break


@pytest.mark.parametrize("loss", ["letters", "vocabulary"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_papers(kind, loss, titled, settings, folder, monkeypatch):
    """Against transformers' own model on the same embeddings, an example at a time."""
    settings |= {"llm": folder(kind), "llamarec_loss": loss}
    experiment = Experiment(titled, settings)
    model = experiment.model.eval()
    task = model.task(experiment.train._dataset)
    examples = [task.examples[number] for number in range(6)]
    found = model.ranker(**task.collate(examples))["error"]
    plain, end = whole_model(settings), model.source.tokenizer.eos_token_id
    letters = letters_of(settings)
    for (history, candidates, place), error in zip(examples, found, strict=True):
        values = {"history": [history], "candidates": [candidates]}
        batch = model.template.batch(values)
        prompt = torch.cat([batch["prefix_ids"], batch["token_ids"][0]])
        answered = torch.cat([prompt, torch.tensor([letters[place]])])[None]
        with torch.no_grad():
            logits = plain(answered).logits[0]
        if loss == "letters":
            expected = -logits[-2, letters].log_softmax(0)[place]
        else:
            by_letter = -logits[-2].log_softmax(0)[letters[place]]
            expected = (by_letter - logits[-1].log_softmax(0)[end]) / 2
        torch.testing.assert_close(error, expected, rtol=1e-4, atol=1e-4)


def test_places_without_a_candidate_are_not_chosen_among(titled, settings):
    experiment = Experiment(titled, settings)
    template, ranker = experiment.model.template, experiment.model.ranker.eval()
    values = {"history": [np.array([4])], "candidates": [np.array([7, 1])]}
    prompts = template.batch(values)
    logits = ranker.logits(**prompts)[0]
    given = {"place": torch.tensor([1]), "count": torch.tensor([2])}
    expected = -logits[:2].log_softmax(0)[1]
    torch.testing.assert_close(ranker(**given, **prompts)["error"][0], expected)


def test_examples_are_the_latest_rows_with_fresh_candidates(titled, settings):
    experiment = Experiment(titled, settings | {"MAX_ITEM_LIST_LENGTH": 3, "n_candidates": 8})
    dataset = experiment.train._dataset
    task, again = experiment.model.task(dataset), experiment.model.task(dataset)
    assert task.examples.content_hash() == again.examples.content_hash()
    histories, rows = training_histories(dataset), dataset.inter_feat
    expected = []
    for place, user in enumerate(histories.user_ids):
        own = histories[place].tolist()
        n_rows = int((rows["user_id"] == user).sum())
        expected += [(own[:end], own[end]) for end in range(len(own) - min(n_rows, 2), len(own))]
    found = [task.examples[number] for number in range(len(task.examples))]
    assert len(found) == len(expected)
    for (had, target), (history, candidates, place) in zip(expected, found, strict=True):
        assert history.tolist() == had[-3:] and candidates[place] == target
        others = {*candidates.tolist()} - {target}
        assert others.isdisjoint(had) and len(candidates) == 8
    assert len({place for _, _, place in found}) == 8
    other = Experiment(titled, settings | {"seed": 1, "n_candidates": 8}).model.task(dataset)
    assert other.examples.content_hash() != task.examples.content_hash()


@pytest.mark.parametrize("candidates", ["all", "unseen"])
def test_retrieved_negatives_are_the_backbones_first(candidates, titled, settings):
    changes = {"llamarec_negatives": "retrieved", "candidates": candidates}
    experiment = Experiment(titled, settings | changes).fit()
    names = [stage.name for stage in experiment.trainer.stages]
    assert names == ["backbone", "candidates", "llamarec_sasrec"]
    retrieved = experiment.trainer.pipeline.stage(CandidatesStage).row_candidates()
    task = experiment.model.task(experiment.train._dataset)
    users = experiment.train._dataset.inter_feat["user_id"]
    chosen = latest_rows(users.numpy(), 2)
    for number, row in enumerate(chosen):
        _, own, place = task.examples[number]
        target = own[place]
        best = [item for item in retrieved[row].tolist() if item not in (0, target)]
        assert sorted(own) == sorted([target, *best[:4]])


@pytest.mark.parametrize("items", ["text", "slots"])
def test_adapters_alone_are_trained(items, titled, settings):
    experiment = Experiment(titled, settings | {"llamarec_items": items})
    model = experiment.model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    experiment.fit()
    moved = {name for name, w in model.named_parameters() if not torch.equal(w, before[name])}
    moved = {name for name in moved if not name.startswith("retriever.")}
    kinds = {"lora_A", "lora_B"} | ({"linear_proj"} if items == "slots" else set())
    assert {next(kind for kind in kinds if kind in name) for name in moved} == kinds
    assert moved == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert hasattr(model.ranker.reader, "item_embeddings") == (items == "slots")


@pytest.mark.parametrize(
    ("kind", "message"), [("llama", "same token to two"), ("bert", r"llamarec_head: \[letters\]")]
)
def test_a_linear_layer_scores_for_encoders(kind, message, titled, settings, language_model_folder):
    """Slots stand for items, since the tokenizer knows a few words, and no letters."""
    changes = {
        "llm": language_model_folder(kind),
        "llamarec_head": "linear",
        "llamarec_items": "slots",
        "llm_pooling": "mean",
        "n_candidates": 3,
        "llamarec_max_history": 2,
    }
    experiment = Experiment(titled, settings | changes).fit()
    model = experiment.model
    assert model.template.shared_prefix == (kind == "llama")
    assert model.ranker.head.weight.shape == (3, 32)
    assert any(name == "ranker.head.weight" for name in model.state_dict())
    with pytest.raises(ValueError, match=message):
        Experiment(titled, settings | changes | {"llamarec_head": "letters"})


def test_it_can_learn_some_examples_by_heart(titled, settings):
    changes = {"llamarec_head": "linear", "lora_r": 8, "lora_dropout": 0.0}
    experiment = Experiment(titled, settings | changes)
    model, task = experiment.model, experiment.model.task(experiment.train._dataset)
    batch = task.collate([task.examples[number] for number in range(4)])
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(30):
        losses.append(model.ranker(**batch)["error"].mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    # Of the last steps the best: with bfloat16 products, where a CPU has them, single steps go wrong.
    assert min(losses[-5:]) < 0.75 * losses[0]


def test_a_checkpoint_holds_no_base_weights_and_gives_the_same_scores(titled, settings):
    experiment = Experiment(titled, settings | {"llamarec_items": "slots"}).fit()
    state = torch.load(experiment.trainer.saved_model_file, weights_only=True)["state_dict"]
    assert not [name for name in state if "base_layer" in name or "wte" in name]
    kept = {name.split(".")[0] for name in state}
    assert kept == {"_extra_state", "retriever", "ranker"}
    experiment.model.load_state_dict(state)
    other = Experiment(titled, settings | {"llamarec_items": "slots", "seed": 7}).model
    other.load_state_dict(state)
    scores = experiment.model.eval().full_sort_predict(experiment.rows)
    assert torch.equal(other.eval().full_sort_predict(experiment.rows), scores)
    assert torch.equal(copy.deepcopy(other).full_sort_predict(experiment.rows), scores)


def test_controls_share_what_is_trained(titled, settings):
    """They act in the test alone: the trained stage is reused, and so is its choice of the epoch."""
    first = run_experiment("LlamaRec_SASRec", titled, config_dict=settings)
    for control in ("retriever", "shuffled"):
        changes = {"rerank_control": control}
        again = run_experiment("LlamaRec_SASRec", titled, config_dict=settings | changes)
        assert [stage.reused for stage in again.stages] == [True, True]
        assert again.best_valid_result == first.best_valid_result
    base = {"train_neg_sample_args": None}
    alone = run_experiment("SASRec", titled, config_dict=settings | base)
    passed = run_experiment(
        "LlamaRec_SASRec", titled, config_dict=settings | {"rerank_control": "retriever"}
    )
    assert passed.test_result == alone.test_result


def test_a_comparison_says_which_candidates_its_figures_are_of(titled, settings):
    rows = ("Base", "LlamaRec", "llamarec_retriever_order", "llamarec_shuffled")
    comparison = compare(Grid((titled,), variants=rows, settings=settings), Path("results"))
    base, _, passed, shuffled = comparison.lines
    assert passed["test"] == base["test"]  # under both protocols, its own candidates
    assert shuffled["reused_stages"] == ["backbone", "llamarec_sasrec"]
    tables = comparison.tables()
    assert tables.count("| LlamaRec_SASRec, candidates: all ") == 1
    assert tables.count("| LlamaRec_SASRec, candidates: unseen ") == 1
    assert "llamarec_shuffled, candidates: unseen" in tables


WRONG = [
    ({"item_text": None}, "llamarec_items=text: reads the items' texts"),
    ({"n_candidates": 27}, r"n_candidates: \[27\] are more than the 26 letters"),
    ({"llamarec_loss": "vocabulary", "llamarec_head": "linear"}, "llamarec_loss: .*is none"),
    ({"llamarec_instruction": "word " * 600}, "the prompt: its words and candidates"),
    ({"llm": "no/such"}, "llm: .*no/such"),
    ({"lora_target_modules": ["none_of_these"]}, "lora_target_modules"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_cannot_serve_is_refused_before_any_training(changes, message, titled, settings):
    with pytest.raises((ValueError, OSError), match=message):
        Experiment(titled, settings | changes)


def test_a_tokenizer_without_an_end_cannot_learn_one(titled, settings, folder, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    model.save_pretrained(tmp_path / "endless")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("gpt2"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    changes = {"llm": str(tmp_path / "endless"), "llamarec_loss": "vocabulary"}
    with pytest.raises(ValueError, match=r"llamarec_loss: \[vocabulary\].*no token for it"):
        Experiment(titled, settings | changes)
