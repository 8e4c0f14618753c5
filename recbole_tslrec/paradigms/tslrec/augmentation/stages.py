"""The stage of information augmentation (paper §4.2): each item alone through the language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from recbole_tslrec.config.key import KEYS, result_values
from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.item_states import read_items
from recbole_tslrec.language_model.keys import ITEM_INPUTS, READING, RESPONSE
from recbole_tslrec.paradigms.tslrec.augmentation.inferred_categories import infer_categories
from recbole_tslrec.paradigms.tslrec.keys import INSTRUCTION
from recbole_tslrec.paradigms.tslrec.prompt import check_prompt, chosen_words
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import (
    LOADED,
    FineTuningStage,
    ReadsItems,
)
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store.store import WORK, read_manifest

if TYPE_CHECKING:
    from recbole_tslrec.language_model.workload import Workload

_FILE = "enhanced_items.safetensors"
# The names of its tensors.
ENHANCED_EMBEDDING = "enhanced_embedding"  # h^v, [n_items, hidden] float32
CATEGORY_DISTRIBUTION = "category_distribution"  # ĝ^v, [n_items, K] float32


class AugmentationStage(ReadsItems):
    """The enhanced embedding h^v and the inferred category distribution ĝ^v of every item (§4.2)."""

    name = "augmentation"
    needs = (FineTuningStage,)

    @property
    def fine_tuning(self) -> FineTuningStage:
        return self.pipeline.stage(FineTuningStage)

    def check_inputs(self) -> None:
        if FineTuningStage not in self.needs:  # else the words are those of the stage before
            super().check_inputs()

    @cached_property
    def made_from(self) -> dict[str, Any]:
        return {"fine_tuning": self.fine_tuning.fingerprint}  # it names the texts, too

    def make(self, folder: Path) -> dict[str, Any] | None:
        model = self.fine_tuning.tuned_model()
        tuned = self.fine_tuning.stored
        enhanced, notes = self.read(model.reader, folder, read_manifest(tuned.folder)["files"])
        if enhanced is None:  # this process has done its share; the first one writes
            return None
        distribution = {CATEGORY_DISTRIBUTION: infer_categories(model, enhanced)}
        self.save(folder, enhanced, distribution)
        # The categories that were fine-tuned on, which may not be those of now.
        labels = {CategoriesStage.product: tuned.notes.get(CategoriesStage.product)}
        return notes | provenance.read_from(*self.sources) | labels

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        from recbole_tslrec.language_model.item_states import workload
        from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import BY_LENGTH

        reader = self.reader(with_adapters=FineTuningStage in self.needs)
        prompt = self.prompt(reader, training=False)
        yield workload(reader, prompt, len(self.pipeline.tokens))
        if ablation and prompt.shared_prefix:
            whole = replace(prompt, shared_prefix=False)
            yield workload(reader, whole, len(self.pipeline.tokens), BY_LENGTH)

    def read(
        self, reader, folder: Path, adapters: dict[str, str] | None
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """h^v by ``reader``, and notes on what that cost and what was loaded.

        Args:
            adapters: hashes of the files of what was tuned; None before fine-tuning.
        """
        from recbole_tslrec.language_model.meter import metered

        shards = folder / WORK / "shards"
        read = {"adapters": adapters} | provenance.read_from(*self.sources)
        provenance.keep_only_own(shards, read)
        prompt, pipeline = self.prompt(reader, training=False), self.pipeline
        with metered(reader) as meter:
            enhanced = read_items(
                reader, prompt, pipeline.tokens, shards, "Augmentation", pipeline.show_progress
            )
        return enhanced, {"cost": meter.cost(), LOADED: reader.language_model.loaded}

    def save(self, folder: Path, enhanced: Tensor, more: dict[str, Tensor]) -> None:
        """Write h^v, and what else there is, with all that it was made from."""
        read = {name for stage in self.pipeline.chain([type(self)]) for name in stage.keys}
        self.save_items(
            folder,
            _FILE,
            {ENHANCED_EMBEDDING: enhanced} | more,
            fingerprint=self.fingerprint,
            training=self.pipeline.data_fingerprint["training"],
            validation=self.pipeline.data_fingerprint["validation"],
            enhancement=self.config["enhancement"],
            llm=self.config["llm"],
            language_model=self.source.identity,
            seed=self.config["seed"],
            settings=result_values(self.config, sorted(read)),
        )

    def bytes_on_disk(self) -> int:
        """h^v and ĝ^v, fp32."""
        columns = self.source.hidden_size + self.config["n_categories"]
        return 4 * len(self.pipeline.tokens) * columns

    def enhanced_embeddings(self) -> Tensor:
        """h^v in the order of internal ids, [n_items - 1, hidden] float32."""
        return self.read_items(_FILE, ENHANCED_EMBEDDING)

    def category_distributions(self) -> Tensor:
        """ĝ^v in the order of internal ids, [n_items - 1, K] float32."""
        return self.read_items(_FILE, CATEGORY_DISTRIBUTION)

    def file(self) -> Path:
        """The file of h^v, as the key ``enhanced_items`` takes it."""
        return self.stored.folder / _FILE

    def check_agrees(self) -> None:
        """Raise ValueError if h^v and the categories are not of the same item embeddings.

        A model takes one of them at a time; who sets them side by side calls this first.
        """
        categories = self.pipeline.stage(CategoriesStage)
        for stage in (categories, self):
            provenance.check_read(stage, self.backbone)
        provenance.check_read(self, categories)


class FrozenAugmentationStage(AugmentationStage):
    """The control: hidden states of the items in the language model before fine-tuning."""

    needs = (BackboneStage,)
    # The instruction may name K.
    keys = (
        *(*READING.names, *RESPONSE.names, *INSTRUCTION.names, "n_categories"),
        *(*ITEM_INPUTS.names, *ITEM_TEXT.names),
    )

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if "{n_categories}" not in chosen_words(self.config, self.source):
            # Not read: any K is the default one, under which such stages are kept.
            settings["n_categories"] = KEYS["n_categories"].default
        return settings

    @property
    def needed(self) -> tuple[type[Stage], ...]:
        return self.in_slots  # words alone need no backbone

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        check_prompt(config)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "seed": self.config["seed"],
            "language_model": self.source.identity,
            **({"backbone": self.backbone.fingerprint} if BackboneStage in self.in_slots else {}),
            **self.texts_made_from(),
        }

    def make(self, folder: Path) -> dict[str, Any] | None:
        reader = self.reader(with_adapters=False)
        enhanced, notes = self.read(reader, folder, adapters=None)
        if enhanced is None:
            return None
        self.save(folder, enhanced, {})
        return notes | provenance.read_from(*self.sources)
