"""RecBole's trainer: whole sequences for rows if asked, and the stages before its loop."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.losses import loss_of, softmax_loss
from recbole_tslrec.backbones.prefix_rows import prefix_loss
from recbole_tslrec.backbones.registry import backbone_of, without_padding
from recbole_tslrec.backbones.whole_sequences.loader import WholeSequenceDataLoader, check_settings
from recbole_tslrec.backbones.whole_sequences.loss import whole_sequence_loss
from recbole_tslrec.config.recbole_keys import (
    check_reranked,
    check_topk,
    check_valid_metric,
    check_validation,
)
from recbole_tslrec.evaluation.blocks import BlockDataLoader
from recbole_tslrec.evaluation.collector import TopkCollector
from recbole_tslrec.evaluation.ranks import RanksAlongside
from recbole_tslrec.evaluation.scoring_term import choose_settings
from recbole_tslrec.evaluation.seen_items import SeenItems
from recbole_tslrec.recbole_bridge.paradigm import backbone_for
from recbole_tslrec.stages.pipeline import Pipeline, cost_table
from recbole_tslrec.store import processes
from recbole_tslrec.store.checkpoints import load_checkpoint, write_checkpoint
from recbole_tslrec.store.files import check_writable


class WatchedTrainer(Trainer):
    """RecBole's trainer that stops at the first loss, score or weight that is NaN or infinite.

    A score of -inf passes, with which RecBole takes out what is not to be ranked. The checkpoint of the
    best epoch before is left. RecBole's trainer stops at a loss of NaN alone: scores of NaN it ranks
    first, and so gives metrics that look like any other.
    """

    def __init__(self, config, model):
        check_topk(config, model.n_items - 1)
        check_reranked(config, model)
        super().__init__(config, model)
        self.eval_collector = TopkCollector(config)
        self._epoch, self._step = None, 0  # where training stands
        self._evaluated = None  # the file whose weights are evaluated; None for the trained ones
        self._masked: SeenItems | None = None  # what validation does not rank
        self.alongside: RanksAlongside | None = None  # takes the scores of a full ranking, if set
        if config["single_spec"]:  # else the other processes look for the first one's file
            # RecBole's name is exact to the second: of two runs that start in the same one, each would
            # write over the other's model, and test it for its own.
            path = Path(self.saved_model_file)
            self.saved_model_file = str(path.with_stem(f"{path.stem}-{uuid.uuid4().hex[:6]}"))

    def fit(self, train_data, *args, **kwargs):
        """As RecBole's; the epoch is chosen by ``valid_protocol``."""
        self._follow_valid_protocol(train_data)
        return super().fit(train_data, *args, **kwargs)

    def _follow_valid_protocol(self, train_data) -> None:
        if self.config["valid_protocol"] == "masked":
            self._masked = SeenItems(train_data._dataset)

    def resume_checkpoint(self, resume_file):
        """As RecBole's; the epochs to come must be judged as those before were.

        Raises:
            ValueError: they are not.
        """
        before = load_checkpoint(resume_file)["config"].final_config_dict
        for key, default in (("valid_protocol", "ranked"), ("valid_metric", None)):
            if before.get(key, default) != self.config[key]:
                raise ValueError(
                    f"{key}: [{self.config[key]}] would judge the epochs to come, and those of "
                    f"[{resume_file}] were judged by [{before.get(key, default)}]. Set {key}: "
                    f"{before.get(key, default)}, or train anew."
                )
        super().resume_checkpoint(resume_file)

    def _valid_epoch(self, valid_data, show_progress=False):
        if self._masked is not None:
            valid_data = BlockDataLoader.of(valid_data, self.model, self._masked)
        return super()._valid_epoch(valid_data, show_progress)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        self._epoch, self._step = epoch_idx, 0

        def counted_loss(interaction):
            self._step += 1
            return (loss_func or self.model.calculate_loss)(interaction)

        return super()._train_epoch(train_data, epoch_idx, counted_loss, show_progress)

    def evaluate(self, eval_data, load_best_model=True, model_file=None, *args, **kwargs):
        """As RecBole's, a full ranking in small blocks of users.

        Raises:
            ValueError: a score is NaN or infinite.
        """
        self._evaluated = None
        self.eval_collector.forget()  # of an evaluation that was refused or interrupted
        if load_best_model:
            self._epoch = None  # what is evaluated is not what the last epoch left
            self._evaluated = model_file or self.saved_model_file
        ready = not eval_data or isinstance(eval_data, BlockDataLoader)
        if not ready and isinstance(eval_data, FullSortEvalDataLoader):
            eval_data = BlockDataLoader.of(eval_data, self.model)
        return super().evaluate(eval_data, load_best_model, model_file, *args, **kwargs)

    def _check_nan(self, loss):
        """RecBole's hook before each step backward: refuses infinity as well, and says more."""
        if not loss.isfinite():
            raise self._diverged(f"step {self._step}: the training loss is [{loss.item()}]")

    def _full_sort_batch_eval(self, batched_data):
        batch = self._with_sound_scores(super()._full_sort_batch_eval(batched_data))
        if self.alongside is not None:
            interaction, scores, _, targets = batch  # one target a row, as of all sequential models
            self.alongside.add(interaction, scores, targets)
        return batch

    def _neg_sample_batch_eval(self, batched_data):
        return self._with_sound_scores(super()._neg_sample_batch_eval(batched_data))

    def _with_sound_scores(self, batch):
        # The maximum is NaN where any score is; -inf, which RecBole gives to what is not to be
        # ranked, it is only if nothing else is left.
        highest = batch[1].max()
        if not highest.isfinite():
            file = "" if self._evaluated is None else f" of [{self._evaluated}]"
            raise self._diverged(f"evaluation{file}: the highest score is [{highest.item()}]")
        return batch

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        # The last step of an epoch may break the weights after a loss that was sound, and without
        # validation data nothing else would notice.
        for name, weight in self.model.named_parameters():
            if not weight.requires_grad or weight.numel() == 0:
                continue
            numbers = torch.view_as_real(weight) if weight.is_complex() else weight
            if not torch.stack(numbers.aminmax()).isfinite().all():  # NaN is carried over
                raise self._diverged(f"end of the epoch: [{name}] holds NaN or infinity")
        super()._save_checkpoint(epoch, verbose, **kwargs)

    def _diverged(self, what: str) -> ValueError:
        """The error for a training that went wrong: where, what, and what to try."""
        epoch = "" if self._epoch is None else f"epoch {self._epoch}, "
        keys = ("learning_rate", "clip_grad_norm", "weight_decay", "enable_amp")
        values = ", ".join(f"{key}: [{self.config[key]}]" for key in keys)
        kept = "No checkpoint was written before."
        if Path(self.saved_model_file).is_file():
            kept = f"The last checkpoint is [{self.saved_model_file}]."
        return ValueError(
            f"[{self.config['model']}] {epoch}{what}. Training diverged, with {values}. Try a lower "
            f"learning_rate, clip_grad_norm: {{'max_norm': 1}}, or enable_amp: False. {kept}"
        )


