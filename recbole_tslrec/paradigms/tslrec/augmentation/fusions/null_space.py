"""Id embeddings in the directions that the vectors hardly use (AlphaFuse)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre, whitened_components
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import initial_scale
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import ItemFusion


class NullSpaceFusion(ItemFusion):
    """fused = length · z + [0; e'], e' the last half of the id embedding's columns.

    z are the vectors' first d principal components, each with variance 1, the strongest first. They are
    not trained. The ids are added where the vectors vary least, and leave the rest to the words, as
    AlphaFuse (SIGIR 2025, arXiv 2504.19218) has it. Its z keep their size; here one number for all is
    learned, since trained id embeddings grow far beyond the size at which they start.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        width: the number of columns that are kept of the vectors.
        scale: the size of z at the start, in units of the id embeddings'.
    """

    components: Tensor  # z, float16 [n_items, at most d], row 0 zero

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()
        n_items, dimension = id_embeddings.shape
        width = min(width, dimension)
        self.register_buffer("components", torch.zeros(n_items, width, dtype=torch.float16))
        self.length = nn.Parameter(torch.tensor(scale * initial_scale(id_embeddings)))
        # Columns that the vectors do not have are the ids', too.
        self._without_ids = min(dimension - dimension // 2, width)

    def set_enhanced(self, embeddings: Tensor) -> None:
        columns = whitened_components(centre(embeddings), self.components.shape[1])
        self.components.zero_()  # fewer columns than the fusion was made for: the ids' alone
        self.components[1:, : columns.shape[1]] = columns

    def fuse(self, id_embeddings: Tensor) -> Tensor:
        fixed = self.length * self.components.to(id_embeddings)
        of_ids = id_embeddings[:, self._without_ids :]
        shared = fixed[:, self._without_ids :]
        alone = of_ids[:, shared.shape[1] :]
        return torch.cat(
            [fixed[:, : self._without_ids], shared + of_ids[:, : shared.shape[1]], alone], dim=1
        )
