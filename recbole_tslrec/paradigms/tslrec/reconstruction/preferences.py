"""Prior preference distributions ḡ^u, by item, and the loss of predicting the same for all (§4.1)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from recbole_tslrec.data.histories import Histories
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.pipeline import Pipeline


def user_preferences(pipeline: Pipeline) -> csr_matrix:
    """ḡ of every user with a training history, rows in the order of the pipeline's ``histories``.

    Returns:
        [n_users, K] float32.
    """
    labels = np.concatenate([[-1], pipeline.stage(CategoriesStage).item_categories().numpy()])
    return prior_preferences(pipeline.histories, labels, pipeline.config["n_categories"])


def prior_preferences(
    histories: Histories, labels_by_item: np.ndarray, n_categories: int
) -> csr_matrix:
    """Counts a user's training interactions by category and divides by their sum: ḡ^u.

    The whole history counts, whatever part of it a prompt can hold, and an item counts as often as
    it occurs.

    Args:
        histories: the training histories, of n users.
        labels_by_item: integer ``[n_items_internal]``, the latent category of each internal item
            id, -1 where there is none (the padding row).
        n_categories: K.

    Returns:
        float32 ``[n_users, K]``, sparse, rows in the order of ``histories``; each sums to 1.

    Raises:
        ValueError: if a history is empty, or one of its items has no category below K.
    """
    lengths = histories.lengths
    if (lengths == 0).any():
        user = histories.user_ids[np.argmin(lengths)]
        raise ValueError(
            f"the history of user {user} (internal id) is empty, so it has no preferences: leave "
            "out the users who have no training interaction."
        )
    labels = labels_by_item[histories.items]
    outside = (labels < 0) | (labels >= n_categories)
    if outside.any():
        item, label = histories.items[np.argmax(outside)], labels[np.argmax(outside)]
        raise ValueError(
            f"{outside.sum()} interactions are with items whose category is not one of "
            f"0..{n_categories - 1} (the first: item {item} (internal id), category {label}): "
            "histories and categories must come from the same dataset, and its padding row must "
            "not be in a history."
        )
    users = np.repeat(np.arange(len(histories)), lengths)
    shares = np.repeat(1.0 / lengths, lengths)
    # A category's shares are added up here, in float64.
    counted = csr_matrix((shares, (users, labels)), shape=(len(histories), n_categories))
    return counted.astype(np.float32)


def mean_preferences(
    histories: Histories, preferences: csr_matrix, n_items_internal: int
) -> np.ndarray:
    """The mean ḡ of each item's users: what fine-tuning asks for where a history is that item alone.

    The control ``mean_preference``: what the language model is tuned towards, without it. A user counts
    as often as the item occurs in the history.

    Args:
        histories: the training histories, of n users.
        preferences: ḡ, ``[n_users, K]``, rows in the order of ``histories``.
        n_items_internal: with the padding row 0.

    Returns:
        float32 ``[n_items_internal, K]``, rows in the order of internal item ids; a row sums to 1, or
        to 0 where no history has the item (the padding row).
    """
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    shape = (n_items_internal, len(histories))
    counts = csr_matrix((np.ones(len(users)), (histories.items, users)), shape=shape)
    return (normalize(counts, norm="l1") @ preferences).astype(np.float32).toarray()


def constant_prediction(preferences: csr_matrix) -> np.ndarray:
    """The one distribution that, predicted for every user, has the least loss: the mean of ḡ.

    Args:
        preferences: ``[n_users, K]``, rows sum to 1.

    Returns:
        float64 ``[K]``, sums to 1.
    """
    n_users, n_categories = preferences.shape
    # In float64, which SciPy's mean of a float32 matrix is not even when asked for.
    total = np.bincount(preferences.indices, weights=preferences.data, minlength=n_categories)
    return total / n_users


def constant_loss(preferences: csr_matrix, constant: np.ndarray) -> float:
    """Eq. 3 for a prediction that is the same for every user: mean over users of Σ_k (ḡ_k - c_k)².

    What a language model has learnt from the histories is what it stays below this.

    Args:
        preferences: ``[n_users, K]``.
        constant: ``[K]``, for instance :func:`constant_prediction` of the *training* users.
    """
    # (ḡ - c)² multiplied out, for ḡ - c would be dense.
    squares = np.square(preferences.data, dtype=np.float64).sum() / preferences.shape[0]
    return float(squares - 2 * constant_prediction(preferences) @ constant + constant @ constant)
