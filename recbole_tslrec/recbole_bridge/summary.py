"""The last lines of an experiment's screen: what came of it, what it took, and what to do next."""

from __future__ import annotations

import shlex
from logging import getLogger

from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import SequentialDataset
from tabulate import tabulate

from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS
from recbole_tslrec.evaluation.ranks import rank_test_targets
from recbole_tslrec.recbole_bridge.quick_start import Experiment
from recbole_tslrec.store.duration import duration

_LONG_TEST = 600  # seconds


def summary(experiment: Experiment) -> str:
    """The test's metrics, under both protocols where that can be, the times, the model, a command.

    A reranker, whose protocols go by different scores, ranks the test targets once more.
    """
    config, checkpoint = experiment.trainer.config, experiment.checkpoint
    head = f"{config['model']} on {config['dataset']}, seed {config['seed']}"
    times = [
        f"{stage.name} {duration(stage.seconds)}{' (reused)' if stage.reused else ''}"
        for stage in experiment.stages
    ]
    # A language model that recommends by itself is kept as a stage: its training is told already.
    own = [one.seconds for one in experiment.stages if one.name == config["model"].lower()]
    last = max(experiment.seconds - sum(own), 0.0)
    times.append(f"{'test' if own else 'training and test'} {duration(last)}")
    lines = [_metrics(experiment, head), "", f"Time:  {', '.join(times)}", f"Model: {checkpoint}"]
    if isinstance(
        experiment.train_data._dataset, SequentialDataset
    ):  # a model that reads histories
        lines.append(
            f"Next:  python -m recbole_tslrec recommend --checkpoint={shlex.quote(checkpoint)} "
            f"--all_users --output=recommendations.csv"
        )
    return "\n" + "\n".join(lines)


def _metrics(experiment: Experiment, head: str) -> str:
    if experiment.test_result is None:
        return f"{head}: the split leaves nobody to test."
    both = _both_protocols(experiment)
    if both is None:
        found = experiment.test_result
        return tabulate(
            [[_recboles_protocol(experiment), *(f"{value:.4f}" for value in found.values())]],
            [head, *found],
            tablefmt="github",
            disable_numparse=True,
        )
    rows = [
        [f"test, {PROTOCOLS[name]}", *(f"{found[key]:.4f}" for key in METRICS.values())]
        for name, found in both.items()
    ]
    return tabulate(rows, [head, *METRICS], tablefmt="github", disable_numparse=True)


def _recboles_protocol(experiment: Experiment) -> str:
    """What the row of RecBole's own figures is: of sampled items they are neither protocol's."""
    all_items = isinstance(experiment.test_data, FullSortEvalDataLoader)
    if all_items and experiment.trainer.config["repeatable"]:
        return f"test, {PROTOCOLS['ranked']}"
    return "test"


def _both_protocols(experiment: Experiment) -> dict[str, dict[str, float]] | None:
    """None where the targets cannot be ranked, or it takes long: RecBole's metrics stand."""
    again = hasattr(experiment.trainer.model, "protocol_scores")
    if experiment.by_protocol is not None or not again:
        return experiment.by_protocol
    if experiment.test_seconds > _LONG_TEST:
        getLogger(__name__).info(
            f"The test took {duration(experiment.test_seconds)}, and is not repeated for the protocol "
            f"that masks seen items; compare has both."
        )
        return None
    data = (experiment.train_data, experiment.valid_data, experiment.test_data)
    try:
        return rank_test_targets(experiment.trainer.model, *data).metrics()
    except ValueError as error:  # sampled items, or a split that came ready-made
        getLogger(__name__).info(f"Metrics under RecBole's protocol alone: {error}")
        return None
