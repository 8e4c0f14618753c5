"""Results folders of a comparison, as ``report`` and a later ``compare`` read them."""

from __future__ import annotations

import random
import shutil
import sys
from functools import partial
from pathlib import Path
from unittest import mock

from fuzz.inputs import Input, Wrong
from fuzz.results_folders import CHANGES, FOLDER, Check
from recbole_tslrec.experiments.report import report
from recbole_tslrec.experiments.report.document import write_document
from recbole_tslrec.experiments.report.results import Results
from recbole_tslrec.experiments.run.kept_cells import ResultsFolder

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
from synthetic import SyntheticResults

# Drawing takes seconds: most inputs are read into a report without pictures.
_NONE_DRAWN = mock.patch.object(
    report, "_pictures", lambda _: {part: {} for part in report._PICTURES}
)


class ResultsFolders:
    """Two methods of two seeds. The report has their numbers, or says what does not fit."""

    def __init__(self, folder: Path):
        self.folder = folder / "results"
        made = SyntheticResults(self.folder, n_users=40, n_items=30)
        for variant in ("Base", "TSLRec"):
            for seed in (1, 2):
                made.write("small", "SASRec", variant, seed)

    def input(self, choose: random.Random) -> Input:
        shutil.copytree(self.folder, FOLDER)
        made = choose.choice(CHANGES)(choose)
        use = partial(_use, made.check, draw=choose.random() < 0.04)
        return Input(made.what, use, [made.file, "results: ["], made.may_run)


def _use(check: Check, draw: bool) -> None:
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    results = Results(FOLDER)
    if draw or results.cells.empty:
        report.write_report([FOLDER], Path("report"))
    with _NONE_DRAWN:
        write_document(Path("report"), *report.make_report(results, "report"))
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    if changed:
        raise Wrong(f"the report changed {changed}")
    kept = ResultsFolder(FOLDER).cells.read()
    reported = {
        cell for part in (results.cells, results.failed, results.replaced) for cell in part["cell"]
    }
    if missing := reported - set(kept):
        raise Wrong(f"compare would lose {sorted(missing)}, which the report shows")
    check(results, Path("report", "report.md").read_text(encoding="utf-8"))
