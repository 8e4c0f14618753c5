"""One experiment step by step."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import AbstractDataLoader, FullSortEvalDataLoader
from recbole.data.transform import construct_transform
from recbole.trainer import Trainer
from recbole.utils import (
    get_environment,
    get_flops,
    get_model,
    get_trainer,
    init_logger,
    init_seed,
    set_color,
)
from recbole.utils.logger import RemoveColorFilter, log_colors_config

from recbole_tslrec.backbones.registry import backbone_of
from recbole_tslrec.config.key import KEYS, names_of
from recbole_tslrec.config.recbole_keys import check_validation
from recbole_tslrec.evaluation.ranks import RanksAlongside
from recbole_tslrec.recbole_bridge.paradigm import paradigm_of
from recbole_tslrec.recbole_bridge.trainers import StagesFirst
from recbole_tslrec.recbole_bridge.watched_trainer import WatchedTrainer
from recbole_tslrec.store.store import StoredResult


@dataclass
class Experiment:
    """What one experiment came to.

    Attributes:
        test_result, best_valid_result: RecBole's metrics by lower-case name, ``ndcg@10`` for one;
            the first is None if there was no test.
        by_protocol: the test's HR and NDCG with seen items ranked and masked, from the same scores; None
            where there was no full ranking, or the two protocols go by different scores.
        best_valid_score: the value of ``valid_metric`` that chose the epoch.
        stages: the stages before the fused model, made or reused; none for RecBole's own models.
        seconds: the time of RecBole's own loop and of the test, the stages not counted.
        test_seconds: of these the test's.
        checkpoint: the trained model, RecBole's file.
        trainer: RecBole's trainer, with its ``config`` and ``model``; the model's weights are the
            best epoch's after a test, and the last one's without.
        train_data, valid_data, test_data: RecBole's loaders.
    """

    test_result: dict[str, float] | None
    by_protocol: dict[str, dict[str, float]] | None
    best_valid_result: dict[str, float]
    best_valid_score: float
    stages: list[StoredResult]
    seconds: float
    test_seconds: float
    checkpoint: str
    trainer: Trainer
    train_data: AbstractDataLoader
    valid_data: AbstractDataLoader
    test_data: AbstractDataLoader

    def is_tested(self) -> None:
        """Remove what was kept to go on from."""
        _forget_unfinished(self.trainer)


def _new_log(config) -> None:
    """RecBole's log of a run; what else the program listens with stays, behind it."""
    root = logging.getLogger()
    before = root.handlers[:]
    for handler in before:
        root.removeHandler(handler)  # RecBole makes a log only where nobody listens
    try:
        init_logger(config)
    finally:
        for handler in before:
            if _is_recboles(handler):
                handler.close()  # of the run before, in whose file this one would go on
            else:
                root.addHandler(handler)


def _is_recboles(handler: logging.Handler) -> bool:
    colours = getattr(handler.formatter, "log_colors", None)
    filtered = any(isinstance(one, RemoveColorFilter) for one in handler.filters)
    return filtered or colours is log_colors_config


def _tell_unread(config) -> None:
    """Name the given keys of ours that other paradigms read: they stand in a file for several, or were
    meant for this one."""
    paradigm = paradigm_of(config["model"])
    if paradigm is None:
        return
    others = KEYS.keys() - set(names_of(paradigm.keys))
    if unread := [key for key in config.external_config_dict if key in others]:
        logging.getLogger().warning(
            f"{', '.join(unread)}: [{config['model']}] does not read what is given here."
        )


def _flops(config, data, model) -> str:
    """RecBole's line. To count may draw at random, so that it stands where RecBole has it."""
    backbone = backbone_of(model)
    if backbone is not None and not backbone.scores_single_items:  # which is how RecBole counts
        return f"{set_color('FLOPs', 'blue')}: not counted"
    transform, logger = construct_transform(config), logging.getLogger()
    flops = get_flops(model, data, config["device"], logger, transform)
    return f"{set_color('FLOPs', 'blue')}: {flops}"


