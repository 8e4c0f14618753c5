"""RecBole's trainer: whole sequences for rows if asked, and the stages before its loop."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from time import monotonic

import torch
from recbole.data.dataloader import AbstractDataLoader
from recbole.trainer import Trainer
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.losses import loss_of, softmax_loss
from recbole_tslrec.backbones.precision import keep_recurrent_layers_exact
from recbole_tslrec.backbones.prefix_rows import prefix_loss
from recbole_tslrec.backbones.registry import backbone_of, without_padding
from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader, check_settings
from recbole_tslrec.backbones.whole_sequences.loss import whole_sequence_loss
from recbole_tslrec.config.key import KEYS, Effect
from recbole_tslrec.config.recbole_keys import (
    check_valid_metric,
    check_validation,
)
from recbole_tslrec.evaluation.blocks import BlockDataLoader
from recbole_tslrec.evaluation.scoring_term import choose_settings
from recbole_tslrec.recbole_bridge.paradigm import backbone_for
from recbole_tslrec.recbole_bridge.unfinished import UnfinishedTraining
from recbole_tslrec.recbole_bridge.watched_trainer import WatchedTrainer
from recbole_tslrec.stages.pipeline import Pipeline, cost_table
from recbole_tslrec.store import processes
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint
from recbole_tslrec.store.files import check_writable


class BackboneTrainer(WatchedTrainer):
    """Trains the backbones of our table: RecBole's trainer but for whole sequences and other losses.

    Attributes:
        unfinished: what is kept of the training while it runs; None where nothing is, without
            validation, in several processes, of loaders that are not RecBole's, and when a checkpoint
            is resumed.
        unfinished_in: the folder where it is kept.
        unfinished_until_tested: whether who tests the model removes it, and not ``fit``.
    """

    unfinished_until_tested = False

    def __init__(self, config, model):
        self.unfinished: UnfinishedTraining | None = None
        self.unfinished_in = Path(config["checkpoint_dir"])
        if config["train_batching"] == "sequence":
            check_settings(config)
        self._bf16 = config["train_precision"] == "bfloat16"
        self._all_items_loss = loss_of(config, model.n_items, self._bf16)
        super().__init__(config, model)
        if self._bf16 and self.device.type == "cuda":
            keep_recurrent_layers_exact(model)

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        """As RecBole's; its loader gives way to one of whole sequences if the settings say so.

        A training that was stopped goes on from the last epoch that was kept of it.
        """
        self._tell_of_padding()
        if self.config["train_batching"] == "sequence":
            train_data = WholeSequenceDataLoader(
                self.config, train_data._dataset, train_data._sampler, train_data.shuffle
            )
        kept = self._kept_while_it_runs(train_data, valid_data, saved)
        if kept is None:
            return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)

        def epoch_ends(epoch, score):
            kept.epoch_ends(epoch, score)
            if callback_fn is not None:
                callback_fn(epoch, score)

        kept.restore()
        if kept.ended:  # RecBole's loop has no epoch to do, and no checkpoint to write
            self.epochs, saved = self.start_epoch, False
        return super().fit(train_data, valid_data, verbose, saved, show_progress, epoch_ends)

    def _kept_while_it_runs(self, train_data, valid_data, saved) -> UnfinishedTraining | None:
        validated = valid_data and self.eval_step > 0
        if not (saved and validated and self.config["single_spec"] and self.start_epoch == 0):
            return None
        if not all(isinstance(one, AbstractDataLoader) for one in (train_data, valid_data)):
            return None  # nobody knows what a loader of the user's own draws
        self.unfinished = UnfinishedTraining(self, train_data, valid_data, self.unfinished_in)
        return self.unfinished

    def _tell_of_padding(self) -> None:
        longest = self.config["MAX_ITEM_LIST_LENGTH"]
        backbone = backbone_of(self.model)
        if self.config["train_batching"] == "prefix" and "trimmed" in backbone.batchings:
            self.logger.warning(
                f"[{backbone.name}]'s time grows with the third power of MAX_ITEM_LIST_LENGTH: "
                f"[{longest}]. train_batching: trimmed leaves padding out, for the same loss in less "
                f"time; a smaller MAX_ITEM_LIST_LENGTH takes less still."
            )

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        def loss_with_one_fusion(interaction):
            # RecBole's own autocast (enable_amp) stays as it is.
            bf16 = torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()
            # A backbone reads its item table several times in a step; a fused one is fused once.
            with parametrize.cached(), bf16:
                return (loss_func or self._loss)(interaction)

        return super()._train_epoch(train_data, epoch_idx, loss_with_one_fusion, show_progress)

    def _loss(self, interaction):
        backbone, loss = backbone_of(self.model), self._all_items_loss
        table, bias = backbone.item_table, backbone.item_bias
        batching = self.config["train_batching"]
        in_training = getattr(self.model, "term_in_training", False)
        if batching == "sequence":
            added = self.model.added_logits if in_training else None
            return whole_sequence_loss(self.model, interaction, table, loss, bias, added)
        if batching == "prefix" and loss is softmax_loss:  # RecBole's own, to the bit
            return self.model.calculate_loss(interaction)
        with without_padding(self.model) if batching == "trimmed" else nullcontext():
            if self.model.loss_type != "CE" or in_training:  # its own has the term
                return self.model.calculate_loss(interaction)
            return prefix_loss(self.model, interaction, table, loss, bias)

    def evaluate(self, *args, **kwargs):
        """As RecBole's, with one fusion for the whole evaluation, and without padding."""
        with parametrize.cached(), without_padding(self.model):
            return super().evaluate(*args, **kwargs)


