"""The stage of DELRec's soft prompts: learned vectors that imitate the trained backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from recbole.utils import init_seed
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.data.histories import drawn_users
from recbole_tslrec.data.keys import CANDIDATES, ITEM_TEXT
from recbole_tslrec.language_model.keys import FROZEN, OPTIMISATION
from recbole_tslrec.language_model.task import Task, TrainingSettings
from recbole_tslrec.paradigms.delrec.examples import (
    ImitationExamples,
    check_lengths,
    collate,
    imitation_examples,
)
from recbole_tslrec.paradigms.delrec.imitated import best_behind_histories
from recbole_tslrec.paradigms.delrec.keys import PROMPTS, SOFT_PROMPTS
from recbole_tslrec.paradigms.delrec.language_model import (
    PromptedModel,
    checked_source_for,
    open_source_for,
)
from recbole_tslrec.paradigms.delrec.ranker import VECTORS, CandidateRanker, Imitation
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.language_model_training import LanguageModelTraining, forget_models
from recbole_tslrec.stages.trained_backbone import given_model, trained_backbone
from recbole_tslrec.store.files import fingerprint, write_atomically
from recbole_tslrec.store.store import WORK, remedy

if TYPE_CHECKING:
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.workload import Workload

_FILE = "soft_prompts.safetensors"
_PROJECTION = "linear_proj."  # before its names; of slots
_WEIGHT_DECAY = 1e-5  # the authors'
_COLUMNS = ("item_text", "item_text_missing")  # where the texts are from


class SoftPromptsStage(LanguageModelTraining):
    """The learned vectors, trained alone: everything else is frozen.

    The recommender that they imitate is the trained backbone. Of slots, the projection is in the file
    as well: it stays as it starts, and the vectors are of use with it alone.
    """

    name = "soft_prompts"
    needs = (BackboneStage,)
    keys: ClassVar[tuple[str, ...]] = (
        *FROZEN.names,
        *("llm_gradient_checkpointing",),
        *OPTIMISATION.names,
        *ITEM_TEXT.names,
        *CANDIDATES.names,
        *PROMPTS.names,
        *SOFT_PROMPTS.names,
    )
    product = "soft_prompts"

    @property
    def backbone(self) -> BackboneStage:
        return self.pipeline.stage(BackboneStage)

    @cached_property
    def source(self) -> LanguageModelSource:
        """The experiment's language model, its weights not loaded."""
        return open_source_for(self.config)

    @property
    def _reads_text(self) -> bool:
        return self.config["delrec_items"] == "text"

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        checked_source_for(config)

    def check_inputs(self) -> None:
        check_lengths(self.pipeline.histories.lengths[self._learned()], self.config["sft_users"])

    @cached_property
    def made_from(self) -> dict[str, Any]:
        # The texts themselves stand for their columns, and count where they are read.
        unread = _COLUMNS if self._reads_text else ITEM_TEXT.names
        data, given = self.pipeline.data_fingerprint, given_model(self.pipeline)
        return {
            "settings": {key: own for key, own in self.settings().items() if key not in unread},
            "seed": self.config["seed"],
            "language_model": self.source.identity,
            "texts": self.pipeline.catalogue.fingerprint if self._reads_text else None,
            "backbone": self.backbone.fingerprint,
            "given": given,
            "training": data["training"],
            "items": data["items"],
        }

    def make(self, folder: Path) -> dict[str, Any]:
        from recbole_tslrec.language_model.training import train

        examples = self.examples()
        ranker, task = self.ranker_and_task(examples)
        learner = Imitation(ranker).to(self.config["device"])
        report = train(learner, task, *self.arguments(self._checkpoints(folder, examples)))
        kept = {VECTORS: learner.soft_vectors, **_projection(ranker)}
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}
        self.keep(
            folder, lambda to: write_atomically(to / _FILE, lambda file: save_file(kept, file))
        )
        del learner, ranker
        forget_models()
        return report.as_dict() | provenance.read_from(self.backbone)

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        from recbole_tslrec.language_model.workload import training_workload

        ranker, task = self.ranker_and_task(self.examples())
        learner = Imitation(ranker).to(self.config["device"])
        budget, seed = self.config["sft_batch_positions"], self.config["seed"]
        return [training_workload("soft prompts", task, learner, budget, seed)]

    def _checkpoints(self, folder: Path, examples: ImitationExamples) -> Path:
        """The folder of the checkpoints, with those that are of the very same examples."""
        checkpoints = folder / WORK / "checkpoints"
        order = {"order": fingerprint(self.pipeline.tokens), "examples": examples.content_hash()}
        provenance.keep_only_own(checkpoints, order | provenance.read_from(self.backbone))
        return checkpoints

    def examples(self) -> ImitationExamples:
        """What is learned from: both tasks of every learned user with a history that is long enough."""
        pipeline, config = self.pipeline, self.config
        best = best_behind_histories(
            trained_backbone(pipeline),
            pipeline.dataset,
            pipeline.histories,
            config["delrec_predictions"],
            config["candidates"] == "unseen",
            pipeline.show_progress,
        )
        chosen = self._learned()
        sizes = (pipeline.dataset.item_num, config["n_candidates"], config["seed"])
        return imitation_examples(pipeline.histories.of(chosen), best[chosen], *sizes)

    def _learned(self) -> np.ndarray:
        """The places of the users who are learned from among the histories."""
        dataset, histories = self.pipeline.dataset, self.pipeline.histories
        tokens = dataset.field2id_token[dataset.uid_field][histories.user_ids]
        return drawn_users(tokens, self.config["sft_users"], self.config["seed"])

    def ranker_and_task(self, examples: ImitationExamples) -> tuple[CandidateRanker, Task]:
        """The language model before training, and what is to be learned with it."""
        from recbole_tslrec.language_model.batches import instruction_positions

        pipeline = self.pipeline
        init_seed(self.config["seed"], self.config["reproducibility"])
        prompted = PromptedModel.of(
            self.config,
            self.source,
            pipeline.backbone.name,
            pipeline.catalogue if self._reads_text else None,
            pipeline.tokens,
        )
        table = F.pad(self.backbone.item_embeddings(), (0, 0, 1, 0))
        ranker, prompts = prompted.ranker(table, with_adapters=False)
        leading = map(instruction_positions, (prompts.analysis, prompts.pattern))
        return ranker, Task(
            name="Soft prompts",
            unit="users",
            learning_rate_key="delrec_soft_learning_rate",
            examples=examples,
            lengths=examples.lengths(prompts, ranker.verbalizer),
            collate=partial(collate, prompts, ranker.verbalizer),
            more_positions=tuple(map(sum, zip(*leading, strict=True))),
        )

    def how(self) -> TrainingSettings:
        """The settings of the training; the last epoch is kept."""
        config = self.config
        return TrainingSettings(
            epochs=config["delrec_soft_epochs"],
            learning_rate=config["delrec_soft_learning_rate"],
            batch_positions=config["sft_batch_positions"],
            optimizer=config["sft_optimizer"],
            stopping_step=1,
            seed=config["seed"],
            weight_decay=_WEIGHT_DECAY,
        )

    def give(self, ranker: CandidateRanker) -> None:
        """Put the trained vectors, and of slots their projection, into a model before its tuning.

        Raises:
            ValueError: they are another language model's, or imitate another backbone than there is.
        """
        self.check_language_model()
        folder = self.stored.folder
        if self.pipeline.store.has(self.backbone.name, self.backbone.made_from):
            provenance.check_read(self, self.backbone)
        kept, own = load_file(folder / _FILE), {VECTORS: ranker.reader.soft_vectors}
        own |= _projection(ranker)
        if {name: tensor.shape for name, tensor in own.items()} != {
            name: tensor.shape for name, tensor in kept.items()
        }:
            raise ValueError(
                f"Stage {self.name}: [{folder}] holds vectors of other sizes than this experiment's. "
                f"{remedy(folder)}"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(kept[name])

    @cached_property
    def content_hash(self) -> str:
        return hashlib.sha256(save(load_file(self.stored.folder / _FILE))).hexdigest()


def _projection(ranker: CandidateRanker) -> dict[str, Tensor]:
    """The weights of the slots' projection; none without slots."""
    weights = ranker.reader.named_parameters()
    return {name: weight for name, weight in weights if name.startswith(_PROJECTION)}
