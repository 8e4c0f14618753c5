"""``enhancement: tuned_text``: the vectors of the items' words in a language model tuned on them.

Two stages, the tuned language model and its vectors. Each has a twin for the control, in which the words
of the items are dealt out among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.utils import init_seed
from torch import Tensor

from recbole_tslrec.data.histories import Histories, drawn_users
from recbole_tslrec.language_model.keys import (
    ADAPTERS,
    HISTORY,
    MEMORY,
    OPTIMISATION,
    STOPPING,
    TRAINING,
)
from recbole_tslrec.language_model.preflight import check_fine_tuning, check_source
from recbole_tslrec.language_model.reader import open_source_for
from recbole_tslrec.paradigms.tslrec.augmentation.text_controls import TextEmbedding, dealt_out
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.language_model_training import LanguageModelTraining, forget_models
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.text_vectors import TextVectorsStage
from recbole_tslrec.store import processes
from recbole_tslrec.store.store import WORK, read_manifest

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.task import Task, TrainingSettings
    from recbole_tslrec.language_model.text_encoder import TextEncoder
    from recbole_tslrec.language_model.workload import Workload
    from recbole_tslrec.paradigms.tslrec.augmentation.text_tuning import TextTuner, UserPairs
    from recbole_tslrec.stages.pipeline import Pipeline

_USERS_A_BATCH = 16  # fewer give few wrong answers


class TextTuningStage(LanguageModelTraining):
    """The language model, tuned so that items that follow each other have words of like vectors."""

    name = "text_tuning"
    needs = (TextVectorsStage,)
    keys = (
        *HISTORY.names,
        *MEMORY.names,
        *ADAPTERS.names,
        *STOPPING.names,
        *OPTIMISATION.names,
        *TRAINING.names,
    )

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        if config["llm_max_history"] < 2:
            raise ValueError(
                f"llm_max_history: [{config['llm_max_history']}] leaves no two items in a row for "
                f"enhancement: [{config['enhancement']}] to learn from. Set llm_max_history: 2 or more."
            )
        source = open_source_for(config)
        check_source(config, source)
        check_fine_tuning(config, source)

    def check_inputs(self) -> None:
        self.pairs()

    @property
    def texts(self) -> TextVectorsStage:
        """The words as the language model reads them before."""
        return self.pipeline.stage(TextVectorsStage)

    @property
    def source(self) -> LanguageModelSource:
        return self.texts.source

    @cached_property
    def made_from(self) -> dict[str, Any]:
        # Each process tells the right item from those of its own share of a batch.
        shared = {"processes": processes.count()} if processes.count() > 1 else {}
        return shared | {
            "settings": self.settings(),
            "seed": self.config["seed"],
            "texts": self.texts.fingerprint,
            "missing": sorted(self.pipeline.catalogue.substituted),
            "training": self.pipeline.data_fingerprint["training"],
        }

    def words_of(self) -> np.ndarray:
        """Whose words each item has, [n_items - 1] int64, from 0 on: its own."""
        return np.arange(len(self.pipeline.tokens))

    def make(self, folder: Path) -> dict[str, Any]:
        from recbole_tslrec.language_model.training import train

        checkpoints = folder / WORK / "checkpoints"
        mean = self.texts.text_vectors()[self.known()].mean(dim=0)
        tuner, task = self.tuner_and_task(mean)
        self._tell_if_few(task)
        provenance.keep_only_own(checkpoints, provenance.read_from(self.texts))
        report = train(tuner, task, *self.arguments(checkpoints))
        self.keep(folder, tuner.save)
        del tuner, task
        forget_models()
        return report.as_dict() | provenance.read_from(self.texts)

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        from recbole_tslrec.language_model.workload import training_workload

        # The language model is not asked for the mean of its vectors, which makes no difference here.
        tuner, task = self.tuner_and_task(torch.zeros(self.source.hidden_size))
        how = self.how()
        yield training_workload("text tuning", task, tuner, how.batch_positions, how.seed)

    def _tell_if_few(self, task: Task) -> None:
        # Each process has its own share of a batch, and tells the items of that alone.
        wanted, a_user = _USERS_A_BATCH * processes.count(), float(task.lengths.mean())
        if self.config["sft_batch_positions"] < wanted * a_user:
            getLogger(__name__).warning(
                f"sft_batch_positions: [{self.config['sft_batch_positions']}] holds the words of about "
                f"{self.config['sft_batch_positions'] / a_user:.1f} users, and the right item is told "
                f"from those of the other users in a batch. Set sft_batch_positions: "
                f"{1000 * -(-wanted * a_user // 1000):.0f} or more."
            )

    def tuner_and_task(self, mean: Tensor) -> tuple[TextTuner, Task]:
        """The language model before tuning, on the experiment's device, and what it is to learn.

        Args:
            mean: as ``TextTuner`` takes it.

        Raises:
            ValueError: there is nothing to learn from.
        """
        from recbole_tslrec.paradigms.tslrec.augmentation.text_tuning import TextTuner, tuning_task

        config, pairs = self.config, self.pairs()
        learned, watched = self._split(pairs)
        encoder, prompt = self.encoder()
        task = tuning_task(prompt, pairs, learned, watched, config["sft_batch_positions"])
        a_user = float(np.mean([len(pairs[user]) for user in learned]))
        tuner = TextTuner(encoder, mean, pairs.log_frequency, a_user)
        return tuner.to(config["device"]), task

    def encoder(self) -> tuple[TextEncoder, Template]:
        """The language model with adapters as they start, and the prompts of the items' words."""
        init_seed(self.config["seed"], self.config["reproducibility"])
        return self.texts.own_encoder(with_adapters=True)

    def known(self) -> np.ndarray:
        """Of every item whether its words are its own, and not ``item_text_missing``. [n_items - 1]"""
        missing = self.pipeline.catalogue.substituted
        return np.array([token not in missing for token in self.pipeline.tokens])

    def pairs(self) -> UserPairs:
        """The pairs of the share ``sft_users``; in them, items are those whose words are read.

        Raises:
            ValueError: there are less than two users with a pair to learn from.
        """
        from recbole_tslrec.paradigms.tslrec.augmentation.text_tuning import UserPairs

        histories, dataset = self.pipeline.histories, self.pipeline.dataset
        users = dataset.field2id_token[dataset.uid_field]
        if self.config["sft_users"] < 1:
            tokens = users[histories.user_ids]
            share = drawn_users(tokens, self.config["sft_users"], self.config["seed"])
            histories = histories.of(share)
        read = self.words_of()[histories.items - 1] + 1
        histories = Histories(histories.user_ids, histories.offsets, read)
        most = self.config["llm_max_history"] - 1
        pairs = UserPairs.of(histories, users, self.known(), most)
        if len(pairs) < 2 or len(self._split(pairs)[0]) < 2:  # one alone has no wrong answers
            raise ValueError(
                f"enhancement: [{self.config['enhancement']}] learns from two users at least with two "
                f"items in a row that have words, besides those held out (sft_valid_ratio: "
                f"[{self.config['sft_valid_ratio']}], two at least if any), and there are {len(pairs)}. "
                f"Set sft_users: 1.0 or sft_valid_ratio: 0.0, or give more items a text."
            )
        return pairs

    def _split(self, pairs: UserPairs) -> tuple[np.ndarray, np.ndarray]:
        """Whom to learn from and whom to watch by, places in ``pairs``."""
        from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import split_users

        ratio, seed = self.config["sft_valid_ratio"], self.config["seed"]
        return split_users(len(pairs), ratio, seed, least=2)  # as of those to learn from

    def how(self) -> TrainingSettings:
        from recbole_tslrec.language_model.task import TrainingSettings

        return TrainingSettings.of(self.config)

    def bytes_on_disk(self) -> int:
        return self.bytes_of_training()

    def tuned_encoder(self) -> tuple[TextEncoder, Template]:
        """The language model as tuning left it, and the prompts of the items' words.

        Raises:
            ValueError: it was another language model that was tuned, or other texts.
        """
        from recbole_tslrec.language_model.learner import TrainedParts

        self.check_language_model()
        provenance.check_read(self, self.texts)
        encoder, prompt = self.encoder()
        TrainedParts(encoder).load(self.stored.folder)
        return encoder, prompt


