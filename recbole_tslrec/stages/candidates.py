"""A stage that keeps the trained backbone's candidates for every training row."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_tslrec.data.keys import CANDIDATES
from recbole_tslrec.evaluation.candidates import items_before, row_candidates
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.trained_backbone import given_model, trained_backbone
from recbole_tslrec.store.arrays import arrays_hash
from recbole_tslrec.store.files import write_atomically

_FILE = "candidates.safetensors"
_ITEMS = "items"


class CandidatesStage(Stage):
    """The ``n_candidates`` items that the trained backbone puts first, for every training row.

    It is the same backbone that was trained on these rows: their own targets are nearer to the top than
    a held-out row's will be. With ``candidates: unseen`` what the user had before the row is left out,
    and so is a target that the user had before.

    The file has the rows by user token, a user's in their order, and the items by their place among the
    sorted tokens, from 1: it serves whatever the internal ids.
    """

    name = "candidates"
    needs = (BackboneStage,)
    keys = CANDIDATES.names
    product = "candidates"

    @property
    def backbone(self) -> BackboneStage:
        return self.pipeline.stage(BackboneStage)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        data = self.pipeline.data_fingerprint
        made_from = {
            "settings": self.settings(),
            "backbone": self.backbone.fingerprint,
            "training": data["training"],
            "items": data["items"],
        }
        given = given_model(self.pipeline)
        return made_from if given is None else made_from | {"given": given}

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        if n_items is not None and config["n_candidates"] > n_items:
            raise ValueError(
                f"n_candidates: [{config['n_candidates']}] is more than the {n_items} items of the data "
                f"set [{config['dataset']}]. Give fewer."
            )

    def bytes_on_disk(self) -> int:
        return 4 * len(self.pipeline.dataset.inter_feat) * self.config["n_candidates"]

    def make(self, folder: Path) -> dict[str, Any]:
        pipeline = self.pipeline
        before = items_before(pipeline.dataset, pipeline.histories)
        found = row_candidates(
            trained_backbone(pipeline),
            pipeline.dataset.inter_feat,
            self.config["n_candidates"],
            before if self.config["candidates"] == "unseen" else None,
            pipeline.show_progress,
        )
        places = np.argsort(self._sorted_items).astype(np.int32)  # of each internal id
        kept = torch.from_numpy(places[found.numpy()[self._sorted_rows]])
        write_atomically(folder / _FILE, lambda file: save_file({_ITEMS: kept}, file))
        return provenance.read_from(self.backbone)

    def row_candidates(self) -> Tensor:
        """The candidates of the training rows, in the rows' order, the best first.

        Returns:
            [n_rows, k] int64 internal ids; 0 where a row has fewer candidates than k.

        Raises:
            ValueError: they were made of another backbone than there is now.
        """
        if self.pipeline.store.has(self.backbone.name, self.backbone.made_from):
            provenance.check_read(self, self.backbone)
        kept = load_file(self.stored.folder / _FILE)[_ITEMS].numpy()
        found = np.empty_like(kept)
        found[self._sorted_rows] = self._sorted_items[kept]
        return torch.from_numpy(found.astype(np.int64))

    @cached_property
    def content_hash(self) -> str:
        kept = load_file(self.stored.folder / _FILE)[_ITEMS]
        return arrays_hash(kept.numpy())

    @cached_property
    def _sorted_items(self) -> np.ndarray:
        """Internal ids by token, [n_items] int32, padding first."""
        tokens = self.pipeline.tokens
        return np.array([0, *(1 + np.array(sorted(range(len(tokens)), key=tokens.__getitem__)))])

    @cached_property
    def _sorted_rows(self) -> np.ndarray:
        """The training rows by their users' tokens, [n_rows]; a user's are in their order."""
        dataset = self.pipeline.dataset
        tokens = dataset.field2id_token[dataset.uid_field].tolist()
        places = np.argsort(sorted(range(len(tokens)), key=tokens.__getitem__))
        return np.argsort(places[dataset.inter_feat[dataset.uid_field].numpy()], kind="stable")
