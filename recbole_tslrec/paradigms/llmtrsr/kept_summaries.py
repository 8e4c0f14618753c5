"""The summaries that a model has: of which users, after which histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recbole_tslrec.language_model.prompts.segments import tokens_of_texts
from recbole_tslrec.paradigms.llmtrsr.histories import TARGETS, UserHistories
from recbole_tslrec.store.arrays import arrays_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NONE = np.zeros(0, dtype=np.int64)


class Kept(NamedTuple):
    """One summary.

    Attributes:
        user: the internal id.
        target: its place in ``TARGETS``.
        items: int64 [any], the last of the items that it was made from.
        tokens: int64 [any], its words.
    """

    user: int
    target: int
    items: np.ndarray
    tokens: np.ndarray


def as_tokens(
    histories: Sequence[UserHistories],
    texts: Mapping[tuple[str, str], str],
    tokenizer: PreTrainedTokenizerBase,
    most: int,
) -> list[Kept]:
    """Summaries as a ranker reads them.

    Args:
        histories: what was summarised.
        texts: the summaries by user token and target.
        tokenizer: the ranker's.
        most: tokens of a summary.
    """
    rows = [(one, *before) for one in histories for before in one.before.items()]
    written = [texts[one.token, target] for one, target, _ in rows]
    tokens = tokens_of_texts(tokenizer, written)
    if n_cut := sum(len(own) > most for own in tokens):
        getLogger(__name__).info(
            f"Summaries: {n_cut:,} of {len(tokens):,} have more than {most} tokens of the ranker's "
            f"(trsr_summary_tokens), and lose their end"
        )
    return [
        Kept(one.user, TARGETS.index(target), items, np.array(own[:most], dtype=np.int64))
        for (one, target, items), own in zip(rows, tokens, strict=True)
    ]


def stand_ins(histories: Sequence[UserHistories], words: np.ndarray) -> list[Kept]:
    """The same words in the place of every summary, for a measurement."""
    return [
        Kept(one.user, TARGETS.index(target), items, words)
        for one in histories
        for target, items in one.before.items()
    ]


class KeptSummaries(nn.Module):
    """Finds the summary that belongs to a row; a part of a model's state dict.

    Args:
        most_items: of RecBole's item lists, which lose their oldest beyond.
        seed: of which user's summary another user has in the control.
    """

    users: Tensor
    targets: Tensor
    items: Tensor
    item_counts: Tensor
    tokens: Tensor
    token_counts: Tensor

    def __init__(self, most_items: int, seed: int):
        super().__init__()
        self.most_items, self.seed = most_items, seed
        self.take([])

    def take(self, kept: Sequence[Kept]) -> None:
        """Have these in the place of what there was."""
        width = max((len(one.items[-self.most_items :]) for one in kept), default=0)
        items = np.zeros((len(kept), width), dtype=np.int32)
        for row, one in enumerate(kept):
            own = one.items[-self.most_items :]
            items[row, : len(own)] = own
        arrays = {
            "users": np.array([one.user for one in kept], dtype=np.int64),
            "targets": np.array([one.target for one in kept], dtype=np.int64),
            "items": items,
            "item_counts": (items > 0).sum(axis=1),
            "tokens": np.concatenate([_NONE, *(one.tokens for one in kept)]).astype(np.int32),
            "token_counts": np.array([len(one.tokens) for one in kept], dtype=np.int64),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array))
        self._found: dict[int, list[Kept]] | None = None  # by user

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name, buffer in list(self.named_buffers(recurse=False)):
            given = state_dict.get(prefix + name)
            if given is not None:  # there are as many as were trained with
                setattr(self, name, buffer.new_zeros(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._found = None

    def content_hash(self) -> str:
        """A hash of all of them."""
        return arrays_hash(*(buffer.cpu().numpy() for _, buffer in sorted(self.named_buffers())))

    def of(
        self,
        users: Sequence[int],
        histories: Sequence[np.ndarray],
        latest: str = "test",
        shuffled: bool = False,
    ) -> list[np.ndarray]:
        """The words of the summary that each row may read.

        Of the user's summaries it is the one whose history the row's goes on from with the fewest items
        since; of equal ones the one that was made from fewer. So no row reads what comes after it, and
        a row that is longer than any that was summarised reads the latest before it.

        Args:
            users: internal ids.
            histories: int64 [any] each, RecBole's item lists.
            latest: what the rows are for, one of ``TARGETS``; summaries before later targets do not
                count, though a repeated item may make a cut history look like theirs.
            shuffled: another user's summary for the same target in its place.

        Returns:
            int64 [any] each; empty where there is none.
        """
        of_user = self._lists()
        other = self._others() if shuffled else {}
        found = []
        for user, history in zip(users, histories, strict=True):
            allowed = TARGETS.index(latest)
            possible = [one for one in of_user.get(user, ()) if one.target <= allowed]
            best, fewest = None, None
            for one in possible:
                since = items_since(one.items, history, self.most_items)
                if since is not None and (fewest is None or since < fewest):
                    best, fewest = one, since
            if best is None and possible and allowed and len(history) == self.most_items:
                best = possible[-1]  # of a held-out row: as many items as a list holds came since
            if best is not None and shuffled:
                theirs = of_user[other[user]]
                best = next((one for one in theirs if one.target == best.target), theirs[-1])
            found.append(_NONE if best is None else best.tokens)
        return found

    def _others(self) -> dict[int, int]:
        """Whose summary each user has in the control: in a random circle, nobody the own one."""
        circle = np.random.default_rng(self.seed).permutation(np.unique(self.users.cpu().numpy()))
        return dict(zip(circle.tolist(), np.roll(circle, 1).tolist(), strict=True))

    def _lists(self) -> dict[int, list[Kept]]:
        """Those of each user in the order of their targets."""
        if self._found is None:
            ends = self.token_counts.cpu().numpy().cumsum()
            tokens = np.split(self.tokens.cpu().numpy().astype(np.int64), ends)
            items = self.items.cpu().numpy().astype(np.int64)
            # All at once: a number that is asked for alone waits for the GPU.
            users, targets, counts = (
                each.tolist() for each in (self.users, self.targets, self.item_counts)
            )
            self._found = {}
            for row in np.argsort(targets, kind="stable").tolist():
                own = items[row, : counts[row]]
                one = Kept(users[row], targets[row], own, tokens[row])
                self._found.setdefault(one.user, []).append(one)
        return self._found


def items_since(before: np.ndarray, history: np.ndarray, most: int) -> int | None:
    """How many items a history has behind an earlier one; None if it does not go on from that.

    Args:
        before: the earlier one, of which the last ``most`` items at the most.
        history: likewise; of ``most`` items it may have lost its oldest.
    """
    whole = len(history) < most
    possible = [len(history) - len(before)] if whole else range(len(history))
    for since in possible:
        shared = history[: len(history) - since]
        if since >= 0 and 0 < len(shared) <= len(before):
            if np.array_equal(before[len(before) - len(shared) :], shared):
                return since
    return None
