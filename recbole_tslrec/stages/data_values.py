"""Hashes of what a data set's columns hold, by token: the same whatever RecBole's internal ids."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from recbole_tslrec.store.arrays import arrays_hash
from recbole_tslrec.store.files import fingerprint


def feature_values(dataset) -> dict[str, str]:
    """A hash of the columns that are loaded of users and items, by token; none where there are none."""
    rows = []
    for id_field, features in (
        (dataset.uid_field, dataset.user_feat),
        (dataset.iid_field, dataset.item_feat),
    ):
        columns = [] if features is None else sorted({*features.columns} - {id_field})
        for column in columns:
            tokens = dataset.field2id_token[id_field][features[id_field].numpy()]
            values = features[column].numpy()
            if column in dataset.field2id_token:
                values = dataset.field2id_token[column][values]
            pairs = zip(tokens.tolist(), values.tolist(), strict=True)
            rows.append([column, sorted(pairs, key=itemgetter(0))])
    return {"features": fingerprint(rows)} if rows else {}


def interaction_values(dataset) -> dict[str, str]:
    """Hashes of the columns of a data set's rows, such as times and ratings, whatever the internal ids.

    Rows count by their users' tokens, a user's in their order.

    Returns:
        a hash for each column but the users', by name.
    """
    rows, (_, user_ranks) = dataset.inter_feat, _sorted_tokens(dataset, dataset.uid_field)
    order = np.argsort(user_ranks[rows[dataset.uid_field].numpy()], kind="stable")
    hashes = {}
    for column in sorted({*rows.columns} - {dataset.uid_field}):
        values, tokens = rows[column].numpy()[order], []
        field = column.removesuffix(dataset.config["LIST_SUFFIX"])  # what came before has its ids
        if field in dataset.field2id_token:
            tokens, ranks = _sorted_tokens(dataset, field)
            values = ranks[values]
        hashes[column] = fingerprint([tokens, list(values.shape), arrays_hash(values)])
    return hashes


def _sorted_tokens(dataset, field: str) -> tuple[list[str], np.ndarray]:
    """The tokens of a field in order, and the place among them of each internal id."""
    tokens = dataset.field2id_token[field].tolist()
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    return [tokens[number] for number in order], np.argsort(order)
