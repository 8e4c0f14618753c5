"""The sum of the id embedding and h'."""

from __future__ import annotations

from torch import Tensor

from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import EnhancedFusion


class SumFusion(EnhancedFusion):
    """fused = e + h'."""

    def fuse(self, id_embeddings: Tensor) -> Tensor:
        return id_embeddings + self.project()
