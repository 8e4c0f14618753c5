"""Another loss for a backbone that is trained on RecBole's rows, one for each prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_tslrec.backbones.hiding import Function, hiding
from recbole_tslrec.backbones.losses import Loss, biased

if TYPE_CHECKING:
    from recbole.model.abstract_recommender import SequentialRecommender


def prefix_loss(
    model: SequentialRecommender,
    interaction: Interaction,
    item_table: str,
    loss: Loss,
    item_bias: str | None = None,
) -> Tensor:
    """The model's own loss with another one in the place of its CE over all items.

    What the model adds to its CE stays, as Caser's regularisation.

    Args:
        model: a backbone whose ``calculate_loss`` calls ``forward`` once, for states ``[B, H]``, and
            gives their scores of all items to ``loss_fct``.
        interaction: a batch of RecBole's training loader.
        item_table: the attribute of the item table, an ``nn.Embedding`` ``[n_items, H]``.
        loss: what stands for CE.
        item_bias: the attribute of the items' biases, ``[n_items]``; None for a model without.

    Returns:
        The loss, shape ``[]``.
    """
    forward, states = model.forward, []

    def giving_none_away(*arguments: Tensor) -> Tensor:
        states.append(forward(*arguments))
        return states[0][:0]  # the model then scores all items for no row

    no_loss = Function(lambda scores, targets: scores.new_zeros(()))
    with hiding(model, forward=giving_none_away, loss_fct=no_loss):
        rest = model.calculate_loss(interaction)
    factors = states[0], getattr(model, item_table).weight
    if item_bias is not None:
        factors = biased(*factors, getattr(model, item_bias))
    return loss(*factors, interaction[model.POS_ITEM_ID]) + rest
