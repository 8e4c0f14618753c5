import resource

import numpy as np
import pytest
import torch
from torch import nn

from recbole_tslrec.language_model import meter
from recbole_tslrec.language_model.encoder import ItemEncoder
from recbole_tslrec.language_model.meter import metered, operations
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.language_model.prompts.segments import Items, Words
from recbole_tslrec.language_model.prompts.template import Template
from recbole_tslrec.language_model.scratch import scratch_model


class Reader(nn.Module):
    """Stands for an ``ItemEncoder``: a frozen and a trained matrix."""

    packs = False

    def __init__(self):
        super().__init__()
        self.frozen, self.trained = nn.Linear(3, 4), nn.Linear(4, 2)
        self.frozen.requires_grad_(False)

    def forward(self, token_ids, item_rows, attention_mask, **prefix):
        return self.trained(self.frozen(torch.ones(len(token_ids), 3)))


@pytest.mark.parametrize(("shared", "positions"), [(False, 2 * 6), (True, 2 * 4 + 2)])
def test_positions_are_counted_by_hand(shared, positions):
    reader = Reader()
    items = Items("history", slots=True)
    prompt = Template((Words((7, 8)), items, Words((9,))), 13, shared)
    histories = [np.array([1, 2, 3]), np.array([4])]  # prompts of 6 and 4 positions
    batch = prompt.batch(of_histories(histories))
    with metered(reader) as meter:
        reader(**batch)
        with torch.no_grad():
            reader(**batch)
    reader(**batch)  # no longer counted
    cost = meter.cost()
    assert cost["examples"] == 4
    assert cost["positions"] == 2 * positions and meter.trained_positions == positions
    assert cost["padding_share"] == pytest.approx(2 / positions, abs=1e-4)
    assert cost["operations"] == operations(reader, 2 * positions, positions)
    assert cost["peak_memory_bytes"] > 0 and cost["share_of_matrix_rate"] is None


@pytest.mark.parametrize(("packs", "positions", "padding"), [(False, 13, 2), (True, 14, 3)])
def test_prefixes_of_several_users_are_counted_by_hand(packs, positions, padding):
    """Packed, both rows are as long as a prefix of 5 and two prompts behind it."""
    parts = (
        Words((7, 8)),
        Items("history", slots=True),
        Items("next", slots=True, candidates=True),
    )
    values = {
        "history": [np.array([1, 2, 3]), np.array([4])],  # prefixes of 5 and 3 positions
        "next": [np.array([1, 2]), np.array([3])],
    }
    reader = Reader()
    reader.packs = packs
    with metered(reader) as meter:
        reader(**Template(parts, 20).continued(values, "next"))
    cost = meter.cost()
    assert (cost["examples"], cost["positions"]) == (3, positions)
    assert cost["padding_share"] == pytest.approx(padding / positions, abs=1e-4)


def test_operations_of_a_frozen_matrix_have_no_weight_gradient():
    reader = Reader()
    frozen, trained = 3 * 4, 4 * 2
    assert operations(reader, 10, 0) == 10 * 2 * (frozen + trained)
    assert operations(reader, 10, 10) == 10 * (4 * frozen + 6 * trained)


def test_of_an_encoder_decoder_the_encoder_alone_counts():
    model = scratch_model("scratch", 50, "sdpa", 0)
    layers = (layer for layer in model.get_encoder().modules() if isinstance(layer, nn.Linear))
    encoder = sum(layer.weight.numel() for layer in layers)
    assert operations(ItemEncoder(model, None), 10, 0) == 10 * 2 * encoder > 0


def test_the_rate_of_bf16_is_measured_where_there_is_bf16_alone(monkeypatch):
    monkeypatch.setattr(meter, "matrix_rate", lambda device: 1.0)
    monkeypatch.setattr(meter, "bf16_is_fast", lambda device: True)
    assert meter._matrix_rate_if_it_fits(torch.device("cuda")) == 1.0
    assert meter._matrix_rate_if_it_fits(torch.device("cpu")) is None
    monkeypatch.setattr(meter, "bf16_is_fast", lambda device: False)
    assert meter._matrix_rate_if_it_fits(torch.device("cuda")) is None


def test_the_peak_of_memory_is_found_where_the_system_does_not_tell_it(tmp_path, monkeypatch):
    """gVisor's status has no line of it."""
    status, cpu = tmp_path / "status", torch.device("cpu")
    monkeypatch.setattr(meter, "Path", lambda _: status)
    used = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, meter.peak_memory(cpu)]
    for told in ("VmRSS:\t 12 kB\n", "", "VmRSS:\t 12 kB\nVmHWM:\t 34 kB\n"):
        status.write_text(told)
        used.append(meter.peak_memory(cpu))
    assert 0 < used[0] <= used[1] <= used[2] <= used[3] and used[4] == 34 * 1024
