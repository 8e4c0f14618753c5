"""The vectors without the id embeddings."""

from __future__ import annotations

from torch import Tensor

from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import EnhancedFusion


class AloneFusion(EnhancedFusion):
    """fused = h': what the vectors tell by themselves (UniSRec's SASRec with text, arXiv 2206.05941)."""

    reads_ids = False

    def fuse(self, id_embeddings: Tensor) -> Tensor:
        return self.project()
