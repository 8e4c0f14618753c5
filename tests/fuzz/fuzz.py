"""Tries damaged, odd and hostile inputs, and says of each whether what happened may happen.

    python tests/fuzz/fuzz.py --inputs 2000
    python tests/fuzz/fuzz.py --seed 7 --only checkpoints --index 31    # one input again

Subjects: keys and values of the configuration; interaction files; files of enhanced items;
checkpoints; folders with a language model; results folders of a comparison. An input is refused by
name, or it ran with the right outcome, or it is raw (another error) or silent (a wrong outcome).
The same seed gives the same inputs. Exit code 1 if any is raw or silent.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it: no input waits for a hub
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # this file is in a package there, beside conftest

from tabulate import tabulate
from tqdm import tqdm

from fuzz.checkpoints import Checkpoints
from fuzz.inputs import RAW, SILENT, VERDICTS, Result, make_subject, try_input
from fuzz.interactions import InteractionFiles
from fuzz.items import ItemFiles
from fuzz.keys import Keys
from fuzz.language_models import LanguageModelFolders
from fuzz.results import ResultsFolders

SUBJECTS = {
    "keys": Keys,
    "interactions": InteractionFiles,
    "items": ItemFiles,
    "checkpoints": Checkpoints,
    "language_models": LanguageModelFolders,
    "results": ResultsFolders,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000, help="inputs over all subjects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SUBJECTS), help="subjects, separated by commas")
    parser.add_argument("--index", type=int, help="one input of one subject alone")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(SUBJECTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    indices = range(-(-args.inputs // len(names)))
    if args.index is not None:
        indices = [args.index]
    with tempfile.TemporaryDirectory() as folder:
        results = {name: fuzz(name, args.seed, indices, Path(folder)) for name in names}
    print(table(results))
    wrong = lines(results, args.seed)
    print("\n".join(wrong))
    return 1 if wrong else 0


def fuzz(name: str, seed: int, indices: Iterable[int], folder: Path) -> dict[int, Result]:
    """Try a subject's inputs of these indices; the results by index."""
    subject = make_subject(SUBJECTS[name], folder / name)
    results = {}
    for index in tqdm(indices, desc=name, unit="input", dynamic_ncols=True):
        results[index] = try_input(subject, name, seed, index, folder / "input")
    return results


def table(results: dict[str, dict[int, Result]]) -> str:
    """How often each verdict was given, by subject."""
    rows = []
    for name, by_index in results.items():
        counts = [sum(r.verdict == verdict for r in by_index.values()) for verdict in VERDICTS]
        rows.append([name, len(by_index), *counts])
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    return tabulate(rows, headers=["subject", "tried", *VERDICTS])


def lines(results: dict[str, dict[int, Result]], seed: int) -> list[str]:
    """Each raw or silent input, with what makes it again."""
    return [
        f"{result.verdict}: --seed {seed} --only {name} --index {index}: {result.what}: "
        + " ".join(result.why.split())[:300]
        for name, by_index in results.items()
        for index, result in by_index.items()
        if result.verdict in (RAW, SILENT)
    ]


if __name__ == "__main__":
    sys.exit(main())
