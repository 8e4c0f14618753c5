"""Base, CI and TSLRec of one backbone under equal settings, in one table (paper §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from recbole_tslrec.model.specifications import VARIANTS
from recbole_tslrec.quick_start import Experiment, run_experiment
from recbole_tslrec.storage import Stage

METRICS = {"HR@5": "hit@5", "HR@10": "hit@10", "NDCG@5": "ndcg@5", "NDCG@10": "ndcg@10"}


@dataclass
class Comparison:
    """The experiments by the name of their model."""

    dataset: str
    experiments: dict[str, Experiment]

    @property
    def stages(self) -> list[Stage]:
        """Every stage that the experiments shared, as the first of them met it."""
        found: dict[str, Stage] = {}
        for experiment in self.experiments.values():
            for stage in experiment.stages:
                found.setdefault(stage.name, stage)
        return list(found.values())

    def table(self) -> str:
        """The test results of every model, then the time of every stage, as Markdown."""
        results = [
            [name, *(f"{run.test_result[metric]:.4f}" for metric in METRICS.values())]
            for name, run in self.experiments.items()
        ]
        trainings = [
            [f"{name}: training and evaluation", f"{run.seconds:.0f} s", ""]
            for name, run in self.experiments.items()
        ]
        stages = [
            [f"stage {stage.name}", f"{stage.seconds:.0f} s", "reused" if stage.reused else ""]
            for stage in self.stages
        ]
        base, *others = trainings
        return (
            _markdown([f"{self.dataset}, test", *METRICS], results)
            + "\n\n"
            + _markdown(["where the time went", "time", ""], [base, *stages, *others])
        )


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def compare(
    backbone: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Comparison:
    """Train RecBole's own model (Base), then CI and TSLRec, under the same settings and seed.

    Base is the trained backbone from which the other two take their item embeddings: it is trained
    once.

    Args:
        backbone: a name in ``BACKBONES``; its loss is CE.
        dataset, config_file_list, config_dict: as RecBole's ``run_recbole`` takes them.
    """
    shared = {"train_neg_sample_args": None, **(config_dict or {})}
    base = run_experiment(backbone, dataset, config_file_list, shared)
    experiments = {backbone: base}
    shared = {**shared, "backbone_checkpoint": base.checkpoint}
    for variant in reversed(VARIANTS):
        name = f"{variant}_{backbone}"
        experiments[name] = run_experiment(name, dataset, config_file_list, shared)
    return Comparison(dataset, experiments)
