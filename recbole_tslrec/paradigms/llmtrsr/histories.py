"""What the summaries read: each user's history before each target, in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from recbole_tslrec.stages.pipeline import Pipeline

# A user has a summary for each, in the order of time: what is before the latest training target, before
# what is validated, before what is tested. None reads its own target, nor what comes later.
TARGETS = ("training", "validation", "test")


class UserHistories(NamedTuple):
    """One user's histories.

    Attributes:
        user: the internal id.
        token: the user's token.
        before: by target, int64 [any], the internal ids of all items before it, oldest first.
    """

    user: int
    token: str
    before: dict[str, np.ndarray]


def histories_before_targets(pipeline: Pipeline) -> list[UserHistories]:
    """The histories of all users who have a training row, by the users' tokens.

    The test's is read only as far as validation goes: where a split holds out several items of a user
    for the test, the later ones' summary is the first one's.
    """
    dataset, histories = pipeline.dataset, pipeline.histories
    tokens = dataset.field2id_token[dataset.uid_field]
    validated = _validated(pipeline)
    found = []
    for place, user in enumerate(histories.user_ids.tolist()):
        items = histories[place]
        before = {"training": items[:-1], "validation": items}
        if user in validated:
            before["test"] = np.concatenate([items, validated[user]])
        found.append(UserHistories(user, str(tokens[user]), before))
    return sorted(found, key=lambda one: one.token)


def blocks_of(history: np.ndarray, size: int, most: int) -> list[np.ndarray]:
    """A history in blocks of ``size`` items, of the last one fewer if need be.

    Blocks are counted from the first item, so that they stay what they were when the history grows.

    Args:
        history: [n], oldest first; n is 1 or more.
        most: how many blocks, those at the end.
    """
    return [history[start : start + size] for start in range(0, len(history), size)][-most:]


def _validated(pipeline: Pipeline) -> dict[int, np.ndarray]:
    """The validated items of each user who has any, in the order of time."""
    if not pipeline.valid_data:
        return {}
    dataset, rows = pipeline.dataset, pipeline.valid_data._dataset.inter_feat
    users, items = rows[dataset.uid_field].numpy(), rows[dataset.iid_field].numpy()
    order = np.argsort(users, kind="stable")
    found, first = np.unique(users[order], return_index=True)
    parts = np.split(items[order], first[1:])
    return dict(zip(found.tolist(), parts, strict=True))
