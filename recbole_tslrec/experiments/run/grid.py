"""What is compared, and the cells that follow from it; checked before anything is trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recbole.config import Config

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.config.recbole_keys import SAME_FOR_ALL, check_metrics
from recbole_tslrec.config.spelling import check_spelling
from recbole_tslrec.config.values import did_you_mean
from recbole_tslrec.data.check_header import check_columns, path_of
from recbole_tslrec.data.check_interactions import (
    check_interactions,
    items_in_file,
    keeps_all_items,
)
from recbole_tslrec.data.file_hashes import data_hash, data_hashes, texts_hash
from recbole_tslrec.data.histories import check_not_ready_made
from recbole_tslrec.data.item_catalogue import catalogue_of, check_item_columns
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.recbole_bridge.config_files import (
    as_recbole_reads,
    is_config_file,
    read_config_file,
)
from recbole_tslrec.recbole_bridge.paradigm import (
    MAIN_VARIANTS,
    chain,
    paradigm_with,
    set_by_all,
    staged_models,
    variants,
)
from recbole_tslrec.store.files import fingerprint


@dataclass(frozen=True)
class Grid:
    """What is compared: every variant of every backbone on every data set under every seed.

    Attributes:
        datasets: names as RecBole takes them.
        backbones: names in ``BACKBONES``.
        variants: names in ``paradigm.variants``.
        seeds: RecBole's ``seed``; a search runs under the first.
        config_files: yaml files, later ones first; ``{dataset}`` in a name is the data set's,
            ``{paradigm}`` that of a row's paradigm in small letters: a row without such a file takes
            the others alone.
        settings: RecBole's keys and ours; they go before the files'.
        reuse: whether TSLRec of each backbone is also trained with the enhanced embeddings that
            each other backbone's stages made.
    """

    datasets: Sequence[str] = ("ml-100k",)
    backbones: Sequence[str] = ("SASRec",)
    variants: Sequence[str] = MAIN_VARIANTS
    seeds: Sequence[int] = (2020,)
    config_files: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    reuse: bool = False

    def __post_init__(self) -> None:
        for key, names, known in (
            ("backbones", self.backbones, BACKBONES),
            ("variants", self.variants, variants()),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"{key}: [{name}] is not one of {', '.join(known)}.{did_you_mean(name, known)}"
                    )
        for key in ("datasets", "backbones", "variants", "seeds"):
            names = getattr(self, key)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{key}: {list(names)} is empty or names something twice.")
        for name in self.variants:
            beside = variants()[name].backbone
            if beside not in (None, *self.backbones):
                raise ValueError(
                    f"variants: {name} stands beside {beside}, which is not among the "
                    f"backbones {list(self.backbones)}. Add it there, or leave {name} out."
                )
        if self.reuse and ("TSLRec" not in self.variants or len(self.backbones) < 2):
            raise ValueError(
                "reuse: needs the variant TSLRec and two backbones at least; there are "
                f"{list(self.variants)} and {list(self.backbones)}."
            )

    def given(self, dataset: str, variant: str = "Base") -> dict[str, Any]:
        """What is given for a row on a data set: the config files' content, and over it ``settings``.

        Args:
            variant: the row; Base's is what all rows are given.

        Raises:
            FileNotFoundError: a config file is not there; of a ``{paradigm}``: of no row.
            ValueError: one does not hold keys and values.
        """
        # RecBole reads files for one model at a time; here they are read before any is chosen.
        given = {}
        for file in self.config_files:
            for name in self._files_of(file.replace("{dataset}", dataset), variant):
                given |= read_config_file(name)
        return given | as_recbole_reads(self.settings)

    def _files_of(self, file: str, variant: str) -> list[str]:
        """The file of this name that a row takes; none where its paradigm has none."""
        if "{paradigm}" not in file:
            return [file]
        names = {
            row: file.replace("{paradigm}", paradigm.name.lower())
            for row in self.variants
            if (paradigm := paradigm_with(row)) is not None
        }
        there = {row: name for row, name in names.items() if is_config_file(name)}
        if not there:
            raise FileNotFoundError(
                f"config_files: of [{file}] there is a file for none of the rows "
                f"{', '.join(self.variants)}. Give one of {', '.join(names.values()) or 'another name'}."
            )
        return [there[variant]] if variant in there else []

    def groups(self, searched: Collection[str] = ()) -> list[Cell]:
        """A cell of every data set, backbone and variant, under the first seed; checked.

        Args:
            searched: keys of which a search will choose the values.

        Raises:
            ValueError, FileNotFoundError, ...: what would fail every cell of a data set. What would
                fail some is their own error when they are run.
        """
        return [cell for dataset in self.datasets for cell in self._groups_of(dataset, searched)]

    def _groups_of(self, dataset: str, searched: Collection[str]) -> list[Cell]:
        given = {variant: self.given(dataset, variant) for variant in self.variants}
        for row in given.values():
            check_metrics(row)
        _check_same(given)
        if self.reuse and given["TSLRec"].get("enhanced_items") is not None:
            raise ValueError(
                "reuse: takes the embeddings of another backbone's stages, and enhanced_items gives "
                "those of a file to all. Leave one out."
            )
        chosen = {variant: variants()[variant].choose(row) for variant, row in given.items()}
        groups = [
            Cell(dataset, backbone, variant, self.seeds[0], chosen[variant], "")
            for backbone in self.backbones
            for variant in self.variants
            if variants()[variant].backbone in (None, backbone)
        ]
        self._tell_unused(dataset, given)
        configs, errors = [], []
        loads = {}  # by the cell's place: which files RecBole loads is the model's
        checks = _EarlyChecks(searched)
        for place, cell in enumerate(groups):
            try:
                config = cell.config()
                groups[place] = _with_precision(cell, config)
                loads[place] = config
                checks.check(cell, config)
                configs.append(config)
            except Exception as error:  # the cell's own, unless all have one
                errors.append((cell, error))
        if not configs:
            raise errors[0][1]
        # For RecBole's own models nobody else looks: Base would run under another setting.
        known = {key: None for config in configs for key in config.internal_config_dict}
        for row in given.values():
            check_spelling(row, known)
        for config in configs:
            _check_evaluation(config)
        check_columns(configs[0].final_config_dict)
        # Where no row of this comparison reads it, nobody else looks.
        texts = {"item_text": self.given(dataset).get("item_text")}
        check_item_columns(configs[0].final_config_dict | texts)
        check_interactions(configs[0].final_config_dict)
        groups = [_of_files(cell, loads.get(i, configs[0])) for i, cell in enumerate(groups)]
        for cell, error in errors:
            print(f"compare: {dataset}, {cell.method}, will fail: {error}", flush=True)
        return groups

    def _tell_unused(self, dataset: str, given: Mapping[str, Mapping[str, Any]]) -> None:
        """Say which given keys no cell takes, and which a row has at a value of its own.

        Args:
            given: by row.
        """
        unused = [
            key
            for key in sorted(set_by_all(variants()[name] for name in self.variants))
            if any(key in row for row in given.values())
        ]
        if unused:
            print(
                f"compare: {dataset}: {', '.join(unused)} of the config files: not used, each cell has "
                f"its own. See --datasets, --backbones, --variants, --seeds and --results.",
                flush=True,
            )
        own: dict[str, list[str]] = {}
        for name, row in given.items():
            for key, value in (variants()[name].settings or {}).items():
                if key not in unused and row.get(key, value) != value:
                    said = f"always with {key}: {value}, not the given [{row[key]}]."
                    own.setdefault(said, []).append(name)
        for said, names in own.items():
            print(f"compare: {dataset}: {', '.join(names)}: {said}", flush=True)

    def cells(self, groups: Sequence[Cell]) -> list[Cell]:
        """Every cell of the grid, a seed at a time, in an order in which they can be run.

        Args:
            groups: as from ``groups``, with the settings that a search chose, if there was one.
        """
        cells = []
        for dataset in self.datasets:
            of_dataset = [cell for cell in groups if cell.dataset == dataset]
            for seed in self.seeds:
                seeded = [replace(cell, seed=seed) for cell in of_dataset]
                cells += seeded
                tslrec = [cell for cell in seeded if cell.variant == "TSLRec"]
                if self.reuse:
                    cells += [
                        replace(taker, embeddings_from=giver)
                        for taker in tslrec
                        for giver in tslrec
                        if taker is not giver
                    ]
        return cells


class _EarlyChecks:
    """What would stop a cell's stages after its backbone has been trained, looked at beforehand.

    Args:
        searched: keys of which a search chooses the value that counts.
    """

    def __init__(self, searched: Collection[str]):
        self._searched = set(searched)
        self._items: set[str] | None = None
        self._sound: set[str] = set()  # what was looked at

    def check(self, cell: Cell, config: Config) -> None:
        """Raise what would stop the cell."""
        model = staged_models().get(cell.model)
        for stage in chain(model.stages(config)) if model else ():
            # A check may look at what the stages before it have read, too.
            keys = {key for one in chain((stage,)) for key in one.keys}
            values = {key: config[key] for key in sorted(keys)}
            looked_at = fingerprint([stage.__qualname__, values])
            if self._searched.isdisjoint(values) and looked_at not in self._sound:
                items = self._items_in_file(config)
                stage.check(config, items and len(items))
                self._sound.add(looked_at)
        if variants()[cell.variant].reads("item_text", config):
            self._check_texts(config)

    def _check_texts(self, config: Config) -> None:
        """Raise what would stop the reading of the items' texts."""
        keys = ("item_text", "item_text_missing")
        items = self._items_in_file(config)
        looked_at = fingerprint([config[key] for key in keys])
        sure = items and keeps_all_items(config) and self._searched.isdisjoint(keys)
        if sure and looked_at not in self._sound:
            catalogue_of(config, sorted(items))
            self._sound.add(looked_at)

    def _items_in_file(self, config: Config) -> set[str] | None:
        if self._items is None and path_of(config).is_file():
            self._items = items_in_file(config.final_config_dict)
        return self._items


