"""Id embeddings that start from the vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre, reduce_columns
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import initial_scale
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.none import IdFusion


class StartFusion(IdFusion):
    """The id embeddings start from the vectors and are trained on (``fusion: start``).

    E_0 = scale · σ · PCA_d(x), σ the size of the id embeddings' own start: as LLM2SASRec (Harte et al.,
    RecSys 2023) and LLM-ESR (arXiv 2405.20646) start theirs. Columns that the vectors do not have keep
    their random start, and so do items of which they know nothing.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self._size = scale * initial_scale(id_embeddings)

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Set the id embeddings, in place.

        Args:
            embeddings: of every item in the order of internal ids, [n_items - 1, any], no padding.
            id_embeddings: [n_items, d].
        """
        rows = reduce_columns(centre(embeddings), id_embeddings.shape[1])
        # An item of which nothing is known, or all if they are the same, keeps its random start.
        known = rows.any(dim=1, keepdim=True)
        share = known.double().mean().item()  # the others' zeros are no part of the size
        size = (rows.double().pow(2).mean() / share).sqrt().item() if share > 0 else 0.0
        started = rows * (self._size / size if size > 0 else 0.0)
        ids = id_embeddings.data[1:, : rows.shape[1]]
        # The vectors are on the CPU still, the ids where the model is.
        ids.copy_(torch.where(known.to(ids.device), started.to(ids), ids))
