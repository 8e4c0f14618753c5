"""The stage that gives every item its code."""

from __future__ import annotations

from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.paradigms.p5.item_codes import (
    co_occurrence,
    collaborative_codes,
    embedding_codes,
    number_codes,
)
from recbole_tslrec.paradigms.p5.keys import (
    CODES,
    COLLABORATIVE,
    EMBEDDING,
    FILE_ORDER,
    INDEPENDENT,
    RANDOM,
    SEQUENTIAL,
)
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store.files import fingerprint

_FILE = "codes.safetensors"
_CODE = "code"  # [n_items, L] int64
_OF_A_TREE = (COLLABORATIVE, EMBEDDING)
_DRAWN = (*_OF_A_TREE, RANDOM)
_PLACES = {"places": "drawn"}  # once they were in the order of the tokens, and told of it


class ItemCodesStage(Stage):
    """The items' codes, made of training histories and sorted tokens alone.

    ``file_order`` is the exception, and there to show it: RecBole numbers items by the whole file.
    """

    name = "item_codes"
    keys: ClassVar[tuple[str, ...]] = CODES.names
    product = "item_codes"

    @cached_property
    def made_from(self) -> dict[str, Any]:
        code, data = self.config["item_code"], self.pipeline.data_fingerprint
        own = set(self.keys) if code in _OF_A_TREE else {"item_code"}
        made_from = {
            "settings": {name: value for name, value in self.settings().items() if name in own},
            "training": data["training"],
            "items": data["items"],
        }
        if code in _DRAWN:
            made_from["seed"] = self.config["seed"]
        if code in _OF_A_TREE:
            made_from |= _PLACES
        if code == SEQUENTIAL:
            made_from["order"] = fingerprint(self._user_tokens)
        if code == FILE_ORDER:
            made_from["order"] = fingerprint(self.pipeline.tokens)
        return made_from

    def make(self, folder: Path) -> dict[str, Any] | None:
        codes = self._codes()
        places = np.argsort(self._sorted)  # of each internal id among the sorted tokens
        self.save_items(folder, _FILE, {_CODE: torch.from_numpy(codes[places])})
        getLogger(__name__).info(
            f"Item codes: {len(codes)} items, up to {codes.shape[1]} of {codes.max() + 1} tokens each "
            f"({self.config['item_code']})"
        )
        return None

    def item_codes(self) -> Tensor:
        """The code of every item, in the order of internal ids.

        Returns:
            [n_items - 1, L] int64, filled up with -1 at the end.
        """
        return self.read_items(_FILE, _CODE)

    def content(self) -> dict[str, Tensor]:
        return {_CODE: self.item_codes()}

    def _codes(self) -> np.ndarray:
        """The codes of the items in the order of their tokens. [n_items, L] int64"""
        code, n_items = self.config["item_code"], len(self.pipeline.tokens)
        if code == INDEPENDENT:
            return np.arange(n_items)[:, None]
        if code == COLLABORATIVE:
            sizes = (self.config["code_clusters"], self.config["code_leaf_items"])
            pairs = co_occurrence(*self._interactions(), n_items)
            return collaborative_codes(pairs, *sizes, self.config["seed"])
        if code == SEQUENTIAL:
            return number_codes(self._by_first_appearance())
        if code == RANDOM:
            return number_codes(np.random.default_rng(self.config["seed"]).permutation(n_items))
        getLogger(__name__).warning(
            "item_code: [file_order] numbers items by their first appearance in the whole file: where a "
            "user's rows stand together, an item that is tested often has the highest number so far and "
            "one more. It is a control that shows this leak, and no result."
        )
        return number_codes(np.argsort(self._sorted))

    @cached_property
    def _sorted(self) -> np.ndarray:
        """The items by their tokens: internal ids, counted from 0 without padding. [n_items]"""
        tokens = self.pipeline.tokens
        return np.array(sorted(range(len(tokens)), key=tokens.__getitem__))

    @property
    def _user_tokens(self) -> list[str]:
        dataset = self.pipeline.dataset
        return dataset.field2id_token[dataset.uid_field].tolist()

    def _interactions(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all training interactions the user's place and the item's among the sorted tokens."""
        histories = self.pipeline.histories
        users = np.repeat(np.arange(len(histories)), histories.lengths)
        return users, np.argsort(self._sorted)[histories.items - 1]

    def _by_first_appearance(self) -> np.ndarray:
        """The items as training has them, user by user in the file's order; then the others."""
        _, items = self._interactions()
        found, first = np.unique(items, return_index=True)
        others = np.setdiff1d(np.arange(len(self.pipeline.tokens)), found)
        return np.concatenate([found[np.argsort(first)], others])


class EmbeddingCodesStage(ItemCodesStage):
    """Codes of the tree that k-means makes of the trained backbone's e_v, categories first."""

    needs = (CategoriesStage,)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        categories = self.pipeline.stage(CategoriesStage)
        return {
            "settings": self.settings(),
            "seed": self.config["seed"],
            "categories": categories.fingerprint,
            **_PLACES,
        }

    def make(self, folder: Path) -> dict[str, Any]:
        backbone, categories = (
            self.pipeline.stage(kind) for kind in (BackboneStage, CategoriesStage)
        )
        provenance.check_read(categories, backbone)
        super().make(folder)
        return provenance.read_from(backbone, categories)

    def _codes(self) -> np.ndarray:
        embeddings = self.pipeline.stage(BackboneStage).item_embeddings().numpy()
        categories = self.pipeline.stage(CategoriesStage).item_categories().numpy()
        return embedding_codes(
            embeddings[self._sorted],
            categories[self._sorted],
            self.config["code_clusters"],
            self.config["code_leaf_items"],
            self.config["seed"],
        )


def codes_stage(config) -> type[ItemCodesStage]:
    """The stage that makes the codes that an experiment asks for."""
    return EmbeddingCodesStage if config["item_code"] == EMBEDDING else ItemCodesStage
