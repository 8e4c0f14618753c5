"""What a backbone must do to be trained on whole sequences, checked on its outputs."""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_tslrec.backbones.whole_sequences.loss import states_at_all_positions


def assert_causal(model: SequentialRecommender) -> None:
    """The output after an item depends on this item and earlier ones, and on nothing else.

    Not on later items, not on padding, and not on how many positions the batch has: positions must
    count from the left. What ``forward`` gives for the prefix alone must be the same vector.

    Raises:
        AssertionError: it does.
        ValueError: the outputs are out of reach.
    """
    model.eval()
    length = model.max_seq_length
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, model.n_items, (4, length), generator=generator)
    others = torch.randint(1, model.n_items, (4, length), generator=generator)
    with torch.no_grad():
        whole = states_at_all_positions(model, items, torch.full((4,), length))
        for n in range(1, length + 1):
            sizes = torch.full((4,), n)
            changed = torch.cat([items[:, :n], others[:, n:]], dim=1)
            padded = torch.cat([items[:, :n], torch.zeros_like(items[:, n:])], dim=1)
            prefix = {
                "later items": states_at_all_positions(model, changed, torch.full((4,), length)),
                "padding": states_at_all_positions(model, padded, sizes),
                "the number of positions": states_at_all_positions(model, items[:, :n], sizes),
                "the other predictions": model(padded, sizes).unsqueeze(1),
            }
            for what, states in prefix.items():
                expected = whole[:, n - 1 : n] if states.size(1) == 1 else whole[:, :n]
                torch.testing.assert_close(
                    states[:, :n],
                    expected,
                    rtol=1e-4,
                    atol=1e-5,
                    msg=lambda text, what=what: f"outputs depend on {what}: {text}",
                )
