"""The resolver of stages: each is reused when nothing it depends on has changed, else made.

A stage is asked for the ones it needs only when it has to be made itself, and fingerprints chain: a
stage's is made of its own settings, of the data it reads, and of the fingerprints of the stages before.
Nothing that was held out for validation or test enters; validation chooses the epoch of the backbone, as
early stopping does in any RecBole run.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from recbole.utils import init_seed
from tabulate import tabulate

from recbole_tslrec.data.histories import Histories, training_histories
from recbole_tslrec.data.histories import fingerprint as histories_fingerprint
from recbole_tslrec.data.item_catalogue import Catalogue, catalogue_of
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.trained_on import validation_fingerprint
from recbole_tslrec.store import processes
from recbole_tslrec.store.files import check_writable, fingerprint, warn_of_little_space
from recbole_tslrec.store.store import Store, StoredResult

_S = TypeVar("_S", bound=Stage)


class Pipeline:
    """The stages of one experiment, and what they read of it.

    Args:
        config: RecBole's config of an experiment with one of our models.
        train_data, valid_data: RecBole's loaders of the same experiment.
        backbone: a line of the table of backbones; None for a model that has none.
        show_progress: whether to draw progress bars.
        log_folder: where TensorBoard's curves go; None for none.

    Attributes:
        dataset: RecBole's data set of the training rows.
        tokens: of the items, in the order of internal ids, padding left out.
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
        self.backbone = backbone
        self.show_progress = show_progress and processes.is_first()
        self.log_folder = log_folder
        self.dataset = train_data._dataset
        self.tokens: list[str] = self.dataset.field2id_token[self.dataset.iid_field][1:].tolist()
        self.store = Store(Path(config["tslrec_dir"]) / config["dataset"])
        self._stages: dict[type[Stage], Stage] = {}
        self._stored: dict[type[Stage], StoredResult] = {}

    @cached_property
    def histories(self) -> Histories:
        """The users' training histories, internal ids."""
        return training_histories(self.dataset)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items' texts; errors as in ``read_catalogue``."""
        return catalogue_of(self.config, self.tokens)

    @cached_property
    def data_fingerprint(self) -> dict[str, str]:
        """Hashes of the training histories, the items, and the validation rows, by token."""
        users = self.dataset.field2id_token[self.dataset.uid_field]
        items = self.dataset.field2id_token[self.dataset.iid_field]
        return {
            "training": histories_fingerprint(self.histories, users, items),
            "items": fingerprint(sorted(self.tokens)),
            "validation": validation_fingerprint(self.dataset, self.valid_data),
        }

    @property
    def used(self) -> list[StoredResult]:
        """The stages that this run has used, in the order they were finished."""
        return list(self._stored.values())

    # ---- which stages there are -----------------------------------------------------------------

    def stage(self, kind: type[_S]) -> _S:
        """The stage of that class in this experiment; none is made before its result is asked for."""
        if kind not in self._stages:
            self._stages[kind] = kind(self)
        return self._stages[kind]

    def chain(self, kinds: Iterable[type[Stage]]) -> list[Stage]:
        """These stages and all that they need, each once, those before it first."""
        ordered: dict[type[Stage], Stage] = {}
        for kind in kinds:
            stage = self.stage(kind)
            ordered |= {type(before): before for before in self.chain(stage.needed)}
            ordered[kind] = stage
        return list(ordered.values())

    def missing(self, kinds: Iterable[type[Stage]]) -> list[Stage]:
        """What has to be made for these stages to be there, those before it first."""
        to_make: dict[type[Stage], Stage] = {}
        for kind in kinds:
            stage = self.stage(kind)
            if not self.store.has(stage.name, stage.made_from):
                to_make |= {type(before): before for before in self.missing(stage.needed)}
                to_make[kind] = stage
        return list(to_make.values())

    def made_from(self, kinds: Iterable[type[Stage]]) -> dict[str, dict[str, Any]]:
        """What each stage of the chain is made from under the present settings; makes none."""
        return {stage.name: stage.made_from for stage in self.chain(kinds)}

    def seconds(self, kinds: Iterable[type[Stage]]) -> dict[str, float]:
        """How long each stage of the chain took to make, whenever that was; those that are kept."""
        all_seconds = {
            stage.name: self.store.seconds(stage.name, stage.made_from)
            for stage in self.chain(kinds)
        }
        return {name: seconds for name, seconds in all_seconds.items() if seconds is not None}

    def check(self, kinds: Iterable[type[Stage]]) -> None:
        """Raise what would stop a missing stage hours later; warn if the disk may not hold them."""
        missing = self.missing(kinds)
        for stage in missing:
            stage.check(self.config, len(self.tokens))
            stage.check_inputs()
        needed = sum(stage.bytes_on_disk() for stage in missing)
        warn_of_little_space("tslrec_dir", Path(self.config["tslrec_dir"]), needed)

    # ---- finding and making ---------------------------------------------------------------------

    def get(self, stage: Stage) -> StoredResult:
        """A stage's result, found or made; what it needs is asked for only if it has to be made.

        Raises:
            ValueError: it has to be made, and RecBole runs in several processes.
        """
        if type(stage) in self._stored:
            return self._stored[type(stage)]
        # The first process decides for all: another could look a moment later, when it is there.
        if processes.agree(not self.store.has(stage.name, stage.made_from)):
            check_writable("tslrec_dir", self.store.root)
            if not self.config["single_spec"]:
                # RecBole's loaders give each process a share of the data; no stage is made of that.
                raise ValueError(
                    f"nproc: stages are made in one process, or in several that torchrun starts, and "
                    f"{stage.name} is not there yet. Run the same experiment with nproc=1 first, and "
                    f"stop it when RecBole's own loop begins; with more processes its stages are then "
                    f"reused."
                )
            for kind in stage.needed:
                self.get(self.stage(kind))
        # A stage's result must not depend on whether the stages before it were made or reused, nor
        # the fused model's on either.
        with _own_random_state(self.config):
            stored = self._first(stage) if processes.is_first() else self._other(stage)
        self._stored[type(stage)] = stored
        return stored

    def _first(self, stage: Stage) -> StoredResult:
        """The first process: find the stage or make it, and tell the others which."""

        def make_and_tell(folder: Path):
            processes.tell(str(folder))
            return stage.make(folder)

        stored = self.store.get(stage.name, stage.made_from, make_and_tell)
        if stored.reused:
            processes.tell(None)
        processes.wait_for_all()
        return stored

    def _other(self, stage: Stage) -> StoredResult:
        """Another process: take part in making, if that is done together, and read the result."""
        folder = processes.hear()
        if folder is not None and stage.together:
            stage.make(Path(folder))
        processes.wait_for_all()
        return self.store.get(stage.name, stage.made_from, stage.make)


def cost_table(stages: Sequence[StoredResult]) -> str:
    """What the stages came to, as text; for a reused one, what it came to when it was made."""
    rows = []
    for stage in stages:
        cost = stage.notes.get("cost", {})
        memory = cost.get("peak_memory_bytes")
        said = ["reused"] if stage.reused else []
        if "seconds_before" in stage.notes:
            said.append("went on: positions of its last run")
        rows.append(
            {
                "stage": stage.name + (f" ({', '.join(said)})" if said else ""),
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