class GoesOn:
    """Mixin in front of a backbone's trainer: what is kept of a training goes when ``fit`` is over."""

    def fit(self, *args, **kwargs):
        try:
            found = super().fit(*args, **kwargs)
            if self.unfinished is not None and not self.unfinished_until_tested:
                self.unfinished.remove()
            return found
        finally:
            if self.unfinished is not None:
                self.unfinished.release()


class StagesFirst:
    """Mixin for a trainer: runs the stages that the model needs, then RecBole's own loop.

    Attributes:
        pipeline: what ``fit`` runs, or ran; None before ``check``, and when a checkpoint is resumed.
        seconds_of_stages: how long ``fit`` took to check, make or read them, or to wait for them.
        stages: the stages that ``fit`` made or reused, in order.
    """

    def __init__(self, config, model):
        check_writable("checkpoint_dir", Path(config["checkpoint_dir"]))  # where RecBole makes it
        super().__init__(config, model)
        self.pipeline: Pipeline | None = None
        self.stages = []
        self.seconds_of_stages = 0.0

    def fit(
        self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, **more
    ):
        """As RecBole's; the stages come first, except when a checkpoint is resumed."""
        try:
            return self._fit(train_data, valid_data, verbose, saved, show_progress, **more)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Finished stages are kept in [{self.config['tslrec_dir']}]; the same command goes "
                f"on from there."
            ) from None

    def _fit(self, train_data, valid_data, verbose, saved, show_progress, **more):
        # A resumed model has from the checkpoint what the stages gave it.
        if self.start_epoch == 0:
            self._prepare(train_data, valid_data, show_progress)
            self.logger.info(cost_table(self.stages))
        processes.part()  # RecBole's loop goes on in the first process
        return super().fit(train_data, valid_data, verbose, saved, show_progress, **more)

    def _check_resumed(self, before, resume_file) -> None:
        """And unless the model, which comes as it is, is what these settings would make."""
        super()._check_resumed(before, resume_file)
        for name, key in KEYS.items():
            # Files and language models may have been moved, and the model has what it took of them.
            if key.effect is not Effect.VALUE or name not in self.config:
                continue
            made_with = before.get(name, key.default)  # it may be older than the key
            if made_with != self.config[name]:
                raise ValueError(
                    f"{name}: [{self.config[name]}] is not what [{resume_file}] was made with, and a "
                    f"model that is resumed stays as it was made. Set {name}: {made_with}, or train "
                    f"anew."
                )

    def check(self, train_data, valid_data, show_progress=False) -> None:
        """Raise what would stop the stages after hours; ``fit`` calls it unless it was called before."""
        check_validation(self.config, valid_data)
        if self.config["valid_protocol"] == "novel":  # there may be no such row
            self._follow_valid_protocol(train_data, valid_data)
        term = getattr(self.model, "scoring_term", None)
        if valid_data is not None and term is not None and not self.model.term_in_training:
            check_valid_metric(self.config)  # the term is chosen by it, whatever eval_step says
        self.pipeline = Pipeline(
            self.config,
            train_data,
            valid_data,
            backbone_for(type(self.model), self.config),
            show_progress,
            self.tensorboard.log_dir,
        )
        self.pipeline.check(self.model.stages(self.config))

    def _prepare(self, train_data, valid_data, show_progress) -> None:
        """Give the model what its stages make."""
        start = monotonic()
        if self.pipeline is None:
            self.check(train_data, valid_data, show_progress)
        self.model.prepare(self.pipeline)
        self.seconds_of_stages = monotonic() - start
        self.stages = self.pipeline.used


