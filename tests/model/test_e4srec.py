import copy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_flops, get_model, get_trainer, init_seed

from recbole_tslrec.data.histories import latest_rows
from recbole_tslrec.paradigms.e4srec import model as e4srec
from recbole_tslrec.paradigms.e4srec.model import E4SRec
from recbole_tslrec.recbole_bridge.quick_start import run_experiment


class Experiment:
    """What run_recbole makes, part by part."""

    def __init__(self, dataset: str, settings: dict, model: str = "E4SRec"):
        self.config = Config(model, dataset, config_dict=settings)
        init_seed(self.config["seed"], self.config["reproducibility"])
        self.dataset = create_dataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, self.dataset)
        self.model = get_model(model)(self.config, self.train._dataset)
        self.trainer = get_trainer(self.config["MODEL_TYPE"], model)(self.config, self.model)

    def fit(self):
        self.trainer.fit(self.train, self.valid)
        return self

    def test_rows(self):
        return self.test._dataset.inter_feat

    def scores(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model.eval().full_sort_predict(self.test_rows())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_it_learns_and_ranks(kind, small_data, settings, language_model_folder):
    changes = {"llm": language_model_folder(kind), "sft_epochs": 5, "e4srec_learning_rate": 1e-3}
    experiment = Experiment(small_data, settings | changes | {"epochs": 5}).fit()
    losses = experiment.trainer.train_loss_dict
    assert list(losses) == [0, 1, 2, 3, 4]  # sft_epochs; the backbone's epochs are another matter
    # Items are of two tastes at random: knowing a user's is worth ln 15 against ln 31, a ratio of 0.79.
    assert losses[4] < 0.88 * losses[0]
    assert experiment.trainer.best_valid_result["ndcg@10"] == experiment.trainer.best_valid_score
    result = experiment.trainer.evaluate(experiment.test)
    assert result["hit@10"] > 0.5  # 10 of 15, with 10 of 30 for chance
    assert [stage.name for stage in experiment.trainer.stages] == ["backbone", "e4srec"]
    assert experiment.model.reader.item_embeddings[1:].pow(2).mean() == pytest.approx(1, rel=1e-4)


def test_the_loss_and_the_scores_are_the_papers(small_data, settings):
    model = (experiment := Experiment(small_data, settings).fit()).model.eval()
    rows = experiment.test_rows()[torch.arange(5)]
    words = model.source.tokenizer
    before = words(experiment.config["e4srec_instruction"])["input_ids"]
    after = words("Response:", add_special_tokens=False)["input_ids"]
    read = model.reader.language_model.get_input_embeddings()
    losses = []
    for row in range(5):
        length = rows["item_length"][row]
        items = rows["item_id_list"][row, :length]
        slots = model.reader.linear_proj(model.reader.item_embeddings[items])
        prompt = torch.cat([read(torch.tensor(before)), slots, read(torch.tensor(after))])
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            output = model.reader.language_model(inputs_embeds=prompt[None])
        scores = output.last_hidden_state[0, -1] @ model.item_scores.weight.T
        target = rows["item_id"][row]
        losses.append(-scores.log_softmax(0)[target].item())
        with torch.no_grad():
            found = model.full_sort_predict(rows)[row]
            torch.testing.assert_close(found, scores, rtol=0.05, atol=0.02)
            torch.testing.assert_close(model.predict(rows)[row], found[target])
    assert model.calculate_loss(rows).item() == pytest.approx(np.mean(losses), rel=0.01)


def test_nothing_else_is_trained_than_adapters_projection_and_scores(small_data, settings):
    model = (experiment := Experiment(small_data, settings)).model
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    experiment.fit()
    moved = {name for name, w in model.named_parameters() if not torch.equal(w, before[name])}
    kinds = {"lora_A", "lora_B", "linear_proj", "item_scores"}
    assert {next(kind for kind in kinds if kind in name) for name in moved} == kinds
    assert moved == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert model.item_scores.bias is None


def test_a_checkpoint_holds_no_base_weights_and_gives_the_same_scores(small_data, settings):
    experiment = Experiment(small_data, settings).fit()
    content = torch.load(experiment.trainer.saved_model_file, weights_only=True)
    state = content["state_dict"]
    assert not [name for name in state if "base_layer" in name or "embed_tokens" in name]
    size = sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
    trained = sum(
        weight.numel() for weight in experiment.model.parameters() if weight.requires_grad
    )
    assert size == trained + experiment.model.reader.item_embeddings.numel()
    other = Experiment(small_data, settings | {"seed": 7})
    rows = experiment.test_rows()
    experiment.model.load_state_dict(state)  # the last epoch need not be the best
    with torch.no_grad():
        scores = experiment.model.eval().full_sort_predict(rows)
        assert not torch.allclose(other.model.eval().full_sort_predict(rows), scores)
        other.model.load_state_dict(state)
        assert torch.equal(other.model.full_sort_predict(rows), scores)
    del state["item_scores.weight"]
    with pytest.raises(RuntimeError, match="Missing.*item_scores.weight"):
        other.model.load_state_dict(state)


def test_another_base_model_is_refused(small_data, settings, language_model_folder):
    state = Experiment(small_data, settings).model.state_dict()
    # Of the same shape, so that nothing but its identity tells it apart.
    other = Experiment(small_data, settings | {"llm": language_model_folder("qwen2")}).model
    with pytest.raises(ValueError, match="llm.*qwen2.*not the one"):
        other.load_state_dict(state)


def test_stock_run_recbole_then_load_in_a_fresh_process(small_data, settings, tmp_path):
    """RecBole's own run copies the model to count its operations, and tests its best epoch."""
    result = run_recbole(model="E4SRec", dataset=small_data, config_dict=settings)
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    code = """
        import sys, recbole_tslrec
        from recbole.quick_start import load_data_and_model
        from recbole.utils import get_trainer
        file, sys.argv = sys.argv[1], sys.argv[:1]
        config, model, _, _, _, test_data = load_data_and_model(file)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        print(dict(trainer.evaluate(test_data, load_best_model=False)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == str(dict(result["test_result"]))


def test_the_backbone_is_the_one_of_tslrec(small_data, settings):
    """One configuration serves both, and the second to come finds the first's backbone."""
    first = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    second = run_experiment("E4SRec", small_data, config_dict=settings)
    assert second.stages[0].reused and second.stages[0].folder == first.stages[0].folder
    assert not second.stages[1].reused


def test_a_backbone_of_another_width_is_refused(small_data, settings):
    wide = run_experiment(
        "SASRec", small_data, config_dict=settings | {"train_neg_sample_args": None}
    )
    changes = {"backbone_checkpoint": wide.checkpoint, "hidden_size": 32}
    with pytest.raises(ValueError, match="backbone_checkpoint.*64 columns.*32"):
        Experiment(small_data, settings | changes).fit()


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_it_trains_quantised(quantization, small_data, settings):
    changes = {"llm_quantization": quantization, "sft_epochs": 2, "e4srec_learning_rate": 0.01}
    experiment = Experiment(small_data, settings | changes).fit()
    losses = experiment.trainer.train_loss_dict
    assert losses[1] < losses[0]
    experiment.trainer.evaluate(experiment.test)  # loads the best epoch
    assert torch.equal(
        copy.deepcopy(experiment.model).item_scores.weight, experiment.model.item_scores.weight
    )
    _, model, *_ = load_data_and_model(experiment.trainer.saved_model_file)
    with torch.no_grad():
        scores = model.eval().full_sort_predict(experiment.test_rows())
    torch.testing.assert_close(scores, experiment.scores())


def test_counting_operations_leaves_int8_weights_as_they_are(
    small_data, settings, language_model_folder
):
    """RecBole runs a copy first. Of an encoder nothing else has run by then."""
    changes = {"llm": language_model_folder("distilbert"), "llm_quantization": "int8"}
    changes["lora_target_modules"] = ["q_lin", "v_lin"]
    expected = Experiment(small_data, settings | changes).scores()
    experiment = Experiment(small_data, settings | changes)
    transform = construct_transform(experiment.config)
    get_flops(experiment.model, experiment.dataset, "cpu", experiment.model.logger, transform)
    torch.testing.assert_close(experiment.scores(), expected)


def test_a_copy_shares_the_frozen_weights_alone(small_data, settings):
    model = Experiment(small_data, settings).model
    for weight, copied in zip(model.parameters(), copy.deepcopy(model).parameters(), strict=True):
        assert (weight is copied) == (not weight.requires_grad)


@pytest.mark.parametrize("batching", ["prefix", "sequence"])
def test_it_learns_from_the_latest_interactions_of_each_user(batching, small_data, settings):
    """Whatever the backbone's batches are."""
    changes = {"max_examples_per_user": 3, "train_batching": batching}
    experiment = Experiment(small_data, settings | changes)
    task = experiment.model.task(experiment.train._dataset)
    rows = experiment.train._dataset.inter_feat
    expected = []
    for user in sorted(set(rows["user_id"].tolist())):
        own = (rows["user_id"] == user).nonzero().flatten()[-3:]
        lengths, targets = rows["item_length"][own].tolist(), rows["item_id"][own].tolist()
        lists = rows["item_id_list"][own].tolist()
        expected += [
            (items[:length], target)
            for items, length, target in zip(lists, lengths, targets, strict=True)
        ]
    found = [task.examples[number] for number in range(len(task.examples))]
    assert sorted((items.tolist(), int(target)) for items, target in found) == sorted(expected)
    assert len(expected) < len(rows)
    words = experiment.model.prompt.segments[-1].ids
    assert task.lengths.tolist() == [len(items) + len(words) for items, _ in found]


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 6))
def test_the_latest_rows(users, most):
    expected = [row for row, user in enumerate(users) if users[row + 1 :].count(user) < most]
    assert latest_rows(np.array(users, dtype=np.int64), most).tolist() == expected


