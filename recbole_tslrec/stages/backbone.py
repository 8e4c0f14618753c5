"""The first stage: the backbone M is trained on item ids, or the user gives a trained one (§4.1)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole.data import get_dataloader
from recbole.sampler import RepeatableSampler
from recbole.utils import get_trainer, init_seed
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.stages.data_values import feature_values, interaction_values
from recbole_tslrec.stages.keys import GIVEN_BACKBONE
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.user_inputs import POPULARITY, given_backbone
from recbole_tslrec.store.checkpoints import load_checkpoint
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.item_tensors import ItemTensors
from recbole_tslrec.store.store import WORK

ITEM_EMBEDDING = "item_embedding"  # e_v, [n_items, d] float32
USERS = "users"  # in the stage's notes: a hash of the users in the order of internal ids
_FILE = "items.safetensors"


class BackboneStage(Stage):
    """The trained backbone and its item embeddings e_v."""

    name = "backbone"
    keys = GIVEN_BACKBONE.names
    product = "item_embeddings"

    @cached_property
    def made_from(self) -> dict[str, Any]:
        backbone = self.pipeline.backbone.name
        if self.config["backbone_checkpoint"] is not None:
            # Only e_v is taken from it; the file around e_v differs from one saving to the next.
            given = ItemTensors(self.pipeline.tokens, {ITEM_EMBEDDING: self._given})
            return {"backbone": backbone, "items": given.content_hash()} | self._own_class()
        return self._own_class() | {
            "backbone": backbone,
            "settings": training_settings(self.config.final_config_dict),
            "data": self.pipeline.data_fingerprint | feature_values(self.pipeline.dataset),
        }

    def _own_class(self) -> dict[str, Any]:
        """What a user's own class is, and all that it may read; nothing for one of the table.

        The scores of a given checkpoint follow from it as well.
        """
        pipeline, code = self.pipeline, self.pipeline.backbone.code
        if code is None:
            return {}
        valid = pipeline.valid_data
        return {
            "code": code,
            "interactions": interaction_values(pipeline.dataset),
            "validated": interaction_values(valid._dataset) if valid else None,
        }

    def make(self, folder: Path) -> dict[str, Any]:
        given = self.config["backbone_checkpoint"] is not None
        table = self._given if given else self.train(folder)
        self.save_items(folder, _FILE, {ITEM_EMBEDDING: table})
        dataset = self.pipeline.dataset
        return {USERS: fingerprint(dataset.field2id_token[dataset.uid_field].tolist())}

    def bytes_on_disk(self) -> int:
        """Its checkpoint (weights and Adam's two numbers beside each), and e_v; fp32."""
        width = self.config["hidden_size"] or self.config["embedding_size"] or 64
        return 4 * len(self.pipeline.tokens) * width * (3 + 1)

    def item_embeddings(self) -> Tensor:
        """e_v in the order of internal ids.

        Returns:
            [n_items - 1, d] float32; the padding row is not there.
        """
        return self.read_items(_FILE, ITEM_EMBEDDING)

    def content(self) -> dict[str, Tensor]:
        return {ITEM_EMBEDDING: self.item_embeddings()}

    @cached_property
    def _given(self) -> Tensor:
        pipeline = self.pipeline
        return given_backbone(self.config, pipeline.backbone, pipeline.dataset, pipeline.valid_data)

    def train(self, folder: Path) -> Tensor:
        """Train RecBole's own model in RecBole's own way on the training data; e_v of its best epoch."""
        config, spec, dataset = self._own_config(), self.pipeline.backbone, self.pipeline.dataset
        init_seed(config["seed"], config["reproducibility"])
        model = spec.model_class(config, dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.saved_model_file = str(folder / f"{spec.name}.pth")
        trainer.unfinished_in = folder / WORK
        # A subfolder is a run of its own in TensorBoard; else two trainings would share one curve.
        trainer.tensorboard.close()
        trainer.tensorboard = SummaryWriter(os.path.join(trainer.tensorboard.log_dir, "backbone"))
        # A loader of its own: this one's shuffling must not advance the fused model's.
        train_data = get_dataloader(config, "train")(
            config, dataset, self._sampler(config, "train"), shuffle=config["shuffle"]
        )
        valid_data = self._valid_data(config)
        with closing(trainer.tensorboard), _generator_untouched(valid_data):
            trainer.fit(
                train_data, valid_data, saved=True, show_progress=self.pipeline.show_progress
            )
        return spec.item_embeddings(load_checkpoint(trainer.saved_model_file))

    def _own_config(self):
        config = copy.copy(self.config)
        config.final_config_dict = self.config.final_config_dict | {
            "model": self.pipeline.backbone.name,
            "log_wandb": False,
        }
        return config

    def _valid_data(self, config):
        """The validation loader; where it draws items by popularity, one with a sampler of ours."""
        valid_data = self.pipeline.valid_data
        if config["valid_neg_sample_args"]["distribution"] != POPULARITY or not valid_data:
            return valid_data
        sampler = self._sampler(config, "valid")
        return get_dataloader(config, "valid")(config, valid_data._dataset, sampler)

    def _sampler(self, config, phase: str):
        """RecBole's sampler of negative items, which by popularity counts test interactions as well.

        This one counts the training interactions alone.
        """
        arguments = config[f"{phase}_neg_sample_args"]
        if arguments["distribution"] == "none":
            return None
        distribution, alpha = arguments["distribution"], arguments.get("alpha", 1.0)
        return RepeatableSampler([phase], self.pipeline.dataset, distribution, alpha).set_phase(
            phase
        )


@contextmanager
def _generator_untouched(loader) -> Iterator[None]:
    """Have a loader seed its workers afterwards as if nothing had been read from it."""
    state = loader.generator.get_state() if loader else None
    try:
        yield
    finally:
        if loader:
            loader.generator.set_state(state)
