"""What all fusions share: id embeddings in, the item table out, and ids for items that have none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre

# Of more items the mean is short, and no cold item is recommended; of one it is as if it were that item.
_N_ALIKE = 3
_ROWS_AT_ONCE = 1024


class ItemFusion(nn.Module, ABC):
    """Base of the fusions: how the id embeddings become the item table is said by ``fuse``.

    Nothing but noise has made the id embedding of an item without a training interaction, a cold one.
    If the items' vectors tell of it, it takes the mean of those of the three warm items whose vectors
    are most like its own. In training it is never a target: the softmax would push its row away, and
    what it is made of. There its row is 0, and its logit says nothing.
    """

    # Of each cold item the items most like it, int64 [n_items, 3]; 0 for all others. None: all items
    # keep their own id embeddings.
    alike: Tensor | None
    reads_ids: ClassVar[bool] = True  # whether the id embeddings are trained

    def __init__(self):
        super().__init__()
        self.register_buffer("alike", None)

    @abstractmethod
    def fuse(self, id_embeddings: Tensor) -> Tensor:
        """The item table of these id embeddings, both [n_items, d]; row 0 is padding."""

    def set_enhanced(self, embeddings: Tensor) -> None:
        """Take the vector of every item in the order of internal ids, [n_items - 1, any], no padding."""

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Set what starts from the vectors, before training and after ``set_enhanced``.

        Args:
            embeddings: as ``set_enhanced`` takes them, rows of which nothing is known 0.
            id_embeddings: [n_items, d], which may be set in place.
        """

    def tell_cold_items(self, n_items: int) -> None:
        """Have cold items take the ids of others; ``set_cold`` says which."""
        self.alike = torch.zeros(n_items, _N_ALIKE, dtype=torch.int64)

    @property
    def cold(self) -> Tensor | None:
        """Which items take the ids of others, [n_items] bool; None if none is told of."""
        return None if self.alike is None else self.alike[:, 0] > 0

    def set_cold(self, cold: Tensor, vectors: Tensor) -> None:
        """Take which items have no training interaction, and the vectors that tell what they are like.

        Args:
            cold: [n_items - 1] bool, no padding.
            vectors: [n_items - 1, any]; a row of zeros is an item of which nothing is known: a cold one
                keeps its own id embedding then.
        """
        vectors = vectors.cpu()
        known = vectors.any(dim=1)
        alike = torch.zeros_like(self.alike, device="cpu")
        alike[1:][cold & known] = most_alike(centre(vectors), cold & known, ~cold & known)
        self.alike.copy_(alike)

    def ids_of_all(self, id_embeddings: Tensor) -> Tensor:
        """The id embeddings, cold items' made of others', [n_items, d]."""
        if self.alike is None:
            return id_embeddings
        rows = self.cold.nonzero()[:, 0]
        return id_embeddings.index_copy(0, rows, id_embeddings[self.alike[rows]].mean(dim=1))

    def forward(self, id_embeddings: Tensor) -> Tensor:
        if self.alike is None:
            return self.fuse(id_embeddings)
        if self.training:
            return self.fuse(id_embeddings).masked_fill(self.cold[:, None], 0.0)
        return self.fuse(self.ids_of_all(id_embeddings))


def most_alike(vectors: Tensor, rows: Tensor, among: Tensor) -> Tensor:
    """Internal ids of the items most like some, by cosine, int64 [number of rows, 3].

    Where fewer are to choose from, the first stands for those that lack; 0 where there is none.

    Args:
        vectors: [n, any], without padding.
        rows, among: [n] bool, the items that are asked about, and those that are chosen from.
    """
    vectors = functional.normalize(vectors.float(), dim=1)
    chosen_from = vectors[among]
    ids = 1 + among.nonzero()[:, 0]
    found = ids.new_zeros(int(rows.sum()), _N_ALIKE)
    if not len(ids):
        return found
    for block, of_block in zip(
        vectors[rows].split(_ROWS_AT_ONCE), found.split(_ROWS_AT_ONCE), strict=True
    ):
        best = (block @ chosen_from.T).topk(min(_N_ALIKE, len(ids)), dim=1).indices
        of_block[:] = ids[best[:, :1]]
        of_block[:, : best.shape[1]] = ids[best]
    return found
