"""The trainer of a language model that recommends by itself (E4SRec, P5): the one loop, then RecBole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from recbole_tslrec.config.fingerprints import training_settings
from recbole_tslrec.language_model.task import Task, TrainingReport, TrainingSettings
from recbole_tslrec.recbole_bridge.trainers import StagesFirst
from recbole_tslrec.recbole_bridge.watched_trainer import WatchedTrainer
from recbole_tslrec.stages.language_model_training import forget_models
from recbole_tslrec.stages.pipeline import Pipeline, cost_table
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.stages.trained_on import data_notes, numbering, validation_fingerprint
from recbole_tslrec.store import processes
from recbole_tslrec.store.store import WORK


class TrainedLanguageModel(Stage):
    """What was trained of a language model that recommends by itself, kept as a stage of its name.

    Args:
        pipeline: of the experiment.
        name: the model's, in lower case.
        made_from: all that the weights depend on.
        make: trains, and writes them into a folder.
    """

    together = True

    def __init__(
        self,
        pipeline: Pipeline,
        name: str,
        made_from: dict[str, Any],
        make: Callable[[Path], dict[str, Any]],
    ):
        super().__init__(pipeline)
        self.name, self._made_from, self._make = name, made_from, make

    @property
    def made_from(self) -> dict[str, Any]:
        return self._made_from

    def make(self, folder: Path) -> dict[str, Any]:
        return self._make(folder)


class LanguageModelTrainer(StagesFirst, WatchedTrainer):
    """Trains a language model that recommends by itself (E4SRec, P5, POD), in the one loop.

    RecBole's keys for training are the backbone's, if one is trained before; the keys ``sft_*`` take
    their place. RecBole's evaluation after every epoch chooses the epoch. The trained weights are kept
    as a stage, named after the model, and what is unfinished of it is gone on from; RecBole's
    checkpoint is written from it.
    """

    def __init__(self, config, model):
        if not config["single_spec"]:
            raise ValueError(
                f"nproc: [{config['model']}] is trained in one process, or in several that torchrun "
                f"starts. Set nproc=1."
            )
        super().__init__(config, model)
        self.epochs = config["sft_epochs"]
        if config["eval_step"] > 1:
            self.logger.warning(
                f"eval_step: [{config['eval_step']}] is for backbones; [{config['model']}] validates "
                f"after every epoch. Set eval_step: 0 for never."
            )

    def _build_optimizer(self):
        # For RecBole's checkpoint, which has a place for one; the loop brings its own.
        return super()._build_optimizer(
            params=[weight for weight in self.model.parameters() if weight.requires_grad],
            learner="adam",
            learning_rate=self.config[self.model.learning_rate_key],
            weight_decay=self.model.weight_decay,
        )

    def resume_checkpoint(self, resume_file):
        """Raise ValueError: a training goes on by itself."""
        raise ValueError(
            f"resume_checkpoint: [{self.config['model']}] goes on by itself from its last checkpoint in "
            f"tslrec_dir: [{self.config['tslrec_dir']}]. Run the same experiment again."
        )

    def _fit(self, train_data, valid_data, verbose, saved, show_progress, callback_fn=None):
        self._follow_valid_protocol(train_data, valid_data)
        self._prepare(train_data, valid_data, show_progress)
        self.optimizer = self._build_optimizer()  # prepare makes P5 and POD new weights
        self.config["trained_on"] = data_notes(train_data._dataset, valid_data)
        self.eval_collector.data_collect(train_data)
        task = self.model.task(train_data._dataset)
        if valid_data and self.config["eval_step"] > 0:
            task = replace(
                task,
                validation=self._validation(valid_data, show_progress, callback_fn),
                metric=self.valid_metric,
                larger_is_better=self.valid_metric_bigger,
            )
        report = self._train(task, show_progress)
        self.logger.info(cost_table(self.stages))
        processes.part()  # the first process tests
        best = report.best(task)
        self.train_loss_dict = {epoch.number - 1: epoch.loss for epoch in report.epochs}
        if task.validation is not None:
            self.best_valid_score = best.metrics[self.valid_metric]
            self.best_valid_result = best.metrics
        if saved:
            self._save_checkpoint(best.number - 1, verbose=verbose)
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _validation(self, valid_data, show_progress, callback_fn):
        """RecBole's evaluation after an epoch, and what RecBole tells others of it."""

        def validate(number: int) -> dict[str, float]:
            self._epoch = number - 1
            state = valid_data.generator.get_state()  # the same draws after every epoch
            self.model.is_tested = False
            try:
                score, result = self._valid_epoch(valid_data, show_progress=show_progress)
            finally:
                self.model.is_tested = True
            valid_data.generator.set_state(state)
            self.wandblogger.log_metrics({**result, "valid_step": self._epoch}, head="valid")
            if callback_fn:
                callback_fn(self._epoch, score)
            return result

        return validate

    def _full_sort_batch_eval(self, batched_data):
        self.model.targets_alone = self.eval_collector.targets_suffice()
        try:
            return super()._full_sort_batch_eval(batched_data)
        finally:
            self.model.targets_alone = False

    def _train(self, task: Task, show_progress) -> TrainingReport:
        """Train, or read what was trained before; the model has its best epoch's weights then."""
        from recbole_tslrec.language_model.training import train

        learner, name = self.model.learner(), self.config["model"].lower()
        log_folder = str(Path(self.tensorboard.log_dir, name))

        def make(folder: Path) -> dict:
            checkpoints = folder / WORK / "checkpoints"
            checkpoints.mkdir(parents=True, exist_ok=True)
            report = train(
                learner,
                task,
                self._settings(),
                checkpoints,
                self.device,
                show_progress and processes.is_first(),
                log_folder,
            )
            if processes.is_first():
                learner.save(folder)
            forget_models()  # the loop's optimiser, which the test does not need
            return report.as_dict()

        start = monotonic()
        stage = self.pipeline.get(
            TrainedLanguageModel(self.pipeline, name, self._made_from(task), make)
        )
        self.stages = self.pipeline.used
        learner.load(stage.folder)
        # Training counts as long as it took, whenever that was; waiting for others does not.
        self.seconds_of_stages += monotonic() - start - stage.seconds
        return TrainingReport.of(stage.notes)

    def _settings(self) -> TrainingSettings:
        config = self.config
        return TrainingSettings(
            epochs=config["sft_epochs"],
            learning_rate=config[self.model.learning_rate_key],
            batch_positions=config["sft_batch_positions"],
            optimizer=config["sft_optimizer"],
            stopping_step=config["sft_stopping_step"],
            seed=config["seed"],
            schedule=self.model.schedule,
            weight_decay=self.model.weight_decay,
        )

    def _made_from(self, task: Task) -> dict:
        """All that the trained weights, and the metrics of their epochs, depend on."""
        config, data = self.config, self.pipeline.dataset
        stages = self.model.stages(config)
        validated = self.pipeline.valid_data if task.validation is not None else None
        measured = {key: str(config[key]) for key in ("metrics", "topk")}
        return {
            **{kind.name: self.pipeline.stage(kind).fingerprint for kind in stages},
            **self.model.made_from(task),
            "recbole": training_settings(config.final_config_dict) | measured,
            "items": numbering(data),
            "validation": validation_fingerprint(data, validated),
        }

    def _diverged(self, what: str) -> ValueError:
        """The error for an evaluation or weights that went wrong: where, what, and what to try."""
        epoch = "" if self._epoch is None else f"epoch {self._epoch}, "
        key = self.model.learning_rate_key
        return ValueError(
            f"[{self.config['model']}] {epoch}{what}. Training diverged, with {key}: "
            f"[{self.config[key]}]. Try a lower {key}, or llm_quantization: none."
        )