class BackboneTrainer(WatchedTrainer):
    """Trains the backbones of our table: RecBole's trainer but for whole sequences and other losses."""

    def __init__(self, config, model):
        if config["train_batching"] == "sequence":
            check_settings(config)
        self._bf16 = config["train_precision"] == "bfloat16"
        self._all_items_loss = loss_of(config, model.n_items, self._bf16)
        super().__init__(config, model)

    def fit(self, train_data, valid_data=None, *args, **kwargs):
        """As RecBole's; its loader gives way to one of whole sequences if the settings say so."""
        self._tell_of_padding()
        if self.config["train_batching"] == "sequence":
            train_data = WholeSequenceDataLoader(
                self.config, train_data._dataset, train_data._sampler, train_data.shuffle
            )
        return super().fit(train_data, valid_data, *args, **kwargs)

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
            # A backbone reads its item table several times in a step; a fused one is fused once.
            with (
                parametrize.cached(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16),
            ):
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

    def check(self, train_data, valid_data, show_progress=False) -> None:
        """Raise what would stop the stages after hours; ``fit`` calls it unless it was called before."""
        check_validation(self.config, valid_data)
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
        content = load_checkpoint(self.saved_model_file, self.device) if saved else None
        if content is not None:
            self.model.load_state_dict(content["state_dict"])
        blocks = BlockDataLoader.of(valid_data, self.model)
        metric = self.config["valid_metric"]
        term = self.model.scoring_term
        masked = None if term.always_ranked else self._masked
        by_settings = choose_settings(self.model, blocks, metric, masked)
        best = dict(zip(term.names, term.chosen.tolist(), strict=True))
        self.logger.info(
            f"Term at scoring, by {metric} on validation, seen items "
            f"{'ranked' if masked is None else 'masked'}: {best}, {max(by_settings.values()):.4f}; "
            f"without it {next(iter(by_settings.values())):.4f}"
        )
        self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data, show_progress)
        if content is not None:
            content["state_dict"] = self.model.state_dict()
            # Of a run that went on without a better epoch it is there, and the other has the term.
            content.setdefault(_WITHOUT_TERM, content["best_valid_score"])
            content["best_valid_score"] = float(self.best_valid_score)
            write_checkpoint(content, self.saved_model_file)


class TwoStageTrainer(TermChosenLast, StagesFirst, BackboneTrainer):
    """Trains ``TSLRec_*``, ``CI_*`` and ``Norm_*`` models: the fused backbone in RecBole's own loop."""


class FrozenTrainer(TermChosenLast, StagesFirst, WatchedTrainer):
    """For models in which nothing is trained: a rule, or what a stage has trained with a rule on top."""


class StagedTrainer(StagesFirst, WatchedTrainer):
    """Trains a model of any paradigm in RecBole's own loop, after its stages."""
