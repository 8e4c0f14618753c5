"""Norm: the backbone alone, with rows of one length; beside it TSLRec's gain of ``item_norm`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable

if TYPE_CHECKING:
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


class NormalisedItemTable(FusedItemTable):
    """the backbone alone, with rows of one learned length (``item_norm: l2`` for the others)."""

    normalised = True

    def _make_fusion(self, config, id_embeddings: Tensor) -> nn.Module:
        return nn.Identity()

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        return ()

    def prepare(self, pipeline: Pipeline) -> None:
        """Nothing is needed."""
