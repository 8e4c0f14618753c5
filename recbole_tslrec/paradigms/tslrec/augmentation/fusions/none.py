"""No fusion in the item table."""

from __future__ import annotations

from torch import Tensor

from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import ItemFusion


class IdFusion(ItemFusion):
    """The id embeddings alone (``fusion: none``): the vectors come in at scoring.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        width, scale: not used.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()

    def fuse(self, id_embeddings: Tensor) -> Tensor:
        return id_embeddings
