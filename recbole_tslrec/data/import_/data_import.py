"""Published data sets as RecBole's atomic files, and their row of the paper's Table 1 (§5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_tslrec.data.import_.interaction_files import Columns, read_interactions, recognise
from recbole_tslrec.data.import_.interactions import Interactions
from recbole_tslrec.data.import_.item_text import read_items
from recbole_tslrec.store.files import write_atomically

# A data set's name is a folder's and a file's, and stands between commas.
_NAME = re.compile(r"\w([\w .+-]*\w)?")


@dataclass(frozen=True)
class Statistics:
    """A row of Table 1."""

    users: int
    items: int
    interactions: int

    @classmethod
    def of(cls, interactions: Interactions) -> Statistics:
        users = np.unique(interactions.user)
        return cls(len(users), len(interactions.used_items), len(interactions))

    @property
    def average_length(self) -> float:
        return self.interactions / self.users

    @property
    def density(self) -> float:
        """The share of all (user, item) pairs, in percent."""
        return 100 * self.interactions / (self.users * self.items)

    def __str__(self) -> str:
        return (
            f"users {self.users:,} · items {self.items:,} · interactions {self.interactions:,} · "
            f"density {self.density:.2f} % · average length {self.average_length:.1f}"
        )


@dataclass(frozen=True)
class Import:
    """What an import came to: the row of Table 1, and what the user should know beside it."""

    statistics: Statistics
    notes: list[str]

    def __str__(self) -> str:
        return "\n".join([*self.notes, str(self.statistics)])


def import_data(
    source: Path,
    folder: Path,
    name: str,
    *,
    form: str = "auto",
    columns: Columns | None = None,
    item_text: Path | None = None,
    min_user: int = 1,
    min_item: int = 1,
    overwrite: bool = False,
) -> Import:
    """Turn a published data set into ``folder/name/name.inter``, and ``name.item`` if there is text.

    Args:
        source: the interactions, in one of ``import_.FORMS``.
        folder: RecBole's ``data_path``.
        name: the name that the data set gets.
        form: one of ``FORMS``; auto: as recognised by the first line.
        columns: the names of the columns of a log or an atomic file.
        item_text: see ``item_text.read_items``. None: an ``.item`` beside an atomic source, if any.
        min_user, min_item: every user and item keeps at least so many interactions.
        overwrite: replace files that are there with other content.

    Raises:
        ValueError: malformed input, with file and line; nothing left; a name that RecBole reserves,
            that would lie in another folder, or whose files are what is read.
        FileExistsError: a file is there with other content.
    """
    _check_asked(name, min_user=min_user, min_item=min_item)
    columns = columns or Columns()
    chosen = recognise(source) if form == "auto" else form
    notes = [f"Read {source} as {chosen}{' (recognised)' if form == 'auto' else ''}."]
    everything = read_interactions(source, chosen, columns)
    interactions = everything.k_core(min_user, min_item)
    if not len(interactions):
        raise ValueError(
            f"{source}: nothing is left under min_user {min_user}, min_item {min_item}."
        )
    if len(interactions) < len(everything):
        notes.append(f"Filtered {Statistics.of(everything)}.")
    notes += _notes_of(interactions)
    target = folder / name / f"{name}.inter"
    tables = {target: interactions.table()}
    beside = source.with_suffix(".item")
    if item_text is None and chosen == "atomic" and beside.is_file():
        item_text = beside
    if item_text is not None:
        items, note = read_items(item_text, interactions.used_items, columns)
        tables[target.with_suffix(".item")] = items
        notes.append(note)
    elif (there := target.with_suffix(".item")).is_file():
        notes.append(
            f"{there} was there and stays: where it is loaded, RecBole drops the interactions of items "
            f"that it lacks."
        )
    notes += _write(tables, overwrite, read=(source, item_text))
    return Import(Statistics.of(interactions), notes)


def _notes_of(interactions: Interactions) -> list[str]:
    """What to say of tokens with blanks around them, as behind the commas of a CSV, and of no times."""
    notes = []
    for role, tokens in (("user", interactions.used_users), ("item", interactions.used_items)):
        if found := [token for token in tokens if token != token.strip()]:
            notes.append(
                f"{len(found):,} {role} tokens begin or end with a blank, [{found[0]}] for one, and "
                f"stay so: to RecBole [1] and [ 1] are two."
            )
    if interactions.no_order:
        notes.append(
            f"The time is the place in the user's history, for {interactions.no_order}. A split by time "
            f"over all users (group_by: none) would go by these places."
        )
    return notes


def _check_not_read(targets: Iterable[Path], read: Iterable[Path | None]) -> None:
    """Raise ValueError for a file that would be replaced and is what was read.

    It would lose what an import leaves out: ratings, times, the texts of other items.
    """
    given = [path for path in read if path is not None]
    for target in sorted(targets):
        if any(target.samefile(path) for path in given):
            raise ValueError(f"dataset: [{target}] is what is read. Give another --dataset.")


def _check_asked(name: str, **fewest: int) -> None:
    for key, number in fewest.items():
        if number < 1:
            raise ValueError(f"{key}: [{number}] is not a whole number, 1 or larger.")
    if name == "ml-100k":
        raise ValueError(
            "RecBole reads its own copy under the name [ml-100k]; choose another name."
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"dataset: [{name}] is not a name of letters, digits, and . _ + - between them."
        )


def _write(
    tables: dict[Path, pd.DataFrame], overwrite: bool, read: Iterable[Path | None]
) -> list[str]:
    """Write all of the tables, or none where one would replace what was read, or others unasked."""
    contents = {
        path: table.to_csv(sep="\t", index=False, lineterminator="\n").encode()
        for path, table in tables.items()
    }
    there = {path for path in contents if path.is_file()}
    same = {path for path in there if path.read_bytes() == contents[path]}
    _check_not_read(there - same, read)
    if there - same and not overwrite:
        files = ", ".join(str(path) for path in sorted(there - same))
        raise FileExistsError(
            f"{files} is there with other content. Give --overwrite to replace it, or another --dataset."
        )
    for path in contents.keys() - same:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = contents[path]
        write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))
    return [f"{path} {'is there already' if path in same else 'written'}." for path in contents]
