"""What a paradigm hands over, and the list of those that are known.

Registration, the checks of keys, a comparison's rows, the report and the commands ask this list; none of
them names a paradigm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from recbole_tslrec.backbones.registry import Backbone
from recbole_tslrec.config.built_in import Row, built_in
from recbole_tslrec.config.key import KEYS, Effect, KeyGroup, defaults, has_what_it_needs

if TYPE_CHECKING:
    import numpy as np
    import torch

    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


class StagedModel(Protocol):
    """What a paradigm's model has besides what RecBole asks of a ``SequentialRecommender``.

    Attributes:
        backbone: the line of the table of backbones whose yaml it takes; None for none. Where it depends
            on a key, the class has ``backbone_for(config)`` besides.
    """

    backbone: Backbone | None

    @staticmethod
    def stages(config: Mapping[str, Any]) -> tuple[type[Stage], ...]:
        """The stages whose results it takes under these settings; ``config`` has all keys of ours."""

    def prepare(self, pipeline: Pipeline) -> None:
        """Take from the pipeline what the stages made, before RecBole's training begins."""


SINCE_THE_FIRST = "0.1.0"  # the release; ``Variant.results_of``


@dataclass(frozen=True)
class Variant:
    """A row of a comparison: one of the methods that stand side by side.

    Attributes:
        name: as ``--variants`` takes it.
        model: RecBole's name of the model, ``{backbone}`` in it for a model of each backbone.
        settings: the keys that make the row what it is.
        stages: whose results it takes; it depends on their keys and on those of the stages before.
        keys: of ours on which it depends besides.
        control: whether it stands in the place of a method, to show what that method adds.
        of: the method in whose place a control stands, by the name of its row. Empty: the first of
            the same model, or all if there is none.
        rivals: rows that the report tests it against, besides Base and its own controls.
        backbone: the one beside which it stands; None for all.
        record_items: what a comparison keeps of the items of a finished run, for the report: arrays by
            name from its pipeline and its trained model.
        requires: keys without whose value it cannot run; it is among all controls only where they are
            given.
        if_given: keys of files that it takes if they are given; while they are not, they are no part of
            its cells' ids.
        unread: the keys of ours, of those on which it depends, that it does not read under these values
            of all.
        not_given: keys of a backbone's training that it is not given, since it trains none.
        ranked_alone: whether its figures with seen items masked say nothing.
        tested_alone: whether what makes it a control acts in tests alone: its validation is that of the
            method in whose place it stands.
        label: what a table of results calls it, ``{backbone}`` in it. Empty: the model, and behind it
            the name of a control.
        results_of: since which change its results under these values of all keys are those of today.
            Another text when a change makes a cell result in something else; kept cells are then run
            again, as they are not for every release.
    """

    name: str
    model: str
    settings: Mapping[str, Any] | None = None
    stages: tuple[type[Stage], ...] = ()
    keys: tuple[str, ...] = ()
    control: bool = False
    of: str = ""
    rivals: tuple[str, ...] = ()
    backbone: str | None = None
    record_items: Callable[[Pipeline, torch.nn.Module], dict[str, np.ndarray]] | None = None
    requires: tuple[str, ...] = ()
    if_given: tuple[str, ...] = ()
    unread: Callable[[Mapping[str, Any]], Collection[str]] = lambda values: ()
    not_given: Collection[str] = ()
    ranked_alone: bool = False
    tested_alone: bool = False
    label: str = ""
    results_of: Callable[[Mapping[str, Any]], str] = lambda values: SINCE_THE_FIRST

    @property
    def title(self) -> str:
        """As a table and a picture call it."""
        return f"control: {self.name}" if self.control else self.name

    def method(self, backbone: str) -> str:
        """As a table of results calls it, with this backbone."""
        usual = f"{self.model}, {self.name}" if self.control else self.model
        return (self.label or usual).format(backbone=backbone)

    @property
    def of_backbone(self) -> bool:
        """Whether it is a backbone with something added, or starts from a trained one."""
        return "{backbone}" in self.model or any(
            one.name == "backbone" for one in chain(self.stages)
        )

    @property
    def takes_backbone(self) -> bool:
        """Whether its stages start from a trained backbone; Base's serves."""
        key = "backbone_checkpoint"
        return self.depends_on(key) and key not in self.if_given

    def depends_on(self, key: str) -> bool:
        """Whether the result can depend on a key; on RecBole's own it can in every variant."""
        if key not in KEYS:
            return True
        read = {
            *self.keys,
            *self.if_given,
            *(name for stage in chain(self.stages) for name in stage.keys),
        }
        return key in read and KEYS[key].effect is not Effect.NOTHING

    def reads(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether the result depends on a key of ours under these values of all that it can read."""
        return (
            self.depends_on(key)
            and has_what_it_needs(key, values)
            and key not in self.unread(values)
        )

    def choose(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What this variant is given of all settings."""
        return {
            key: value
            for key, value in given.items()
            if key not in {*SET_BY_COMPARISONS, *(self.settings or {}), *self.not_given}
            and (self.depends_on(key) or without_effect(key))
        }


# What a comparison sets for each cell, besides the keys that make a row what it is.
SET_BY_COMPARISONS = ("model", "dataset", "seed", "checkpoint_dir")


def set_by_all(rows: Iterable[Variant]) -> set[str]:
    """The keys of which no row takes the user's value, since each that reads it sets its own."""
    rows = list(rows)
    own = {key for row in rows for key in row.settings or ()}
    theirs = (key for key in own if not any(key in row.choose({key: None}) for row in rows))
    return {*SET_BY_COMPARISONS, *theirs}


def without_effect(key: str) -> bool:
    """Whether a key is of ours and can change no result."""
    return key in KEYS and KEYS[key].effect is Effect.NOTHING


def chain(stages: tuple[type[Stage], ...]) -> tuple[type[Stage], ...]:
    """These stages and all that they need, each once, those before it first."""
    before = (needed for stage in stages for needed in (*chain(stage.needs), stage))
    return tuple(dict.fromkeys(before))


@dataclass(frozen=True)
class Paradigm:
    """What one folder of ``paradigms/`` hands over.

    Attributes:
        name: of its yaml in ``properties/``.
        heading: the comment at the top of that yaml.
        models: its models by RecBole's name. ``BackboneModels`` come for a backbone that a user
            registers as well.
        trainer: RecBole's trainer for them.
        keys: all that its models read of ours, in the order of the yaml.
        variants: its rows of a comparison, in the order of a table.
        check: raises ValueError for values of its keys that contradict each other.
    """

    name: str
    heading: str
    models: Mapping[str, type[StagedModel]]
    trainer: type
    keys: tuple[KeyGroup, ...]
    variants: tuple[Variant, ...] = ()
    check: Callable[[Mapping[str, Any]], None] = lambda config: None

    def defaults(self) -> dict[str, Any]:
        """The values of its keys if none is given."""
        return defaults(self.keys)


# RecBole's own model, untouched, beside which all others stand.
BASE = Variant("Base", "{backbone}", label="{backbone} (Base)")

# What is compared if nothing is said.
MAIN_VARIANTS = ("Base", "CI", "TSLRec")

PARADIGMS: dict[str, Paradigm] = {}


def add(paradigm: Paradigm) -> None:
    """Make a paradigm known.

    Raises:
        ValueError: another of its name, or with a model or variant of the same name, is known.
    """
    if PARADIGMS.get(paradigm.name) is paradigm:
        raise ValueError(f"The paradigm [{paradigm.name}] is registered already.")
    taken = {*PARADIGMS, *staged_models(), *variants()}
    names = {paradigm.name, *paradigm.models, *(variant.name for variant in paradigm.variants)}
    # A paradigm may be called as one of its models or variants.
    if doubled := taken & names:
        raise ValueError(f"The paradigm [{paradigm.name}] takes names twice: {sorted(doubled)}.")
    PARADIGMS[paradigm.name] = paradigm


def staged_models() -> dict[str, type[StagedModel]]:
    """The models of all paradigms by RecBole's name."""
    return {name: model for one in PARADIGMS.values() for name, model in one.models.items()}


def backbone_for(model: type[StagedModel], config: Mapping[str, Any]) -> Backbone | None:
    """The backbone of a staged model under some settings.

    It is the model's ``backbone``; where it depends on a key, what its own ``backbone_for`` says.
    """
    choose = getattr(model, "backbone_for", None)
    return model.backbone if choose is None else choose(config)


def paradigm_of(model: str) -> Paradigm | None:
    """The paradigm that has a model of this name."""
    return next((one for one in PARADIGMS.values() if model in one.models), None)


def paradigm_with(variant: str) -> Paradigm | None:
    """The paradigm that has a row of this name."""
    known = PARADIGMS.values()
    return next((one for one in known if any(row.name == variant for row in one.variants)), None)


def variants() -> dict[str, Variant]:
    """The rows of a comparison by name, controls last."""
    known = [BASE, *(row for one in PARADIGMS.values() for row in one.variants)]
    return {row.name: row for row in sorted(known, key=lambda row: row.control)}


def table_rows() -> dict[str, Row]:
    """What a table says of the rows of a comparison, by name, controls last.

    Before the package is plugged into RecBole those are the built-in ones.
    """
    if not PARADIGMS:
        return {row.name: row for row in built_in().rows}
    known = variants()
    methods: dict[str, str] = {}
    for row in known.values():
        if not row.control:
            methods.setdefault(row.model, row.name)
    return {
        name: Row(
            name,
            one.title,
            one.control,
            tuple(stage.name for stage in chain(one.stages)),
            (one.of or methods.get(one.model, "")) if one.control else "",
            tuple(sorted(one.settings or ())),
            one.rivals,
            one.of_backbone,
            one.ranked_alone,
            one.tested_alone,
        )
        for name, one in known.items()
    }


def controls(
    given: Mapping[str, Any] | None = None, of: Collection[str] | None = None
) -> tuple[str, ...]:
    """The names of the rows that are controls.

    Args:
        given: the settings under which they are to run; None: whatever they require.
        of: the rows in whose places they stand, besides those that stand beside all; None: all.
    """
    rows = table_rows().values()
    names = [row.name for row in rows if row.control and (of is None or row.of in ("", *of))]
    if given is None:
        return tuple(names)
    known = variants()
    return tuple(
        name for name in names if all(given.get(key) is not None for key in known[name].requires)
    )