def test_an_evaluation_in_parts_gives_the_same_scores(small_data, settings, monkeypatch):
    experiment = Experiment(small_data, settings)
    whole = experiment.scores()
    calls = []
    experiment.model.reader.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(e4srec, "POSITIONS_A_PASS", 100)
    parts = experiment.scores()
    assert len(calls) > 5
    torch.testing.assert_close(parts, whole, rtol=0.05, atol=0.02)  # bfloat16, other padding


def test_a_sampled_evaluation_reads_each_user_once(small_data, settings):
    experiment = Experiment(small_data, settings)
    rows = experiment.test._dataset.inter_feat[:3]
    again = rows[torch.tensor([0, 1, 2, 0, 1, 2])]
    again.interaction["item_id"] = torch.tensor([1, 2, 3, 4, 5, 6])
    batches = []
    original = experiment.model._read
    experiment.model._read = lambda histories: batches.append(len(histories)) or original(histories)
    with torch.no_grad():
        found = experiment.model.predict(again)
        whole = experiment.model.full_sort_predict(rows)
    assert sum(batches) == 6  # three users, twice
    torch.testing.assert_close(found, whole[[0, 1, 2, 0, 1, 2], [1, 2, 3, 4, 5, 6]])


def test_what_cannot_serve_is_refused_before_any_training(small_data, settings):
    for changes, message in (
        ({"llm": "no/such"}, "llm: .*no/such"),
        ({"lora_target_modules": ["none_of_these"]}, "lora_target_modules"),
        ({"e4srec_instruction": "word " * 100}, "e4srec_instruction and llm_response"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            Experiment(small_data, settings | changes)


def test_it_is_found_by_name_with_its_yaml(small_data, settings):
    config = Config("E4SRec", small_data, config_dict=settings)
    assert get_model("E4SRec") is E4SRec
    assert config["e4srec_instruction"].endswith("predict next possible item to be purchased.")
    assert config["hidden_size"] == 64 and config["lora_dropout"] == 0.05
    with pytest.raises(ValueError, match="Did you mean E4SRec"):
        Config("E4Rec", small_data, config_dict=settings)


def test_last_digits_of_the_scaling_train_no_other_model(small_data, settings, monkeypatch):
    """A sum over all embeddings hangs on the number of threads."""
    given = settings | {"e4srec_learning_rate": 0.01}
    run_experiment("E4SRec", small_data, config_dict=given, test=False)
    scaled = e4srec.slot_inputs
    monkeypatch.setattr(e4srec, "slot_inputs", lambda *given: scaled(*given) * (1 + 1e-6))
    run_experiment("E4SRec", small_data, config_dict=given, test=False)
    (_trained,) = Path("saved/tslrec/small").glob("e4srec-*")
