"""On what a model was trained: noted in its checkpoint, compared wherever the checkpoint is read.

A checkpoint has no tokens. Its rows are other items' where the items come in another order, and its
metrics mean nothing where it was trained on what is tested now. So hashes of the items, of the
training histories and of the rows held out go into the config, under ``trained_on``, and no rows.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from logging import getLogger
from operator import itemgetter
from typing import Any

from recbole.data.dataset import SequentialDataset
from torch import nn

from recbole_tslrec.backbones.registry import backbone_of
from recbole_tslrec.data.histories import fingerprint as histories_fingerprint
from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.stages.data_values import interaction_values
from recbole_tslrec.store.checkpoints import check_checkpoint, config_of
from recbole_tslrec.store.files import fingerprint

# In a checkpoint's ``trained_on``, as an error calls them.
NOTED = {
    "items": "items",
    "training": "training interactions",
    "rows": "ready-made rows",
    "validation": "validation interactions",
    "test": "test interactions",
}

# In ``trained_on`` of a model into which there went more than the noted data: what it was.
MORE = "more"


# ---- the notes --------------------------------------------------------------------------------------


def data_notes(dataset, valid_data) -> dict[str, str]:
    """What a model was trained on, for its checkpoint.

    Args:
        dataset: RecBole's data set of the training rows.
        valid_data: RecBole's loader that chose the epoch; None for none.

    Returns:
        Hashes by the keys of ``NOTED``: of the items by internal id, of the training histories, and
        of the validation and test rows; all but the first are the same whatever the internal ids.
        Besides, under ``users``, of the users by internal id, and under ``features`` of the values of
        all features by internal id, where such columns are loaded.
        The histories' is left out where rows do not make any (ready-made sequences): these have one of
        all columns under ``rows``. The test rows' is left out where RecBole has not split this data set.
    """
    users = dataset.field2id_token[dataset.uid_field]
    items = dataset.field2id_token[dataset.iid_field]
    notes = {"items": numbering(dataset), "users": fingerprint(users.tolist())}
    notes |= _features_note(dataset)
    try:
        notes["training"] = histories_fingerprint(training_histories(dataset), users, items)
    except ValueError as error:
        getLogger(__name__).debug(f"This model cannot serve as a backbone_checkpoint: {error}")
        held_out = interaction_values(valid_data._dataset) if valid_data else {}
        notes["rows"] = fingerprint([interaction_values(dataset), held_out])
    notes["validation"] = validation_fingerprint(dataset, valid_data)
    return notes | _test_note(dataset)


def numbering(dataset) -> str:
    """A hash of a data set's items in the order of their internal ids."""
    return fingerprint(dataset.field2id_token[dataset.iid_field].tolist())


def _features_note(dataset) -> dict[str, str]:
    """A hash of the values of users' and items' features in the order of their internal ids."""
    ids = dataset.uid_field, dataset.iid_field
    values = {
        field: dataset.field2id_token[field].tolist()
        for features in (dataset.user_feat, dataset.item_feat)
        for field in (() if features is None else features.columns)
        if field in dataset.field2id_token and field not in ids
    }
    return {"features": fingerprint(values)} if values else {}


def validation_fingerprint(dataset, valid_data) -> str:
    """A hash of the validation rows by token, in time order within a user.

    With a ratio split, a later row has the one before in its history, so their order counts.
    """
    return _rows_fingerprint(getattr(valid_data, "_dataset", None), dataset)


def _rows_fingerprint(held_out, dataset) -> str:
    rows = []
    if held_out is not None:
        user_field, item_field = dataset.uid_field, dataset.iid_field
        features = held_out.inter_feat
        # As arrays: indexed with a tensor of one element, an array gives that token, not a row of it.
        users = dataset.field2id_token[user_field][features[user_field].numpy()]
        items = dataset.field2id_token[item_field][features[item_field].numpy()]
        # Sorting is stable: a user's rows stay in their order.
        rows = sorted(
            ([user, item] for user, item in zip(users, items, strict=True)), key=itemgetter(0)
        )
    return fingerprint(rows)


def _test_note(dataset) -> dict[str, str]:
    hashed = getattr(dataset, "hash_of_test_rows", None)
    return {} if hashed is None else {"test": hashed}


