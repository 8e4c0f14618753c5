"""Base, CI and TSLRec of one backbone under equal settings, in one table (paper §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from recbole_tslrec.model.specifications import VARIANTS
from recbole_tslrec.quick_start import Experiment, run_experiment

# TSLRec with something else in place of h^v: what a language model must beat to have added anything.
CONTROLS = ("pretrained", "random", "untuned")
METRICS = {"HR@5": "hit@5", "HR@10": "hit@10", "NDCG@5": "ndcg@5", "NDCG@10": "ndcg@10"}


@dataclass
class Comparison:
    """The experiments of every model, one a seed."""

    dataset: str
    seeds: list[int]
    experiments: dict[str, list[Experiment]]

    def table(self) -> str:
        """The test results, mean ± standard deviation over the seeds, and the times, as Markdown."""
        results = [
            [
                name,
                *(
                    _spread([run.test_result[metric] for run in runs])
                    for metric in METRICS.values()
                ),
            ]
            for name, runs in self.experiments.items()
        ]
        caption = (
            f"{self.dataset}, test, {len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        )
        return (
            _markdown([caption, *METRICS], results)
            + "\n\n"
            + _markdown(["where the time went", "seconds a seed"], self._times())
        )

    def _times(self) -> list[list[str]]:
        """Every training and every stage once; a stage's time is that of when it was made."""
        rows: dict[str, list[float]] = {}
        for name, runs in self.experiments.items():
            for run in runs:
                for stage in run.stages:
                    # The backbone is Base, trained above; its stage only takes the embeddings out.
                    if stage.name != "backbone":
                        rows.setdefault(f"stage {stage.name}", []).append(stage.seconds)
                rows.setdefault(f"{name}: training and evaluation", []).append(run.seconds)
        return [[row, f"{mean(seconds):.0f}"] for row, seconds in rows.items()]


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def compare(
    backbone: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (2020,),
    controls: bool = False,
) -> Comparison:
    """Train RecBole's own model (Base), then CI and TSLRec, under the same settings and seeds.

    Base is the trained backbone from which the other two take their item embeddings: it is trained
    once a seed.

    Args:
        backbone: a name in ``BACKBONES``; its loss is CE.
        dataset, config_file_list, config_dict: as RecBole's ``run_recbole`` takes them.
        seeds: RecBole's ``seed``, one experiment each.
        controls: whether to add the three controls of TSLRec.
    """
    variants = [(f"{variant}_{backbone}", None) for variant in reversed(VARIANTS)]
    if controls:
        variants += [(f"TSLRec_{backbone}", control) for control in CONTROLS]
    experiments: dict[str, list[Experiment]] = {}
    for seed in seeds:
        settings = {"train_neg_sample_args": None, **(config_dict or {}), "seed": seed}
        print(f"compare: {backbone}, seed {seed}", flush=True)
        base = run_experiment(backbone, dataset, config_file_list, settings)
        experiments.setdefault(backbone, []).append(base)
        settings["backbone_checkpoint"] = base.checkpoint
        for name, control in variants:
            chosen = settings if control is None else settings | {"enhancement": control}
            row = name if control is None else f"{name}, {control}"
            print(f"compare: {row}, seed {seed}", flush=True)
            experiment = run_experiment(name, dataset, config_file_list, chosen)
            experiments.setdefault(row, []).append(experiment)
    return Comparison(dataset, list(seeds), experiments)
