"""The stage of information reconstruction (paper §4.1): the tuned language model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole.utils import init_seed
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from recbole_tslrec.data.histories import drawn_users
from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.item_inputs import (
    has_slots,
    has_words,
    reads_text_alone,
    slot_inputs,
    slots_hold_text,
    unread_texts,
    within_a_sentence,
)
from recbole_tslrec.language_model.keys import (
    ADAPTERS,
    HISTORY,
    ITEM_INPUTS,
    MEMORY,
    OPTIMISATION,
    READING,
    RESPONSE,
    STOPPING,
    TRAINING,
)
from recbole_tslrec.language_model.preflight import check_fine_tuning
from recbole_tslrec.language_model.prompt import with_numbers
from recbole_tslrec.language_model.reader import make_reader, open_source_for
from recbole_tslrec.paradigms.tslrec.keys import INSTRUCTION, SECOND_TASK
from recbole_tslrec.paradigms.tslrec.prompt import (
    KEY,
    as_read_by,
    check_prompt,
    chosen_words,
    make_prompt,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.next_title import check_next_title
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import user_preferences
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.language_model_training import LanguageModelTraining, forget_models
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.text_vectors import TextVectorsStage
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.store import WORK

if TYPE_CHECKING:
    from recbole_tslrec.data.histories import Histories
    from recbole_tslrec.language_model.encoder import ItemPromptModel
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.workload import Workload
    from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import FineTuningSettings
    from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import (
        ReconstructionModel,
    )

_COLUMNS = ("item_text", "item_text_missing")  # where the texts are from
LOADED = "loaded_language_model"  # in a stage's notes: what transformers read of the weights


class ReadsItems(Stage):
    """A stage in which the language model reads items: what fine-tuning and augmentation share."""

    together = True

    @property
    def backbone(self) -> BackboneStage:
        return self.pipeline.stage(BackboneStage)

    @property
    def needed(self) -> tuple[type[Stage], ...]:
        texts = (TextVectorsStage,) if slots_hold_text(self.config) else ()
        return (*texts, *self.needs)  # the texts first: what is wrong with them shows soon

    @property
    def in_slots(self) -> tuple[type[Stage], ...]:
        """Whose results the slots hold, the texts first; none where there are no slots."""
        texts = (TextVectorsStage,) if slots_hold_text(self.config) else ()
        return texts if reads_text_alone(self.config) else (*texts, BackboneStage)

    @property
    def sources(self) -> tuple[Stage, ...]:
        """The stages ``in_slots``."""
        return tuple(self.pipeline.stage(kind) for kind in self.in_slots)

    def check_inputs(self) -> None:
        if has_words(self.config):  # the tokenizer must find some in each text
            _ = self._whole_prompt

    def settings(self) -> dict[str, Any]:
        # The texts themselves stand for their columns, and count where they are read.
        unread = (*_COLUMNS, *unread_texts(self.config))
        settings = {key: value for key, value in super().settings().items() if key not in unread}
        if KEY in settings:  # the default given is the default
            settings[KEY] = chosen_words(self.config, self.source)
        return settings

    def texts_made_from(self) -> dict[str, Any]:
        """What ``made_from`` says of the items' texts; nothing where they are not read."""
        of_words: dict[str, Any] = {}
        if has_words(self.config):
            of_words = {"texts": self.pipeline.catalogue.fingerprint}
            of_words |= within_a_sentence(self.source.tokenizer)
        if slots_hold_text(self.config):
            of_words[TextVectorsStage.name] = self.pipeline.stage(TextVectorsStage).fingerprint
        return of_words

    @cached_property
    def source(self) -> LanguageModelSource:
        """The experiment's language model, its weights not loaded."""
        return open_source_for(self.config)

    def prompt(self, reader: ItemPromptModel, training: bool) -> Template:
        """The words around the items, as ``reader`` takes the fewest positions."""
        return as_read_by(reader, self._whole_prompt, self.config, training)

    @cached_property
    def _whole_prompt(self) -> Template:
        """The words around the items, and theirs where these stand in it."""
        pipeline = self.pipeline
        texts = pipeline.catalogue.of(pipeline.tokens) if has_words(self.config) else None
        return make_prompt(self.config, self.source, texts)

    def reader(self, with_adapters: bool, head: bool = False) -> ItemPromptModel:
        """The language model with item slots, as it is before fine-tuning; maybe with its head."""
        init_seed(self.config["seed"], self.config["reproducibility"])
        return make_reader(self.config, self.source, self.slots(), with_adapters, head)

    def slots(self) -> Tensor | None:
        """What the slots project, [n_items, width] with the padding row 0; None without slots."""
        if not has_slots(self.config):
            return None
        held, texts, embeddings = self.in_slots, None, None
        if TextVectorsStage in held:
            texts = self.pipeline.stage(TextVectorsStage).text_vectors()
        if BackboneStage in held:
            embeddings = self.backbone.item_embeddings()
        own = slot_inputs(self.config, embeddings, texts)
        return F.pad(own, (0, 0, 1, 0))


