"""Published data sets as RecBole's atomic files, and their row of the paper's Table 1 (§5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from recbole_tslrec.storage import write_atomically


@dataclass(frozen=True)
class Statistics:
    """A row of Table 1."""

    users: int
    items: int
    interactions: int

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


def import_sequences(source: Path, folder: Path, name: str) -> Statistics:
    """Turn lines ``user item item …``, oldest first, into ``folder/name/name.inter``.

    The timestamp is the interaction's place in the user's history: RecBole holds times as float32,
    which tells such small numbers apart exactly, and seconds since 1970 only to a minute.

    Raises:
        ValueError: a line has no item, or its user came before; names file and line.
    """
    target = folder / name / f"{name}.inter"
    target.parent.mkdir(parents=True, exist_ok=True)
    items: set[str] = set()
    counts = {"users": 0, "interactions": 0}

    def write(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user, history in tqdm(
                _read_sequences(source), desc=f"Import {name}", unit=" users"
            ):
                rows = (f"{user}\t{item}\t{place}\n" for place, item in enumerate(history))
                file.writelines(rows)
                items.update(history)
                counts["users"] += 1
                counts["interactions"] += len(history)

    write_atomically(target, write)
    return Statistics(counts["users"], len(items), counts["interactions"])


def _read_sequences(source: Path) -> Iterator[tuple[str, list[str]]]:
    seen: dict[str, int] = {}
    with open(source, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            user, *history = line.split() or [""]
            if not history:
                raise ValueError(
                    f"{source}, line {number}: [{line.strip()}] is not a user and items."
                )
            if user in seen:
                raise ValueError(
                    f"{source}, line {number}: user [{user}] has line {seen[user]} already."
                )
            seen[user] = number
            yield user, history