def _describe(trainer, described: Sequence[str], train_data, valid_data) -> None:
    """What RecBole's lines say of an experiment, once nothing is refused any more."""
    if isinstance(trainer, StagesFirst):
        trainer.check(train_data, valid_data, trainer.config["show_progress"])
    for part in described:
        logging.getLogger().info(part)  # to the root, as RecBole does
    _tell_unread(trainer.config)


def _log_results(config, valid: Mapping[str, float], test: Mapping[str, float] | None) -> None:
    """RecBole's lines."""
    logger, machine = logging.getLogger(), get_environment(config).draw()
    logger.info(f"The running environment of this training is as follows:\n{machine}")
    logger.info(f"{set_color('best valid ', 'yellow')}: {valid}")
    logger.info(f"{set_color('test result', 'yellow')}: {test}")


def _test(
    trainer, train_data, valid_data, test_data
) -> tuple[dict[str, float] | None, dict[str, dict[str, float]] | None]:
    """RecBole's test, and the metrics of both protocols if its scores give them."""
    alongside = _ranks_alongside(trainer, train_data, valid_data, test_data)
    shown = trainer.config["show_progress"]
    if alongside is None:
        return trainer.evaluate(test_data, show_progress=shown), None
    trainer.alongside = alongside
    try:
        return trainer.evaluate(test_data, show_progress=shown), alongside.metrics()
    finally:
        trainer.alongside = None


def _ranks_alongside(trainer, train_data, valid_data, test_data) -> RanksAlongside | None:
    """What takes the test's scores for both protocols, if one pass gives both."""
    ours = isinstance(trainer, WatchedTrainer) and trainer.config["single_spec"]
    full = isinstance(test_data, FullSortEvalDataLoader) and len(test_data)
    if not ours or not full or hasattr(trainer.model, "protocol_scores"):
        return None
    try:
        return RanksAlongside(train_data, valid_data)
    except ValueError as error:  # a split that came ready-made
        logging.getLogger().info(f"Metrics under RecBole's protocol alone: {error}")
        return None


def _forget_unfinished(trainer) -> None:
    unfinished = getattr(trainer, "unfinished", None)
    if unfinished is not None:
        unfinished.remove()


def _seconds_before(trainer) -> float:
    """How long a training that went on had taken before it was stopped."""
    unfinished = getattr(trainer, "unfinished", None)
    return 0.0 if unfinished is None else unfinished.seconds_before


def run_experiment(
    model: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    test: bool = True,
    describe: bool = False,
) -> Experiment:
    """RecBole's ``run_recbole``, which keeps what its result dict does not hold.

    Args:
        model, dataset, config_file_list, config_dict: as ``run_recbole`` takes them.
        test: whether to test the trained model; else whoever does so calls ``is_tested``.
        describe: whether to log what ``run_recbole`` logs: settings, data, model, machine and results.
            It does so when nothing is refused any more.

    Raises:
        ValueError: nobody is to be validated on, or ``valid_metric`` is not among the metrics.
    """
    config = Config(model, dataset, config_file_list, dict(config_dict or {}))
    init_seed(config["seed"], config["reproducibility"])
    _new_log(config)
    data = create_dataset(config)
    described = [str(part) for part in (sys.argv, config, data)]  # as they are now
    train_data, valid_data, test_data = loaders = data_preparation(config, data)
    check_validation(config, valid_data)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    recommender = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    if describe:
        described += [str(recommender), _flops(config, data, recommender)]
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, recommender)
    with closing(trainer.tensorboard):  # its thread would outlive the run
        if describe:
            _describe(trainer, described, train_data, valid_data)
        trainer.unfinished_until_tested = True
        start = monotonic()
        score, best_valid_result = trainer.fit(
            train_data, valid_data, show_progress=config["show_progress"]
        )
        found, begun = (None, None), monotonic()
        if test:
            found = _test(trainer, train_data, valid_data, test_data)
            _forget_unfinished(trainer)
        stages, end = getattr(trainer, "stages", []), monotonic()
        if describe:
            _log_results(config, best_valid_result, found[0])
    return Experiment(
        *found,
        best_valid_result,
        float(score),
        stages,
        end - start - getattr(trainer, "seconds_of_stages", 0.0) + _seconds_before(trainer),
        end - begun,
        trainer.saved_model_file,
        trainer,
        *loaders,
    )