def _with_precision(cell: Cell, config: Config) -> Cell:
    """The cell with what ``train_precision: auto`` is here: on another machine it is another result."""
    if cell.settings.get("train_precision") != "auto":
        return cell
    found = {"train_precision": config["train_precision"]}
    return replace(cell, settings={**cell.settings, **found})


def _of_files(cell: Cell, config: Config) -> Cell:
    """The cell with the hashes of its files; the items' texts count if it is given columns to read."""
    files = data_hashes(config)
    texts = texts_hash(config) if cell.settings.get("item_text") is not None else ""
    return replace(cell, data=data_hash(files), files=files, texts=texts)


def _check_same(given: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError if a row's own file has it judged otherwise, or on other data, than the rest.

    Args:
        given: by row.
    """
    (first, beside), *others = given.items()
    for variant, row in others:
        for key in sorted(SAME_FOR_ALL & (beside.keys() | row.keys())):
            own, its = (values.get(key, "nothing") for values in (row, beside))  # null is a value
            if own != its:
                raise ValueError(
                    f"config_files: {variant} is given {key}: [{own}], and {first} [{its}]. What is "
                    f"compared, and how it is judged, is the same for all. Set --{key}=… for all rows, "
                    f"or leave it out of the {{paradigm}} files."
                )


def _check_evaluation(config: Config) -> None:
    check_not_ready_made(config)
    for key in ("dataset_save_path", "dataloaders_save_path"):
        # RecBole takes what they name, whatever the file of interactions is by now.
        if given := config.final_config_dict.get(key):
            raise ValueError(
                f"{key}={given}: a comparison knows its data by the files of [{config['dataset']}], and "
                f"what was pickled may be of others. Leave it out."
            )
    if config["eval_step"] < 1:
        raise ValueError(
            f"eval_step: [{config['eval_step']}] never validates, and a comparison tests the epoch that "
            f"is best on validation. Give 1, or leave it out."
        )
    mode, split = config["eval_args"]["mode"], config["eval_args"]["split"]
    if mode["test"] != "full":
        raise ValueError(f"eval_args: a comparison ranks all items; the mode [{mode}] is not full.")
    if split != {"LS": "valid_and_test"}:
        raise ValueError(
            f"eval_args: a comparison tests one item a user, the last, and validates on the one before; "
            f"the split [{split}] does not. Give split: {{'LS': 'valid_and_test'}}, or leave it out."
        )