def hashing_test_rows(original):
    # Where the data is split: a trainer never sees the test rows, and is to see no more than a hash.
    @functools.wraps(original)
    def build(self):
        parts = original(self)
        hashed = _rows_fingerprint(parts[-1], self)
        for part in parts:
            part.hash_of_test_rows = hashed
        return parts

    return build


# ---- the comparison ---------------------------------------------------------------------------------


def check_numbering(noted: Mapping[str, str] | None, dataset, path: str | os.PathLike) -> None:
    """Raise ValueError if a checkpoint's rows would be taken for other items' than they are.

    RecBole numbers items in the order of the file's lines, and a checkpoint has no tokens. So it is
    with the values of features. One that does not say on which items it was trained is warned of.

    Args:
        noted: the checkpoint's ``trained_on``; None if it has none.
        dataset: RecBole's data set.
        path: the checkpoint.
    """
    if noted is None:
        getLogger(__name__).warning(
            f"[{path}] does not say on which items it was trained, as a file of plain RecBole: whether "
            f"the data set [{dataset.dataset_name}] has the same in the same order cannot be told. "
            f"If its file or a filter was changed since, what is said of an item is another one's."
        )
    elif noted["items"] != numbering(dataset):
        raise ValueError(
            f"[{path}] was trained on the items in another order, or on others, than the data set "
            f"[{dataset.dataset_name}] has now: its rows would be other items'. Give the file that it "
            f"was trained on (the order of the lines counts), and the same filters."
        )
    check_features(noted, dataset, path)


def check_features(noted: Mapping[str, str] | None, dataset, path: str | os.PathLike) -> None:
    """Raise ValueError if rows for values of features would be taken for other values'; as above."""
    now = _features_note(dataset).get("features")
    if noted is not None and now != noted.get("features", now):
        raise ValueError(
            f"[{path}] was trained on the values of features in another order, or on others, than the "
            f"data set [{dataset.dataset_name}] has now: its rows would be other values'. Give the "
            f".item and .user files that it was trained on (the order of the lines counts)."
        )


def check_users(
    noted: Mapping[str, str] | None, dataset, model: nn.Module, path: str | os.PathLike
) -> None:
    """Raise ValueError if a model's vectors of users would be taken for other users' than they are.

    Most sequential models have none; they may be given users in any order, and new ones. One that has
    none and knows users nevertheless says so by the attribute ``knows_users``.

    Args:
        noted: the checkpoint's ``trained_on``; None if it has none.
        dataset: RecBole's data set.
        model: with the checkpoint's weights, or to take them.
        path: the checkpoint.
    """
    now = fingerprint(dataset.field2id_token[dataset.uid_field].tolist())
    if noted is None or noted.get("users", now) == now:
        return
    if has_user_rows(model, dataset):
        raise ValueError(
            f"[{path}] has a vector a user, a number or a summary, and was trained on the users in "
            f"another order, or on others, than the data set [{dataset.dataset_name}] has now: its "
            f"rows would be other users'. Give the file that it was trained on (the order of the lines "
            f"counts)."
        )


def has_user_rows(model: nn.Module, dataset) -> bool:
    """Whether a model has a vector for each user of RecBole's data set, or ``knows_users`` otherwise."""
    backbone = backbone_of(model)
    items = backbone and getattr(model, backbone.item_table)  # as long as that of users, maybe
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    has_vectors = any(
        table.num_embeddings == dataset.user_num for table in tables if table is not items
    )
    return has_vectors or getattr(model, "knows_users", False)