class FineTuningStage(ReadsItems, LanguageModelTraining):
    """The language model tuned to reconstruct the users' preferences (§4.1, Eq. 1 to 3)."""

    name = "fine_tuning"
    needs = (CategoriesStage,)
    keys = (
        *READING.names,
        *ITEM_INPUTS.names,
        *ITEM_TEXT.names,
        *RESPONSE.names,
        *HISTORY.names,
        *MEMORY.names,
        *INSTRUCTION.names,
        *ADAPTERS.names,
        *STOPPING.names,
        *OPTIMISATION.names,
        *TRAINING.names,
        *SECOND_TASK.names,
    )

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        check_next_title(config, open_source_for(config))
        check_prompt(config)
        check_fine_tuning(config)

    @property
    def categories(self) -> CategoriesStage:
        return self.pipeline.stage(CategoriesStage)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "seed": self.config["seed"],
            "language_model": self.source.identity,
            "categories": self.categories.fingerprint,
            "training": self.pipeline.data_fingerprint["training"],
        } | self.texts_made_from()

    def make(self, folder: Path) -> dict[str, Any]:
        from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import fine_tune

        provenance.check_read(self.categories, self.backbone)
        histories, preferences = self.examples()
        model = self.reconstruction_model()
        loaded = {LOADED: model.reader.language_model.loaded}
        report = fine_tune(
            model,
            self.training_prompt(model),
            histories,
            preferences,
            *self.arguments(self._checkpoints(folder)),
        )
        self.keep(folder, model.save)
        del model
        forget_models()
        return report.as_dict() | loaded | provenance.read_from(*self.sources, self.categories)

    def _checkpoints(self, folder: Path) -> Path:
        """The folder of the checkpoints, with those that are of the very same data and categories."""
        dataset, checkpoints = self.pipeline.dataset, folder / WORK / "checkpoints"
        users = dataset.field2id_token[dataset.uid_field].tolist()
        # Which users are held out follows from their order in the file.
        order = {"order": fingerprint([users, self.pipeline.tokens])}
        read = order | provenance.read_from(*self.sources, self.categories)
        provenance.keep_only_own(checkpoints, read)
        return checkpoints

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import workloads

        model = self.reconstruction_model()
        prompt = self.training_prompt(model)
        return workloads(model, prompt, *self.examples(), self.how(), ablation)

    def training_prompt(self, model: ReconstructionModel) -> Template:
        """The prompt as ``model`` learns from it; for a second task its items are numbered."""
        prompt = self.prompt(model.reader, training=True)
        return with_numbers(prompt) if model.next_title else prompt

    def examples(self) -> tuple[Histories, csr_matrix]:
        """What is learned from: the histories of the share ``sft_users``, and ḡ in the same order."""
        histories, preferences = self.pipeline.histories, user_preferences(self.pipeline)
        share = self.config["sft_users"]
        if share == 1:
            return histories, preferences
        dataset = self.pipeline.dataset
        tokens = dataset.field2id_token[dataset.uid_field][histories.user_ids]
        chosen = drawn_users(tokens, share, self.config["seed"])
        return histories.of(chosen), preferences[chosen]

    def how(self) -> FineTuningSettings:
        """The settings of the training."""
        from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import FineTuningSettings

        ratio = self.config["sft_valid_ratio"]
        return FineTuningSettings.of(self.config, valid_ratio=ratio)

    def bytes_on_disk(self) -> int:
        d = self.config["hidden_size"] or self.config["embedding_size"] or 64
        projections = self.source.hidden_size * (d + self.config["n_categories"])
        return self.bytes_of_training(projections)

    def reconstruction_model(self) -> ReconstructionModel:
        """The model of Eq. 1 to 3 as it is before fine-tuning, on the experiment's device."""
        from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import (
            ReconstructionModel,
        )

        next_title = float(self.config["sft_next_title"])
        # After tuning the head is of no use, but the adapters' names are of the model that has it.
        reader = self.reader(with_adapters=True, head=next_title > 0)
        n_categories = self.config["n_categories"]
        model = ReconstructionModel(reader, self.source.hidden_size, n_categories, next_title)
        return model.to(self.config["device"])

    def tuned_model(self) -> ReconstructionModel:
        """The model as fine-tuning left it.

        Raises:
            ValueError: it was tuned with another language model or other item embeddings.
        """
        self.check_language_model()
        for stage in self.sources:
            provenance.check_read(self, stage)
        model = self.reconstruction_model()
        model.load(self.stored.folder)
        return model