# In a checkpoint beside the best_valid_score, which is with the term.
_WITHOUT_TERM = "best_valid_score_without_term"


class TermChosenLast:
    """Mixin for a trainer: once the model is trained, its ``scoring_term`` is chosen on validation.

    So it is in a model that is ``frozen``, too, whose weights come from a stage: RecBole's loop has then
    no epoch.
    """

    def _fit(self, train_data, valid_data, verbose, saved, show_progress, **more):
        chosen = self._has_term_to_choose()
        if chosen and not valid_data:
            raise ValueError(
                f"eval_args: [{self.config['eval_args']}] leaves no validation, on which a term of the "
                f"scores (score_term: after, a penalty) is chosen. Leave eval_args out."
            )
        if chosen:
            # A resumed checkpoint has a term: its epochs were validated without it, as these are.
            self.model.scoring_term.choose([0.0] * len(self.model.scoring_term.names))
        if getattr(self.model, "frozen", False):
            self.epochs = self.start_epoch
        super()._fit(train_data, valid_data, verbose, saved, show_progress, **more)
        if chosen:
            self._choose(valid_data, saved, show_progress)
        elif getattr(self.model, "frozen", False) and valid_data:
            found = self._valid_epoch(valid_data, show_progress)
            self.best_valid_score, self.best_valid_result = found
        return self.best_valid_score, self.best_valid_result

    def resume_checkpoint(self, resume_file):
        """As RecBole's; the epochs to come must beat the best one without its term."""
        super().resume_checkpoint(resume_file)
        content = load_checkpoint(resume_file)
        self.best_valid_score = content.get(_WITHOUT_TERM, self.best_valid_score)

    def _has_term_to_choose(self) -> bool:
        if getattr(self.model, "scoring_term", None) is None or self.model.term_in_training:
            return False
        if not self.config["single_spec"]:
            raise ValueError("nproc: a term of the scores is chosen in one process. Set nproc=1.")
        return True

    def _choose(self, valid_data, saved, show_progress) -> None:
        """Choose the best epoch's term, and write it into the checkpoint; its weights stay loaded."""
        # On the CPU: the optimiser's state takes twice the model's memory, and is of no use here.
        content = load_checkpoint(self.saved_model_file) if saved else None
        if content is not None:
            self.model.load_state_dict(content["state_dict"])
        metric = self.config["valid_metric"]
        term = self.model.scoring_term
        masked, novel = (None, None) if term.always_ranked else (self._masked, self._novel)
        blocks = BlockDataLoader.of(valid_data, self.model, chosen=novel)
        by_settings = choose_settings(self.model, blocks, metric, masked)
        best = dict(zip(term.names, term.chosen.tolist(), strict=True))
        how = "ranked" if masked is None else "masked"
        how += "" if novel is None else ", novel targets"
        self.logger.info(
            f"Term at scoring, by {metric} on validation, seen items {how}: {best}, "
            f"{max(by_settings.values()):.4f}; without it {next(iter(by_settings.values())):.4f}"
        )
        self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data, show_progress)
        if content is not None:
            content["state_dict"] = self.model.state_dict()
            # Of a run that went on without a better epoch it is there, and the other has the term.
            content.setdefault(_WITHOUT_TERM, content["best_valid_score"])
            content["best_valid_score"] = float(self.best_valid_score)
            write_checkpoint(content, self.saved_model_file)


class PlainTrainer(GoesOn, BackboneTrainer):
    """Trains a backbone by itself. A user's class that only has a backbone's name gets RecBole's."""

    def __new__(cls, config=None, model=None):
        # RecBole chooses trainers by names. A copy is made without arguments.
        if model is not None and backbone_of(model) is None:
            recboles = (one for one in cls.__mro__ if one.__module__ == Trainer.__module__)
            return next(recboles)(config, model)
        return super().__new__(cls)


class TwoStageTrainer(GoesOn, TermChosenLast, StagesFirst, BackboneTrainer):
    """Trains ``TSLRec_*``, ``CI_*`` and ``Norm_*`` models: the fused backbone in RecBole's own loop."""


class FrozenTrainer(TermChosenLast, StagesFirst, WatchedTrainer):
    """For models in which nothing is trained: a rule, or what a stage has trained with a rule on top."""


class StagedTrainer(StagesFirst, WatchedTrainer):
    """Trains a model of any paradigm in RecBole's own loop, after its stages."""
