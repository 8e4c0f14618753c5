"""One pass over a history gives the loss and the gradients of RecBole's prefixes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from causality import assert_causal
from recbole.trainer import Trainer
from support.small_backbones import keys_of
from tiny import SHORT, make_model, prepare
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.fmlprec import FMLPRec
from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader
from recbole_tslrec.backbones.whole_sequences.loss import (
    states_at_all_positions,
    whole_sequence_loss,
)
from recbole_tslrec.config import checks
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

CAUSAL = [name for name, backbone in BACKBONES.items() if backbone.causal]
BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}


def make_loader(config, train_data) -> WholeSequenceDataLoader:
    return WholeSequenceDataLoader(config, train_data._dataset, train_data._sampler, shuffle=True)


def summed(model, batches, loss_function, n_targets) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients summed over the targets of all batches."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = loss_function(batch) * n_targets(batch)
        loss.backward()
        total += loss.item()
    return total, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def count(batch) -> int:
    return int((batch["item_id"] != 0).sum())


def assert_same(one, other) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-10)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        error = (gradient - other[1][name]).norm() / other[1][name].norm().clamp(min=1e-9)
        assert error < 1e-9, name


@pytest.mark.parametrize("backbone", CAUSAL)
@pytest.mark.parametrize("keys", [{"lengths": SHORT}, {"train_window_context": 1.0}])
def test_loss_and_gradients_are_those_of_the_prefixes(backbone, keys):
    config, train_data, _ = prepare(backbone, **keys | keys_of(backbone, "tiny"))
    model = make_model(config, train_data)
    prefixes = summed(model, train_data, model.calculate_loss, len)
    bias = BACKBONES[backbone].item_bias
    loss_function = partial(whole_sequence_loss, model, item_bias=bias)
    assert_same(summed(model, make_loader(config, train_data), loss_function, count), prefixes)


def test_so_they_are_with_a_fused_item_table():
    class Fusion(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

        def forward(self, table):
            return table * self.scale

    config, train_data, _ = prepare(lengths=SHORT)
    model = make_model(config, train_data)
    parametrize.register_parametrization(model.item_embedding, "weight", Fusion())
    prefixes = summed(model, train_data, model.calculate_loss, len)
    loss_function = partial(whole_sequence_loss, model)
    assert_same(summed(model, make_loader(config, train_data), loss_function, count), prefixes)


def test_so_they_are_with_a_constant_among_the_logits():
    config, train_data, _ = prepare(lengths=SHORT)
    model = make_model(config, train_data)
    constant = torch.randn(model.n_items, model.n_items, dtype=torch.float64)
    constant[0] = 0  # padding adds nothing

    def added(item_seq):
        places = torch.arange(1.0, item_seq.shape[1] + 1, dtype=torch.float64)
        return (constant[item_seq] * places[:, None]).sum(dim=1)

    def prefix_loss(batch):
        def with_constant(_, arguments):
            return arguments[0] + added(batch["item_id_list"]), arguments[1]

        with model.loss_fct.register_forward_pre_hook(with_constant):
            return model.calculate_loss(batch)

    prefixes = summed(model, train_data, prefix_loss, len)
    loss_function = partial(whole_sequence_loss, model, added=added)
    assert_same(summed(model, make_loader(config, train_data), loss_function, count), prefixes)


@pytest.mark.parametrize("backbone", CAUSAL)
def test_bpr_is_the_prefixes_loss_for_the_same_negatives(backbone):
    config, train_data, _ = prepare(backbone, lengths=SHORT, **BPR | keys_of(backbone, "tiny"))
    model = make_model(config, train_data)
    batches = list(make_loader(config, train_data))
    negatives = {}
    for batch in batches:
        for row in range(len(batch)):
            for position in range(int(batch["item_length"][row])):
                key = batch["user_id"][row].item(), position + 1
                negatives[key] = batch["neg_item_id"][row, position]

    def prefix_loss(batch):
        keys = zip(batch["user_id"].tolist(), batch["item_length"].tolist(), strict=True)
        batch["neg_item_id"] = torch.stack([negatives[key] for key in keys])
        return model.calculate_loss(batch)

    prefixes = summed(model, train_data, prefix_loss, len)
    loss_function = partial(whole_sequence_loss, model, item_bias=BACKBONES[backbone].item_bias)
    assert_same(summed(model, batches, loss_function, count), prefixes)


@pytest.mark.parametrize("backbone", CAUSAL)
def test_the_backbones_that_claim_to_be_causal_are(backbone):
    config, train_data, _ = prepare(backbone, **keys_of(backbone, "tiny"))
    assert_causal(make_model(config, train_data))


def test_the_check_of_causality_finds_a_model_that_looks_ahead():
    config, train_data, _ = prepare()
    model = make_model(config, train_data)
    mask = model.get_attention_mask
    model.get_attention_mask = lambda item_seq: mask(item_seq, bidirectional=True)
    with pytest.raises(AssertionError, match="later items"):
        assert_causal(model)


def test_a_model_without_states_at_all_positions_is_refused_and_left_as_it_was():
    config, train_data, _ = prepare()
    model = FMLPRec(config, train_data._dataset)  # SASRec's keys are FMLPRec's, and more
    batch = next(iter(train_data))
    with pytest.raises(ValueError, match="gather_indexes"):
        states_at_all_positions(model, batch["item_id_list"], batch["item_length"])
    assert "gather_indexes" not in vars(model)


def test_recboles_own_training_loop_runs_on_it():
    class WholeSequenceTrainer(Trainer):
        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            loss_func = partial(whole_sequence_loss, self.model)
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)

    config, train_data, valid_data = prepare(epochs=3, learning_rate=0.01)
    model = make_model(config, train_data).float()
    trainer = WholeSequenceTrainer(config, model)
    loader = make_loader(config, train_data)
    trainer.fit(loader, valid_data, saved=True, verbose=False, show_progress=False)
    losses = trainer.train_loss_dict
    assert losses[2] < losses[0] < 1.1 * len(loader) * torch.log(torch.tensor(model.n_items))


def test_training_in_bfloat16_takes_nearly_the_same_step(small_data, settings, monkeypatch):
    """The products are rounded, the weights and their gradients are not."""
    monkeypatch.setattr(checks, "bf16_is_fast", lambda device: True)
    trained = {}
    for precision in ("float32", "bfloat16"):
        changes = {"train_precision": precision, "train_neg_sample_args": None, "epochs": 1}
        run = run_experiment("SASRec", small_data, config_dict=settings | changes)
        trained[precision] = run.trainer.model.item_embedding.weight.detach()
    exact, rounded = trained.values()
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.02 * exact.norm()
