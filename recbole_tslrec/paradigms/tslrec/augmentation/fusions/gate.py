"""The gate between the id embedding and h' (paper §4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import EnhancedFusion


class GateFusion(EnhancedFusion):
    """a = σ(W_a[e; h'] + b_a), elementwise; fused = a ⊙ e + (1 − a) ⊙ h'."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        dimension = id_embeddings.shape[1]
        self.gate = nn.Linear(2 * dimension, dimension)

    def _gate(self, id_embeddings: Tensor, projected: Tensor) -> Tensor:
        # W_a[e; h'] without [e; h'] in memory: twice the table, written and read in every step.
        of_ids, of_projected = self.gate.weight.split(id_embeddings.shape[1], dim=1)
        logits = torch.addmm(self.gate.bias, id_embeddings, of_ids.T)
        return logits.addmm_(projected, of_projected.T).sigmoid_()

    def fuse(self, id_embeddings: Tensor) -> Tensor:
        # With enable_amp a plain item table keeps its precision; so does the fused one.
        with torch.autocast(id_embeddings.device.type, enabled=False):
            projected = self.project()  # [n_items, d]
            gate = self._gate(id_embeddings, projected)  # [n_items, d]
            return torch.lerp(projected, id_embeddings, gate)

    @torch.no_grad()
    def mean_gate(self, id_embeddings: Tensor) -> Tensor:
        """Each item's share of the id embedding in the fused one, the mean of a over d. [n_items]"""
        return self._gate(self.ids_of_all(id_embeddings), self.project()).mean(dim=1)
