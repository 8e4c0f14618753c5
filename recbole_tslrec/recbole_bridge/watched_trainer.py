"""RecBole's trainer, watched: what goes wrong stops it; ``valid_protocol`` chooses the epoch."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer

from recbole_tslrec.config.recbole_keys import check_reranked, check_topk
from recbole_tslrec.evaluation.blocks import BlockDataLoader
from recbole_tslrec.evaluation.collector import TopkCollector
from recbole_tslrec.evaluation.ranks import RanksAlongside
from recbole_tslrec.evaluation.seen_items import SeenItems, novel_rows
from recbole_tslrec.store.checkpoints import load_checkpoint


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
        self._novel: np.ndarray | None = None  # the rows that it goes by; None: all
        self.alongside: RanksAlongside | None = None  # takes the scores of a full ranking, if set
        if config["single_spec"]:  # else the other processes look for the first one's file
            # RecBole's name is exact to the second: of two runs that start in the same one, each would
            # write over the other's model, and test it for its own.
            path = Path(self.saved_model_file)
            self.saved_model_file = str(path.with_stem(f"{path.stem}-{uuid.uuid4().hex[:6]}"))

    def fit(self, train_data, valid_data=None, *args, **kwargs):
        """As RecBole's; the epoch is chosen by ``valid_protocol``."""
        self._follow_valid_protocol(train_data, valid_data)
        return super().fit(train_data, valid_data, *args, **kwargs)

    def _follow_valid_protocol(self, train_data, valid_data) -> None:
        protocol = self.config["valid_protocol"]
        if protocol != "ranked":
            self._masked = SeenItems(train_data._dataset)
        if protocol == "novel" and valid_data:
            self._novel = novel_rows(valid_data, self._masked)

    def resume_checkpoint(self, resume_file):
        """As RecBole's; settings that must be those of before are compared.

        Raises:
            ValueError: one is not.
        """
        before = load_checkpoint(resume_file)["config"].final_config_dict
        self._check_resumed(before, resume_file)
        super().resume_checkpoint(resume_file)

    def _check_resumed(self, before: Mapping[str, Any], resume_file) -> None:
        """Raise ValueError unless the epochs to come are judged as those before were.

        Args:
            before: the checkpoint's settings.
        """
        for key, default in (("valid_protocol", "ranked"), ("valid_metric", None)):
            if before.get(key, default) != self.config[key]:
                raise ValueError(
                    f"{key}: [{self.config[key]}] would judge the epochs to come, and those of "
                    f"[{resume_file}] were judged by [{before.get(key, default)}]. Set {key}: "
                    f"{before.get(key, default)}, or train anew."
                )

    def _valid_epoch(self, valid_data, show_progress=False):
        if self._masked is not None:
            valid_data = BlockDataLoader.of(valid_data, self.model, self._masked, self._novel)
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
