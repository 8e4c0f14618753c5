"""No fusion in the item table."""

from __future__ import annotations

from torch import Tensor, nn


class IdFusion(nn.Module):
    """The id embeddings alone (``fusion: none``): the vectors come in at scoring.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        width, scale: not used.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()

    def set_enhanced(self, embeddings: Tensor) -> None:
        """Nothing is taken of the vectors."""

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Nothing of the id embeddings is set."""

    def forward(self, id_embeddings: Tensor) -> Tensor:
        return id_embeddings