class ShuffledTextTuningStage(TextTuningStage):
    """The control: tuned on the same histories, in which each item has the words of another."""

    name = "shuffled_text_tuning"

    def words_of(self) -> np.ndarray:
        return dealt_out(self.pipeline.tokens, self.config["seed"], self.known())


class TunedTextVectorsStage(TextVectorsStage):
    """Each item's words alone through the tuned language model."""

    name = "tuned_text_vectors"
    needs: tuple[type[Stage], ...] = (TextTuningStage,)
    keys = ()

    def check_inputs(self) -> None:
        """Nothing: the words are those of the stage before."""

    @property
    def tuning(self) -> TextTuningStage:
        return self.pipeline.stage(self.needs[0])

    @cached_property
    def made_from(self) -> dict[str, Any]:
        return {"text_tuning": self.tuning.fingerprint}

    def encoder(self) -> tuple[TextEncoder, Template]:
        return self.tuning.tuned_encoder()

    def read_with(self) -> dict[str, Any]:
        return {"adapters": read_manifest(self.tuning.stored.folder)["files"]}

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        from recbole_tslrec.language_model.item_states import workload

        yield workload(*self.tuning.encoder(), len(self.pipeline.tokens))


class ShuffledTunedTextVectorsStage(TunedTextVectorsStage):
    """The control: each item's words, not yet dealt out, through the language model tuned for it."""

    name = "shuffled_tuned_text_vectors"
    needs = (ShuffledTextTuningStage,)


class TunedText(TextEmbedding):
    """The words of each item as the language model reads them that was tuned on the histories."""

    name = "tuned_text"
    stages = (TunedTextVectorsStage,)

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(TunedTextVectorsStage).text_vectors()


class ShuffledTunedText(TunedText):
    """The same, tuned and read with the words dealt out among the items: what tuning learns by heart."""

    name = "shuffled_tuned_text"
    stages = (ShuffledTunedTextVectorsStage,)

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        stage = pipeline.stage(ShuffledTunedTextVectorsStage)
        return stage.text_vectors()[torch.from_numpy(stage.tuning.words_of())]
