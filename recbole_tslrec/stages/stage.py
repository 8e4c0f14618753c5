"""What a stage says of itself: what it needs, what it is made from, how it is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from recbole_tslrec.config.built_in import note_stages
from recbole_tslrec.config.key import result_values
from recbole_tslrec.store.files import fingerprint
from recbole_tslrec.store.item_tensors import ItemTensors
from recbole_tslrec.store.store import StoredResult

if TYPE_CHECKING:
    from recbole_tslrec.language_model.workload import Workload
    from recbole_tslrec.stages.pipeline import Pipeline


class Stage(ABC):
    """One step before a model's own training; its result is kept and found again.

    The pipeline makes an object of the class for an experiment, asks for ``made_from``, and calls
    ``make`` only if no stage made from exactly that is stored.

    Args:
        pipeline: of the experiment: its settings, data and other stages.

    Attributes:
        name: of its folders; two classes may share it if ``made_from`` tells their results apart.
        needs: the stages that must be there before this one is made.
        keys: of ours that it reads, by name.
        together: whether all processes make it, if there are several; else the first does.
        product: the entry of a reader's notes that holds the hash of what it read from here.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[type[Stage], ...]] = ()
    keys: ClassVar[tuple[str, ...]] = ()
    together: ClassVar[bool] = False
    product: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if isinstance(vars(cls).get("name"), str):
            note_stages([cls.name])

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self.config = pipeline.config

    @property
    @abstractmethod
    def made_from(self) -> dict[str, Any]:
        """All that the result depends on, as json; found without making anything."""

    @abstractmethod
    def make(self, folder: Path) -> dict[str, Any] | None:
        """Write the stage's files into a folder, and return notes for the manifest.

        Args:
            folder: may hold below ``store.WORK`` what an interrupted run left there.
        """

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        """Raise what would stop this stage hours later; called before the first one is made.

        Args:
            n_items: of the data set, without padding; None where that is not known yet.
        """
        return

    def check_inputs(self) -> None:
        """As ``check``, of what is read of the experiment's data; they are there."""
        return

    def bytes_on_disk(self) -> int:
        """About how much it takes while it is made."""
        return 0

    @property
    def needed(self) -> tuple[type[Stage], ...]:
        """The stages that must be there under these settings: ``needs``, unless a key changes them."""
        return self.needs

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        """What it asks of a language model, for a measurement; nothing if it asks none.

        What it needs may be made for that, but not what takes a language model.

        Args:
            ablation: whether with the same computed by other means, if it has any.
        """
        return ()

    # ---- for those who use it -------------------------------------------------------------------

    @property
    def stored(self) -> StoredResult:
        """The finished stage, found or made."""
        return self.pipeline.get(self)

    @property
    def fingerprint(self) -> str:
        """A hash of ``made_from``, for the ``made_from`` of a stage that reads this one."""
        return fingerprint(self.made_from)

    @cached_property
    def content_hash(self) -> str:
        """Of what readers take from it, as it is now: made again elsewhere it may come out otherwise."""
        return ItemTensors(self.pipeline.tokens, self.content()).content_hash()

    def content(self) -> dict[str, Tensor]:
        """What readers take from it, rows in the order of internal ids."""
        raise NotImplementedError(f"Nothing reads the stage {self.name}.")

    # ---- for those who write one ----------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """The values of the keys on which the stage depends."""
        return result_values(self.config, self.keys)

    def provenance(self) -> dict[str, Any]:
        """What a file of the stage says of where it is from."""
        backbone = self.pipeline.backbone
        own = {"stage": self.name, "dataset": self.config["dataset"]}
        return own if backbone is None else own | {"backbone": backbone.name}

    def save_items(self, folder: Path, file: str, tensors: dict[str, Tensor], **more: Any) -> None:
        """Write tensors with a row an item, in the order of internal ids, tied to tokens."""
        provenance = self.provenance() | more
        ItemTensors(self.pipeline.tokens, tensors, provenance).save(folder / file)

    def read_items(self, file: str, tensor: str) -> Tensor:
        """A tensor that ``save_items`` wrote, rows in the order of this experiment's internal ids."""
        items = ItemTensors.load(self.stored.folder / file)
        return items.aligned(self.pipeline.tokens).tensors[tensor]
