"""What each paradigm asks of a language model: time and memory of its parts (paper §5, Figure 3).

A row's stages and model say what they compute, and in which batches (``language_model/workload.py``). A
sample of each part is computed as it would be in earnest, each part in a process of its own, and the
whole extrapolated (``language_model/measuring.py``). Nothing is trained to the end, and no stage is made
that takes a language model.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from tabulate import tabulate
from tqdm import tqdm

from recbole_tslrec import plug_in
from recbole_tslrec.config.devices import device_of, machine
from recbole_tslrec.config.refusals import is_refusal, tell_failure
from recbole_tslrec.experiments.run.cells import Cell
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.language_model.measuring import Measured, measure
from recbole_tslrec.language_model.workload import When
from recbole_tslrec.recbole_bridge.language_model_recommender import LanguageModelRecommender
from recbole_tslrec.recbole_bridge.paradigm import (
    backbone_for,
    chain,
    staged_models,
    variants,
)
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store.files import write_atomically, write_json

_DEFAULT_MODEL = "random:small"


# ---- the rows and their parts ---------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What is measured in one process: a stage of a row, or its model.

    Attributes:
        row, model, dataset: their names.
        stage: the stage's name; None for the model.
        settings: of the experiment.
        turns: the batches that are timed.
        ablation: whether with the same computed by other means.
    """

    row: str
    model: str
    dataset: str
    stage: str | None
    settings: Mapping[str, Any]
    turns: int
    ablation: bool

    def measured(self) -> list[Measured]:
        """Measure it here."""
        plug_in()
        config = Config(self.model, self.dataset, config_dict=dict(self.settings))
        train, valid, test = data_preparation(config, create_dataset(config))
        model_class = get_model(self.model)
        backbone = backbone_for(model_class, config)
        pipeline = Pipeline(config, train, valid, backbone, show_progress=False)
        if self.stage is None:
            init_seed(config["seed"], config["reproducibility"])
            model = model_class(config, train._dataset).to(config["device"])
            workloads = model.workloads(pipeline, test)
        else:
            stages = {stage.name: stage for stage in pipeline.chain(model_class.stages(config))}
            workloads = stages[self.stage].workloads(self.ablation)
        return [measure(self.row, one, self.turns) for one in workloads]

    def measured_or_refused(self) -> list[Measured] | Exception:
        """As ``measured``, or what is refused, to be raised by the caller.

        Another process does not see on which line an error was raised, by which ``is_refusal`` goes.
        """
        try:
            return self.measured()
        except Exception as error:
            if is_refusal(error):
                return error
            raise


def parts_of(row: str, grid: Grid, turns: int, ablation: bool) -> list[Part]:
    """The parts of a row that ask something of a language model.

    Args:
        grid: of one data set and one backbone.
        turns, ablation: as ``Part`` has them.

    Raises:
        ValueError, OSError: a setting is wrong, or the row has no such part.
    """
    (dataset,), (backbone,) = grid.datasets, grid.backbones
    given = {"llm": _DEFAULT_MODEL} | grid.given(dataset, row)
    cell = Cell(dataset, backbone, row, grid.seeds[0], variants()[row].choose(given), "")
    # Weights do not change what is computed: one epoch of a backbone serves, the fastest way.
    settings = cell.experiment_settings() | {"epochs": 1, "train_batching": "auto"}
    kind = staged_models().get(cell.model)
    config = Config(cell.model, dataset, config_dict=settings)
    stages = chain(kind.stages(config)) if kind else ()
    asking: list[str | None] = [stage.name for stage in stages if _asks(stage)]
    if kind and issubclass(kind, LanguageModelRecommender):
        asking.append(None)
    if not asking:
        raise ValueError(f"variants: {row} asks nothing of a language model. Leave it out.")
    return [Part(row, cell.model, dataset, stage, settings, turns, ablation) for stage in asking]


def _asks(stage: type[Stage]) -> bool:
    """Whether a stage asks something of a language model."""
    return stage.workloads is not Stage.workloads


def measured_rows() -> list[str]:
    """Those that are measured if none are named: of each model with a language model the first."""
    first: dict[str, str] = {}
    for name, row in variants().items():
        kind = staged_models().get(row.model.format(backbone="SASRec"))
        asks = any(_asks(stage) for stage in chain(row.stages))
        if not row.control and kind and (asks or issubclass(kind, LanguageModelRecommender)):
            first.setdefault(row.model, name)
    return list(first.values())