def check_data(
    noted: Mapping[str, str] | None,
    now: Mapping[str, str],
    path: str | os.PathLike,
    allow_new_data: Any,
) -> bool:
    """Whether a checkpoint was trained on the data of now, as far as it says; refuses other data.

    Args:
        noted: the checkpoint's ``trained_on``; None if it has none.
        now: what there is to be compared, by the same keys.
        path: the checkpoint.
        allow_new_data: True to be warned and not refused.

    Raises:
        ValueError: the data differ, and new data were not allowed.
    """
    if noted is None:
        getLogger(__name__).info(
            f"[{path}] does not say on which data it was trained: none was compared."
        )
        return True
    if "test" in now and "test" not in noted:
        getLogger(__name__).warning(
            f"[{path}] is of an earlier version and does not say what was held out for the test. If "
            f"the data file was changed since, it may have been trained on what is tested now."
        )
    changed = [NOTED[key] for key in NOTED if key in now and noted.get(key, now[key]) != now[key]]
    if not changed:
        return True
    what = f"[{path}] was trained with other {' and '.join(changed)} than the data set has now"
    if allow_new_data is not True:
        raise ValueError(
            f"{what}: it may have been trained on what is held out now, and metrics would be far too "
            f"good. Give the data file and the split that it was trained with or, to score new data, "
            f"set allow_new_data: True, to load_data_and_model and write_page allow_new_data=True."
        )
    getLogger(__name__).warning(
        f"{what}, and allow_new_data is True. Metrics say something only of held-out interactions that "
        f"are newer than all that it was trained on; those that it was trained on it has seen, and "
        f"nothing tells which. Compare them with no other model's."
    )
    return False


def comparing_what_is_loaded(original):
    @functools.wraps(original)
    def load_data_and_model(model_file, allow_new_data=False):
        loaded = original(model_file)
        config, _, dataset, train_data, valid_data, _ = loaded
        if isinstance(dataset, SequentialDataset):
            noted = config["trained_on"]
            check_numbering(noted, dataset, model_file)
            check_users(noted, dataset, loaded[1], model_file)
            now = data_notes(train_data._dataset, valid_data) if noted else {}
            check_data(noted, now, model_file, allow_new_data)
        config["allow_new_data"] = allow_new_data  # not what its training was allowed
        return loaded

    return load_data_and_model


def comparing_what_is_evaluated(original):
    @functools.wraps(original)
    def evaluate(
        self, eval_data, load_best_model=True, model_file=None, show_progress=False, **more
    ):
        dataset = getattr(eval_data, "_dataset", None)
        if load_best_model and isinstance(dataset, SequentialDataset):
            file = model_file or self.saved_model_file
            noted = config_of(file)["trained_on"]
            check_numbering(noted, dataset, file)
            check_users(noted, dataset, self.model, file)
            check_data(noted, _test_note(dataset), file, self.config["allow_new_data"])
        return original(self, eval_data, load_best_model, model_file, show_progress, **more)

    return evaluate


def remembering_its_data(original):
    @functools.wraps(original)
    def resume_checkpoint(self, resume_file):
        original(self, resume_file)
        self._resumed = resume_file, config_of(resume_file)["trained_on"]

    return resume_checkpoint


def going_on_from_the_same_data(original):
    """``S3Rec.__init__`` that takes the weights of a pretrained model of this very data."""

    @functools.wraps(original)
    def init(self, config, dataset):
        if config["train_stage"] == "finetune":
            path = config["pre_model_path"]
            check_checkpoint(path)
            noted, now = config_of(path)["trained_on"], data_notes(dataset, None)
            check_numbering(noted, dataset, path)
            if noted is None or noted.get("training") != now.get("training"):
                raise ValueError(
                    f"pre_model_path: [{path}] was trained on other {NOTED['training']} than this "
                    f"experiment has, or does not say on which. Train S3Rec with train_stage: pretrain "
                    f"under this experiment's settings."
                )
        original(self, config, dataset)

    return init


def noting_its_data(original):
    """``fit`` that notes on what the model is trained, and goes on with no other data unasked."""

    @functools.wraps(original)
    def fit(self, train_data, valid_data=None, *args, **kwargs):
        dataset = getattr(train_data, "_dataset", None)  # none in a loader of the user's own
        if isinstance(dataset, SequentialDataset):
            notes = data_notes(dataset, valid_data)
            if (resumed := vars(self).get("_resumed")) is not None:
                path, noted = resumed
                check_numbering(noted, dataset, path)
                check_users(noted, dataset, self.model, path)
                same = check_data(noted, notes, path, self.config["allow_new_data"])
                if noted is None or not same:
                    notes[MORE] = f"data of [{path}], from which training went on"
                elif MORE in noted:
                    notes[MORE] = noted[MORE]
            self.config["trained_on"] = notes
        elif dataset is None:  # what a loader of the user's own gives, no note can say
            self.config["trained_on"] = None
        return original(self, train_data, valid_data, *args, **kwargs)

    return fit
