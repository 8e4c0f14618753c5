"""RecBole's training loader, with whole histories for rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction

from recbole_tslrec.backbones.whole_sequences.windows import (
    Windows,
    count_batches,
    cut_windows,
    form_batches,
)
from recbole_tslrec.data.histories import Histories, training_histories

if TYPE_CHECKING:
    from recbole.config import Config
    from recbole.data.dataset import SequentialDataset
    from recbole.sampler import AbstractSampler


class WholeSequenceDataLoader(AbstractDataLoader):
    """Batches of windows of the users' training histories.

    ``train_batch_size`` is the number of targets in a batch, as it is in RecBole's loader, where a
    row is a target; batches differ from it by less than a window, and there are as many of them.

    A batch is an ``Interaction`` with the fields of RecBole's rows, B windows of at most L items:
    the user ``[B]``, the item list ``[B, L]`` padded with 0 on the right, its length ``[B]``, and
    under the item field the targets ``[B, L]``: the item after each position, or 0 where no loss is
    due, on padding and where the target counts in another window. With BPR, also the negative items
    ``[B, L]``, one for each target. All int64.

    Which windows share a batch and the order of the batches follow from ``seed`` and differ from
    epoch to epoch. To torch a batch is one element: RecBole's shuffling, workers and distributed
    sampler thus handle batches, while every start of an iteration forms them anew.

    Args:
        config: reads ``MAX_ITEM_LIST_LENGTH``, ``train_batch_size``, ``train_window_context``
            (the share of context of :func:`.cut_windows`), ``loss_type``, ``seed`` and what
            RecBole's loaders read.
        dataset: the training dataset after augmentation and split. Nothing but its rows is read.
        sampler: RecBole's negative sampler; with CE it is None.
        shuffle: whether to shuffle.

    Raises:
        ValueError: the loss is neither CE nor BPR with one static negative, there is a
            ``transform``, or the dataset's rows are not those of whole histories.
    """

    def __init__(
        self,
        config: Config,
        dataset: SequentialDataset,
        sampler: AbstractSampler | None,
        shuffle: bool = False,
    ):
        check_settings(config)
        self._histories: Histories = training_histories(dataset)
        _check_rows_are_targets(self._histories, dataset)
        self._windows: Windows = cut_windows(
            self._histories, config["MAX_ITEM_LIST_LENGTH"], config["train_window_context"]
        )
        # A process of several takes its share of every step, as RecBole divides its batches.
        processes = 1 if config["single_spec"] else config["world_size"]
        self.sample_size = count_batches(
            self._windows, max(config["train_batch_size"] // processes, 1)
        )
        super().__init__(config, dataset, sampler, shuffle=shuffle)

    def _init_batch_size_and_step(self) -> None:
        self.step = 1  # batches, which are torch's elements here
        self.set_batch_size(self.config["train_batch_size"])

    def __iter__(self) -> Iterator[Interaction]:
        n_windows = len(self._windows)
        if self.shuffle:
            order = torch.randperm(n_windows, generator=self.generator).numpy()
        else:
            order = np.arange(n_windows)
        self._batches = form_batches(self._windows, order, self.sample_size)
        return super().__iter__()

    def collate_fn(self, index: list[int]) -> Interaction:
        """The batch of a number.

        Args:
            index: one batch's number.
        """
        (number,) = index
        chosen = self._batches[number]
        lengths = self._windows.lengths[chosen]
        starts = self._windows.starts[chosen, None]
        items = self._histories.items

        position = np.arange(lengths.max())
        is_item = position < lengths[:, None]  # [B, L]
        is_target = is_item & (position >= self._windows.skipped[chosen, None])
        place = np.where(is_item, starts + position, 0)
        targets = np.where(is_target, items[place + 1], 0)
        users = self._histories.user_ids[self._windows.users[chosen]]

        dataset = self._dataset
        batch = {
            dataset.uid_field: users,
            getattr(dataset, f"{dataset.iid_field}_list_field"): np.where(is_item, items[place], 0),
            dataset.item_list_length_field: lengths,
            dataset.iid_field: targets,
        }
        if self.config["loss_type"] == "BPR":
            negatives = np.zeros_like(targets)
            negatives[is_target] = self._sampler.sample_by_user_ids(
                np.repeat(users, is_target.sum(axis=1)), targets[is_target], 1
            )
            batch[self.config["NEG_PREFIX"] + dataset.iid_field] = negatives
        return Interaction({field: torch.from_numpy(value) for field, value in batch.items()})


def check_settings(config: Config) -> None:
    """Refuse what RecBole does to rows and this loader would leave out in silence (ValueError)."""
    if config["transform"] is not None:
        raise ValueError(
            f"train_batching: sequence cannot apply transform: [{config['transform']}], which "
            "works on prefixes. Set transform: ~, or train_batching: prefix."
        )
    loss_type, negatives = config["loss_type"], config["train_neg_sample_args"]
    if loss_type == "BPR":
        static = negatives["distribution"] != "none" and not negatives["dynamic"]
        if negatives["sample_num"] != 1 or not static:
            raise ValueError(
                "train_batching: sequence with loss_type: BPR draws one static negative for each "
                f"target, but train_neg_sample_args is {negatives}. Set sample_num: 1 and dynamic: "
                "False, or train_batching: prefix."
            )
    elif loss_type != "CE":
        raise ValueError(f"train_batching: sequence needs loss_type CE or BPR, not [{loss_type}].")


def _check_rows_are_targets(histories: Histories, dataset: SequentialDataset) -> None:
    """Refuses a dataset some of whose lists hold targets that have no row themselves.

    The loader would train on them although someone took their rows out.
    """
    n_targets = len(histories.items) - len(histories)
    if n_targets != len(dataset):
        raise ValueError(
            f"dataset [{dataset.dataset_name}] has {len(dataset)} training rows, but the histories "
            f"in them have {n_targets} targets: rows at the beginning of histories are missing. "
            "Set train_batching: prefix."
        )
