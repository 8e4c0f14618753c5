"""Id embeddings in the directions that the vectors hardly use (AlphaFuse)."""

from __future__ import annotations

from logging import getLogger

import torch
from torch import Tensor, nn

from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre, whitened_components
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import ALL_THE_SAME, initial_scale
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import ItemFusion


class NullSpaceFusion(ItemFusion):
    """fused = length · z + m ⊙ e, m 1 in the last half of the columns and 0 before.

    z are the vectors' first d principal components, each with variance 1, the strongest first. They are
    not trained. The ids are added where the vectors vary least, and leave the rest to the words, as
    AlphaFuse (SIGIR 2025, arXiv 2504.19218) has it. Its z keep their size; here one number for all is
    learned, since trained id embeddings grow far beyond the size at which they start. Where the vectors
    have fewer than d / 2 directions, m is 1 behind the last of them.

    Args:
        id_embeddings: the backbone's table as initialised, [n_items, d].
        width: not used: d columns are taken, whatever is kept of the vectors.
        scale: the size of z at the start, in units of the id embeddings'.
    """

    components: Tensor  # z, float16 [n_items, d], row 0 zero
    takes_ids: Tensor  # m, float32 [d]

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__()
        self.register_buffer("components", torch.zeros(id_embeddings.shape, dtype=torch.float16))
        self.register_buffer("takes_ids", torch.ones(id_embeddings.shape[1]))
        self.length = nn.Parameter(torch.tensor(scale * initial_scale(id_embeddings)))

    def start(self, embeddings: Tensor, id_embeddings: Tensor) -> None:
        """Take the vectors' components; the id embeddings stay as they are."""
        n_columns = len(self.takes_ids)
        columns = whitened_components(centre(embeddings), n_columns)
        n_directions = int(columns.any(dim=0).sum())
        if n_directions == 0:
            getLogger(__name__).warning(ALL_THE_SAME.format(len(embeddings)))
        self.components.zero_()
        self.components[1:, : columns.shape[1]] = columns
        self.takes_ids.fill_(1.0)
        self.takes_ids[: min(n_columns - n_columns // 2, n_directions)] = 0.0

    def fuse(self, id_embeddings: Tensor) -> Tensor:
        of_words = self.length * self.components.to(id_embeddings)
        return torch.addcmul(of_words, id_embeddings, self.takes_ids)