def _apart() -> Executor:
    """A process of its own, whose memory is its part's alone."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _measured_apart(part: Part) -> list[Measured]:
    """What a part comes to in a process of its own; errors as they were raised there."""
    try:
        with _apart() as process:
            outcome = process.submit(part.measured_or_refused).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"the process that measured [{part.stage or part.model}] was killed, most likely for its "
            f"memory. Give a smaller llm, a smaller sft_batch_positions, or llm_quantization: nf4."
        ) from error
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def measure_rows(
    grid: Grid, turns: int, ablation: bool, show_progress: bool = True
) -> tuple[list[Measured], dict[str, str]]:
    """Measure a grid's rows, one part after the other.

    Args:
        grid, turns, ablation: as ``parts_of`` takes them.

    Returns:
        what the parts came to; and by row why it could not be measured.

    Raises:
        ValueError, OSError, ...: of the first row, if none could be.
    """
    parts: list[Part] = []
    failed: dict[str, Exception] = {}
    for row in grid.variants:
        try:
            parts += parts_of(row, grid, turns, ablation)
        except Exception as error:  # the others are worth measuring
            failed[row] = error
    if parts:  # what is wrong with the data set is said once
        one = parts[0]
        create_dataset(Config(one.model, one.dataset, config_dict=dict(one.settings)))
    results: list[Measured] = []
    with TemporaryDirectory() as folder:
        here = {"tslrec_dir": f"{folder}/stages", "checkpoint_dir": f"{folder}/checkpoints"}
        for part in tqdm(parts, desc="Measuring", unit=" parts", disable=not show_progress):
            part = replace(part, settings=part.settings | here)
            try:
                results += _measured_apart(part)
            except Exception as error:
                failed.setdefault(part.row, error)
    results = [one for one in results if one.row not in failed]
    if not results:
        raise next(iter(failed.values()))
    for row, error in failed.items():
        tell_failure(f"efficiency: {row}", error)
    return results, {row: str(error) for row, error in failed.items()}


# ---- what is shown ------------------------------------------------------------------------------


def efficiency_table(results: Sequence[Measured]) -> str:
    """A line a part, with its factor over the first row's of the same kind, as Markdown."""
    first = results[0].row
    own: dict[str, float] = {}
    for one in results:
        if one.row == first and not one.means:
            own[one.when] = own.get(one.when, 0) + one.seconds
    rows = []
    for one in results:
        factor = _two_digits(one.seconds / own[one.when]) if one.when in own else "–"
        rows.append(
            {
                "row": one.row,
                "part": f"{one.part}, {one.means}" if one.means else one.part,
                "when": one.when,
                "model": f"{one.parameters / 1e6:,.1f} M",
                "examples": f"{one.examples:,} {one.unit}",
                "positions": f"{one.positions:,}",
                "padding": f"{100 * one.padding_share:.0f} %",
                "measured": f"{_two_digits(100 * one.sampled)} %",
                "seconds": f"{one.seconds:,.1f}",
                f"× {first}": factor,
                "peak GiB": f"{one.peak_memory / 2**30:.2f}",
            }
        )
        if one.share_of_matrix_rate is not None:
            rows[-1]["of the matrix rate"] = f"{100 * one.share_of_matrix_rate:.0f} %"
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _two_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 9.5 else f"{number:.2g}"


def draw(results: Sequence[Measured], title: str) -> bytes:
    """Figure 3: the seconds of each part, a panel for each of how often it is computed."""
    from recbole_tslrec.experiments.report import drawing  # with matplotlib

    shown = [one for one in results if not one.means]
    panels = [when for when in When if any(one.when == when.value for one in shown)]
    heights = [sum(one.when == when.value for one in shown) for when in panels]
    figure = drawing.new_figure(8, 1.2 + 0.42 * sum(heights) + 0.5 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    colours = dict(zip(When, (drawing.BLUE, drawing.GREEN, drawing.ORANGE), strict=True))
    for axis, when in zip(axes, panels, strict=True):
        bars = [one for one in shown if one.when == when.value]
        names = [f"{one.row}, {one.part}" for one in bars]
        drawn = axis.barh(names, [one.seconds for one in bars], color=colours[when], height=0.65)
        axis.bar_label(drawn, [f"{one.seconds:,.1f} s" for one in bars], padding=3)
        axis.set_xscale("log")
        axis.margins(x=0.12)
        axis.invert_yaxis()
        axis.set_title(when.value, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("seconds of the whole, logarithmic")
    figure.suptitle(title, fontsize=11)
    return drawing.png(figure)


_TEXT = """\
# Efficiency: {title}

{machine}. Each part in a process of its own, one after the other: what else runs on the machine is in
the seconds. Of each part {turns} batches were computed, evenly from the cheapest to the dearest;
"measured" is their share of the whole, and all of it is extrapolated, by positions in training, by users
or items elsewhere. "when": an epoch of training; once, before training; inference for all users, or all
items. "model": the parameters of the language model with what is trained besides. What an
encoder-decoder writes is in the seconds, not in the positions. Backbones are not counted.

{table}

![Figure 3](efficiency.png)
"""


def run(grid: Grid, turns: int, ablation: bool, output: Path) -> str:
    """Measure, write ``efficiency.md``, ``.json`` and ``.png`` into ``output``; the Markdown.

    Args:
        grid, turns, ablation: as ``parts_of`` takes them.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; before anything is measured.
        ValueError, OSError, ...: what keeps every row from being measured.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "efficiency: draws with matplotlib: pip install 'recbole_tslrec[report]'."
        )
    results, failed = measure_rows(grid, turns, ablation)
    output.mkdir(parents=True, exist_ok=True)
    (dataset,) = grid.datasets
    given = grid.given(dataset)
    title = f"{dataset}, language model {given.get('llm', _DEFAULT_MODEL)}"
    where = machine(device_of(given))
    table = efficiency_table(results)
    text = _TEXT.format(title=title, machine=where, turns=turns, table=table)
    text += "".join(f"\n{row} was not measured: {error}\n" for row, error in failed.items())
    content = {
        "title": title,
        "settings": {"llm": _DEFAULT_MODEL} | given,
        "parts": [asdict(one) for one in results],
        "failed": failed,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }
    write_json(output / "efficiency.json", json.loads(json.dumps(content, default=str)))
    for name, content in (("png", draw(results, title)), ("md", text.encode())):
        path = output / f"efficiency.{name}"
        write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))
    return text
