"""The stages of the paper in their order; each is reused when nothing it depends on has changed.

    backbone -> categories -> fine_tuning -> augmentation -> (the fused model, in RecBole's own loop)

A stage asks for the one before it only when it has to be made, and the fingerprints chain: a stage's
is made of its own settings (``settings.SETTINGS``), of the data it reads, and of the fingerprint of
the stage before. Nothing that was held out for validation or test enters; validation chooses the
epoch of the backbone, as early stopping does in any RecBole run.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import get_dataloader
from recbole.sampler import RepeatableSampler
from recbole.utils import get_trainer, init_seed
from tabulate import tabulate
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from recbole_tslrec import processes, settings
from recbole_tslrec.augmentation.enhanced_embeddings import (
    CATEGORY_DISTRIBUTION,
    ENHANCED_EMBEDDING,
    infer_categories,
    random_embeddings,
    read_items,
)
from recbole_tslrec.compatibility import load_checkpoint
from recbole_tslrec.files import check_writable
from recbole_tslrec.given_files import (
    POPULARITY,
    given_backbone,
    given_enhanced_items,
    validation_fingerprint,
)
from recbole_tslrec.item_tensors import ItemTensors
from recbole_tslrec.language_model.reader import (
    make_prompt_for,
    make_reader,
    open_source_for,
    shared_if_possible,
)
from recbole_tslrec.reconstruction.categories import latent_categories
from recbole_tslrec.reconstruction.histories import Histories, training_histories
from recbole_tslrec.reconstruction.histories import fingerprint as histories_fingerprint
from recbole_tslrec.reconstruction.preferences import mean_preferences, prior_preferences
from recbole_tslrec.storage import (
    WORK,
    Stage,
    Store,
    fingerprint,
    read_manifest,
    remedy,
    write_json,
)

ITEM_EMBEDDING = "item_embedding"  # e_v, [n_items, d] float32
CATEGORY = "category"  # [n_items] int64
_FILE = "items.safetensors"
_ENHANCED_FILE = "enhanced_items.safetensors"
_LANGUAGE_MODEL = "language_model.json"  # the identity of what the adapters beside it belong to
# In a stage's notes: the hashes of e_v and of the categories that it read.
_READ, _LABELS = "item_embeddings", "item_categories"
_READ_FILE = "read.json"  # the same, beside partial results


class Pipeline:
    """The stages before the fused model, for one experiment.

    Every method below can be called by itself; it brings about what it needs.

    Args:
        config: RecBole's config of an experiment with one of our models.
        train_data, valid_data: RecBole's loaders of the same experiment.
        backbone: the line of ``model.specifications.BACKBONES``.
        show_progress: whether to draw progress bars.
        log_folder: where TensorBoard's curves go; None for none.

    Attributes:
        stages: the stages that this run has used, in the order they were finished.
    """

    def __init__(
        self,
        config,
        train_data,
        valid_data,
        backbone,
        show_progress: bool = True,
        log_folder: str | None = None,
    ):
        self.config = config
        self.train_data, self.valid_data = train_data, valid_data
        self.backbone_spec = backbone
        self.show_progress = show_progress and processes.is_first()
        self.log_folder = log_folder
        self.dataset = train_data._dataset
        self.tokens: list[str] = self.dataset.field2id_token[self.dataset.iid_field][1:].tolist()
        self.store = Store(Path(config["tslrec_dir"]) / config["dataset"])
        self.stages: list[Stage] = []

    # ---- what the models take -------------------------------------------------------------------

    def enhanced_items(self) -> Tensor:
        """h^v, or what the control puts in its place, in the order of internal ids.

        Returns:
            [n_items - 1, width] float32; the padding row is not there.
        """
        if self.config["enhanced_items"] is not None:
            items = given_enhanced_items(self.config, self.tokens, self._data_fingerprint)
            return items.tensors[ENHANCED_EMBEDDING]
        enhancement = self.config["enhancement"]
        if enhancement == "random":
            width = self._source.hidden_size
            return random_embeddings(len(self.tokens), width, self.config["seed"])
        if enhancement == "pretrained":
            return self.item_embeddings()
        if enhancement == "preferences":
            means = mean_preferences(self.histories, self.preferences(), len(self.tokens) + 1)
            return torch.from_numpy(means[1:])
        return self._read(self.augmentation(), _ENHANCED_FILE, ENHANCED_EMBEDDING)

    def item_embeddings(self) -> Tensor:
        """e_v of the trained backbone, in the order of internal ids.

        Returns:
            [n_items - 1, d] float32; the padding row is not there.
        """
        return self._read(self.backbone(), _FILE, ITEM_EMBEDDING)

    def enhanced_items_file(self) -> Path:
        """The file of h^v of this experiment's own stages, as ``enhanced_items`` takes it."""
        return self.augmentation().folder / _ENHANCED_FILE

    def item_categories(self) -> Tensor:
        """The preliminary latent category of every item, in the order of internal ids.

        Returns:
            [n_items - 1] int64.
        """
        return self._read(self.categories(), _FILE, CATEGORY)

    def category_distributions(self) -> Tensor:
        """ĝ^v of the tuned language model, in the order of internal ids, [n_items - 1, K] float32.

        Raises:
            KeyError: the enhanced embeddings are those of a language model before fine-tuning.
        """
        return self._read(self.augmentation(), _ENHANCED_FILE, CATEGORY_DISTRIBUTION)

    # ---- the stages -----------------------------------------------------------------------------

    def backbone(self) -> Stage:
        """The trained backbone and its item embeddings e_v."""
        return self._stage("backbone", self._backbone_made_from, self._make_backbone)

    def categories(self) -> Stage:
        """k-means on e_v: the items' preliminary latent categories (§4.1)."""
        return self._stage(
            "categories", self._categories_made_from, self._make_categories, self.backbone
        )

    def fine_tuning(self) -> Stage:
        """The language model tuned to reconstruct the users' preferences (§4.1, Eq. 1 to 3)."""
        return self._stage(
            "fine_tuning",
            self._fine_tuning_made_from,
            self._make_fine_tuning,
            self.categories,
            together=True,
        )

    def augmentation(self) -> Stage:
        """The enhanced embedding h^v and, from a tuned model, ĝ^v of every item (§4.2)."""
        untuned = self.config["enhancement"] == "untuned"
        return self._stage(
            "augmentation",
            self._augmentation_made_from,
            self._make_augmentation,
            self.backbone if untuned else self.fine_tuning,
            together=True,
        )

    def missing(self, stages: Sequence[str]) -> list[str]:
        """The stages after the last one that is there: those that are made, and maybe some before."""
        for place in range(len(stages), 0, -1):
            ((name, made_from),) = self.made_from(stages[place - 1 : place]).items()
            if self.store.has(name, made_from):
                return list(stages[place:])
        return list(stages)

    def made_from(self, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What each of these stages is made from under the present settings; makes none."""
        return {name: getattr(self, f"_{name}_made_from") for name in stages}

    def seconds(self, stages: Sequence[str]) -> dict[str, float]:
        """How long each of these stages took to make, whenever that was; those that are kept."""
        all_seconds = {
            name: self.store.seconds(name, made_from)
            for name, made_from in self.made_from(stages).items()
        }
        return {name: seconds for name, seconds in all_seconds.items() if seconds is not None}

    def _stage(
        self, name: str, made_from: dict[str, Any], make, before=None, together: bool = False
    ) -> Stage:
        """A stage, found or made; the one before it is asked for only if it has to be made.

        Args:
            together: whether all processes make it, if there are several; else the first does.

        Raises:
            ValueError: it has to be made, and RecBole runs in several processes.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        # The first process decides for all: another could look a moment later, when it is there.
        if processes.agree(not self.store.has(name, made_from)):
            check_writable("tslrec_dir", self.store.root)
            if not self.config["single_spec"]:
                # RecBole's loaders give each process a share of the data; no stage is made of that.
                raise ValueError(
                    f"nproc: stages are made in one process, or in several that torchrun starts, and "
                    f"{name} is not there yet. Run the same experiment with nproc=1 first, and stop it "
                    f"when RecBole's own loop begins; with more processes its stages are then reused."
                )
            if before is not None:
                before()
        # A stage's result must not depend on whether the stages before it were made or reused, nor
        # the fused model's on either.
        with _own_random_state(self.config):
            get = self._get if processes.is_first() else self._help
            stage = get(name, made_from, make, together)
        self.stages.append(stage)
        return stage

    def _get(self, name: str, made_from: dict[str, Any], make, together: bool) -> Stage:
        """The first process: find the stage or make it, and tell the others which."""

        def make_and_tell(folder: Path):
            processes.tell(str(folder))
            return make(folder)

        stage = self.store.get(name, made_from, make_and_tell)
        if stage.reused:
            processes.tell(None)
        processes.wait_for_all()
        return stage

    def _help(self, name: str, made_from: dict[str, Any], make, together: bool) -> Stage:
        """The other processes: take part in making, if that is done together, and read the result."""
        folder = processes.hear()
        if folder is not None and together:
            make(Path(folder))
        processes.wait_for_all()
        return self.store.get(name, made_from, make)

    def _read(self, stage: Stage, file: str, tensor: str) -> Tensor:
        return ItemTensors.load(stage.folder / file).aligned(self.tokens).tensors[tensor]

    def _provenance(self, stage: str) -> dict[str, Any]:
        return {
            "stage": stage,
            "dataset": self.config["dataset"],
            "backbone": self.backbone_spec.name,
        }

    # ---- the backbone ---------------------------------------------------------------------------

    @cached_property
    def histories(self) -> Histories:
        """The users' training histories, internal ids."""
        return training_histories(self.dataset)

    @cached_property
    def _data_fingerprint(self) -> dict[str, str]:
        users = self.dataset.field2id_token[self.dataset.uid_field]
        items = self.dataset.field2id_token[self.dataset.iid_field]
        return {
            "training": histories_fingerprint(self.histories, users, items),
            "items": fingerprint(sorted(self.tokens)),
            "validation": validation_fingerprint(self.dataset, self.valid_data),
        }

    @cached_property
    def _backbone_made_from(self) -> dict[str, Any]:
        if self.config["backbone_checkpoint"] is not None:
            # Only e_v is taken from it; the file around e_v differs from one saving to the next.
            return {
                "backbone": self.backbone_spec.name,
                "items": self._hash_of_embeddings(self._given_backbone),
            }
        return {
            "backbone": self.backbone_spec.name,
            "settings": settings.training_settings(self.config.final_config_dict),
            "data": self._data_fingerprint,
        }

    def _make_backbone(self, folder: Path) -> None:
        if self.config["backbone_checkpoint"] is not None:
            table = self._given_backbone
        else:
            table = self._train_backbone(folder)
        tensors = {ITEM_EMBEDDING: table}
        ItemTensors(self.tokens, tensors, self._provenance("backbone")).save(folder / _FILE)

    @cached_property
    def _given_backbone(self) -> Tensor:
        return given_backbone(self.config, self.backbone_spec, self.dataset, self.valid_data)

    def _train_backbone(self, folder: Path) -> Tensor:
        """Train RecBole's own model in RecBole's own way on the training data; e_v of its best epoch."""
        config = self._backbone_config()
        init_seed(config["seed"], config["reproducibility"])
        model = self.backbone_spec.model_class(config, self.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.saved_model_file = str(folder / f"{self.backbone_spec.name}.pth")
        # A subfolder is a run of its own in TensorBoard; else two trainings would share one curve.
        trainer.tensorboard = SummaryWriter(os.path.join(trainer.tensorboard.log_dir, "backbone"))
        # A loader of its own: this one's shuffling must not advance the fused model's.
        train_data = get_dataloader(config, "train")(
            config, self.dataset, self._sampler(config, "train"), shuffle=config["shuffle"]
        )
        valid_data = self._backbone_valid_data(config)
        with _generator_untouched(valid_data):
            trainer.fit(train_data, valid_data, saved=True, show_progress=self.show_progress)
        return self.backbone_spec.item_embeddings(load_checkpoint(trainer.saved_model_file))

    def _backbone_valid_data(self, config):
        """The validation loader; where it draws items by popularity, one with a sampler of ours."""
        if config["valid_neg_sample_args"]["distribution"] != POPULARITY or not self.valid_data:
            return self.valid_data
        sampler = self._sampler(config, "valid")
        return get_dataloader(config, "valid")(config, self.valid_data._dataset, sampler)

    def _sampler(self, config, phase: str):
        """RecBole's sampler of negative items, which by popularity counts test interactions as well.

        This one counts the training interactions alone.
        """
        arguments = config[f"{phase}_neg_sample_args"]
        if arguments["distribution"] == "none":
            return None
        distribution, alpha = arguments["distribution"], arguments.get("alpha", 1.0)
        return RepeatableSampler([phase], self.dataset, distribution, alpha).set_phase(phase)

    def _backbone_config(self):
        config = copy.copy(self.config)
        config.final_config_dict = self.config.final_config_dict | {
            "model": self.backbone_spec.name,
            "log_wandb": False,
        }
        return config

    # ---- the categories -------------------------------------------------------------------------

    @cached_property
    def _categories_made_from(self) -> dict[str, Any]:
        return {
            "settings": settings.stage_settings(self.config, settings.CATEGORIES),
            "seed": self.config["seed"],
            "backbone": fingerprint(self._backbone_made_from),
        }

    def _make_categories(self, folder: Path) -> dict[str, Any]:
        categories = latent_categories(
            self.item_embeddings().numpy(),
            self.config["n_categories"],
            backend=self.config["category_backend"],
            seed=self.config["seed"],
        )
        tensors = {CATEGORY: torch.from_numpy(categories.labels)}
        ItemTensors(self.tokens, tensors, self._provenance("categories")).save(folder / _FILE)
        return {"sizes": categories.sizes.tolist(), _READ: self._embeddings_hash}

    def preferences(self):
        """ḡ of every user with a training history, rows in the order of ``histories`` (§4.1).

        Returns:
            scipy.sparse.csr_matrix [n_users, K] float32.
        """
        labels = np.concatenate([[-1], self.item_categories().numpy()])
        return prior_preferences(self.histories, labels, self.config["n_categories"])

    # ---- the language model ---------------------------------------------------------------------

    @cached_property
    def _source(self):
        return open_source_for(self.config)

    def _prompt(self, reader, training: bool):
        prompt = make_prompt_for(self.config, self._source)
        return shared_if_possible(prompt, reader, self.config, training)

    def _reader(self, with_adapters: bool):
        """The language model with item slots, as it is before fine-tuning."""
        init_seed(self.config["seed"], self.config["reproducibility"])
        padded = torch.nn.functional.pad(self.item_embeddings(), (0, 0, 1, 0))
        return make_reader(self.config, self._source, padded, with_adapters)

    def _reconstruction_model(self):
        from recbole_tslrec.reconstruction.reconstruction_model import ReconstructionModel

        model = ReconstructionModel(
            self._reader(with_adapters=True), self._source.hidden_size, self.config["n_categories"]
        )
        return model.to(self.config["device"])

    @cached_property
    def _fine_tuning_made_from(self) -> dict[str, Any]:
        return {
            "settings": settings.stage_settings(
                self.config, settings.LANGUAGE_MODEL, settings.FINE_TUNING
            ),
            "seed": self.config["seed"],
            "language_model": self._source.identity,
            "categories": fingerprint(self._categories_made_from),
            "training": self._data_fingerprint["training"],
        }

    def _make_fine_tuning(self, folder: Path) -> dict[str, Any]:
        from recbole_tslrec.reconstruction.fine_tuning import FineTuningSettings, fine_tune

        config = self.config
        self._check_read_by(self.categories())
        preferences = self.preferences()
        model = self._reconstruction_model()
        prompt = self._prompt(model.reader, training=True)
        checkpoints = folder / WORK / "checkpoints"
        users = self.dataset.field2id_token[self.dataset.uid_field].tolist()
        # Which users are held out follows from their order in the file.
        order = fingerprint([users, self.tokens])
        self._keep_only_own(checkpoints, {"order": order, _LABELS: self._labels_hash})
        report = fine_tune(
            model,
            prompt,
            self.histories,
            preferences,
            FineTuningSettings(
                epochs=config["sft_epochs"],
                learning_rate=config["sft_learning_rate"],
                batch_positions=config["sft_batch_positions"],
                optimizer=config["sft_optimizer"],
                valid_ratio=config["sft_valid_ratio"],
                stopping_step=config["sft_stopping_step"],
                seed=config["seed"],
            ),
            checkpoints,
            config["device"],
            self.show_progress,
            self.log_folder and os.path.join(self.log_folder, "fine_tuning"),
        )
        if processes.is_first():
            model.save(folder)
            write_json(folder / _LANGUAGE_MODEL, self._source.identity)
        # Augmentation loads the model again; trainer and model refer to each other, so that without
        # this both would be in memory until Python happens to look for such circles.
        del model
        gc.collect()
        torch.cuda.empty_cache()
        return report.as_dict() | {_READ: self._embeddings_hash, _LABELS: self._labels_hash}

    @cached_property
    def _embeddings_hash(self) -> str:
        """Of e_v as it is now: the same settings give another one on another machine."""
        return self._hash_of_embeddings(self.item_embeddings())

    @cached_property
    def _labels_hash(self) -> str:
        """Of the categories as they are now: k-means may number the same groups otherwise."""
        return ItemTensors(self.tokens, {CATEGORY: self.item_categories()}).content_hash()

    def _hash_of_embeddings(self, table: Tensor) -> str:
        return ItemTensors(self.tokens, {ITEM_EMBEDDING: table}).content_hash()

    def _keep_only_own(self, folder: Path, read: dict[str, Any]) -> None:
        """Make a folder for partial results, and empty it of those that were made of something else.

        A fingerprint is of what a stage is made from: removed and made again, the stage before may come
        out otherwise.

        Args:
            folder: there already if an earlier run was interrupted.
            read: what the partial results depend on besides e_v.
        """
        if processes.is_first():
            own, note = read | {_READ: self._embeddings_hash}, folder.parent / _READ_FILE
            known = _read_note(note)
            if folder.is_dir() and any(folder.iterdir()) and known != own:
                getLogger().warning(
                    f"[{folder}]: partial results of other item embeddings, of another language model "
                    f"or of the data in another order, or that do not say of which, are removed."
                )
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(note, own)
        processes.wait_for_all()

    # ---- the enhanced embeddings ----------------------------------------------------------------

    @cached_property
    def _augmentation_made_from(self) -> dict[str, Any]:
        if self.config["enhancement"] == "untuned":
            return {
                "settings": settings.stage_settings(self.config, settings.LANGUAGE_MODEL),
                "seed": self.config["seed"],
                "n_categories": self.config["n_categories"],  # the instruction names it
                "language_model": self._source.identity,
                "backbone": fingerprint(self._backbone_made_from),
            }
        return {"fine_tuning": fingerprint(self._fine_tuning_made_from)}

    def _make_augmentation(self, folder: Path) -> dict[str, Any] | None:
        from recbole_tslrec.language_model.meter import metered

        tuned = self.config["enhancement"] != "untuned"
        if tuned:
            stage = self.fine_tuning()
            self._source.check_is(stage.folder / _LANGUAGE_MODEL)
            self._check_read_by(stage)
            model = self._reconstruction_model()
            model.load(stage.folder)
        reader = model.reader if tuned else self._reader(with_adapters=False)
        shards = folder / WORK / "shards"
        adapters = read_manifest(stage.folder)["files"] if tuned else None
        self._keep_only_own(shards, {"adapters": adapters})
        prompt = self._prompt(reader, training=False)
        with metered(reader) as meter:
            enhanced = read_items(reader, prompt, self.tokens, shards, self.show_progress)
        if enhanced is None:  # this process has done its share; the first one writes
            return None
        tensors = {ENHANCED_EMBEDDING: enhanced}
        if tuned:
            tensors[CATEGORY_DISTRIBUTION] = infer_categories(model, enhanced)
        made_from = [settings.CATEGORIES, settings.LANGUAGE_MODEL, settings.FINE_TUNING]
        provenance = self._provenance("augmentation") | {
            "fingerprint": fingerprint(self._augmentation_made_from),
            "training": self._data_fingerprint["training"],
            "validation": self._data_fingerprint["validation"],
            "enhancement": self.config["enhancement"],
            "llm": self.config["llm"],
            "language_model": self._source.identity,
            "seed": self.config["seed"],
            "settings": settings.stage_settings(self.config, *made_from),
        }
        ItemTensors(self.tokens, tensors, provenance).save(folder / _ENHANCED_FILE)
        labels = {_LABELS: stage.notes.get(_LABELS)} if tuned else {}
        return {"cost": meter.cost(), _READ: self._embeddings_hash} | labels

    def check_stages_agree(self) -> None:
        """Raise ValueError if categories and enhanced embeddings are not of the same e_v.

        A model takes one of them at a time; who sets them side by side calls this first.
        """
        for stage in (self.categories(), self.augmentation()):
            self._check_read_by(stage)
        self._check_made_of(self.augmentation(), _LABELS, self._labels_hash, self.categories())

    def _check_read_by(self, stage: Stage) -> None:
        """Raise ValueError if a stage was made of other item embeddings than there are now."""
        self._check_made_of(stage, _READ, self._embeddings_hash, self.backbone())

    def _check_made_of(self, stage: Stage, note: str, now: str, source: Stage) -> None:
        """Raise ValueError if a stage notes another hash of what ``source`` holds than that of now."""
        noted = stage.notes.get(note)
        if noted is not None and noted != now:
            raise ValueError(
                f"Stage {stage.name}: [{stage.folder}] was made of other {note.replace('_', ' ')} than "
                f"those in [{source.folder}]: the {source.name} stage was made again and came out "
                f"otherwise, as it does on another machine. {remedy(stage.folder)}"
            )


def cost_table(stages: Sequence[Stage]) -> str:
    """What the stages came to, as text; for a reused one, what it came to when it was made."""
    rows = []
    for stage in stages:
        cost = stage.notes.get("cost", {})
        memory = cost.get("peak_memory_bytes")
        rows.append(
            {
                "stage": stage.name + (" (reused)" if stage.reused else ""),
                "seconds": f"{stage.seconds:.1f}",
                "examples": cost.get("examples"),
                "positions": cost.get("positions"),
                "padding": f"{100 * cost['padding_share']:.1f} %" if cost else None,
                "positions/s": cost.get("positions_per_second"),
                "peak GiB": f"{memory / 2**30:.2f}" if memory else None,
            }
        )
        if cost.get("share_of_matrix_rate"):
            rows[-1]["share of matrix rate"] = cost["share_of_matrix_rate"]
    if not rows:
        return "Stages: none is needed."
    return "Stages:\n" + tabulate(rows, headers="keys", tablefmt="github", intfmt=",")


@contextmanager
def _generator_untouched(loader) -> Iterator[None]:
    """Have a loader seed its workers afterwards as if nothing had been read from it."""
    state = loader.generator.get_state() if loader else None
    try:
        yield
    finally:
        if loader:
            loader.generator.set_state(state)


def _read_note(note: Path) -> dict[str, Any] | None:
    """What a json file holds; None if it is not there or is damaged."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def _own_random_state(config) -> Iterator[None]:
    """Seed everything as the experiment says, and give the caller's random state back after."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device = config["device"]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        init_seed(config["seed"], config["reproducibility"])
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
