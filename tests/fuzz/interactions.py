"""Interaction files: what stands in an .inter file, how it is written, and what the keys say of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from fuzz.damage import damaged_bytes
from fuzz.inputs import DATASET, Input, Wrong, opened, small_rows, small_settings, warnings_of
from fuzz.interaction_drafts import MUTATIONS, Draft
from fuzz.plain_reading import Interactions, compare, plain_readings
from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.recbole_bridge.quick_start import run_experiment

MODEL = "Norm_SASRec"  # needs no stage, and is checked as every model of ours


class InteractionFiles:
    """Files of a small data set. The histories are compared with a plain reading of the same bytes."""

    def __init__(self, folder: Path):
        self.rows = [[user, item, str(time)] for user, item, time in small_rows()]

    def input(self, choose: random.Random) -> Input:
        header = [["user_id", "token"], ["item_id", "token"], ["timestamp", "float"]]
        draft = Draft(header, [list(row) for row in self.rows])
        said = []
        for mutate in choose.sample(MUTATIONS, choose.choice([1, 1, 1, 2])):
            if len(draft.rows) > 1:
                try:
                    said.append(mutate(choose, draft))
                except (ValueError, IndexError):  # not what this one can be done to
                    continue
        content = draft.content()
        if choose.random() < 0.2 and content:
            what, content = damaged_bytes(choose, content)
            said.append(what)
        file = Path("data", DATASET, f"{DATASET}.inter")
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        settings = small_settings(Path("data"), **draft.keys)
        may_run = bool(_read(content, settings))
        names = [file.name, f"dataset: [{DATASET}]", f"dataset [{DATASET}]", "topk", *draft.keys]
        train = choose.random() < 0.3 or len(draft.rows) < 99
        use = partial(_use, settings, content, train)
        return Input("; ".join(said) or "as it was", use, names, may_run)


def _read(content: bytes, settings: dict, as_time: Callable = float) -> list[Interactions]:
    keys = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
    defaults = ("user_id", "item_id", "timestamp")
    fields = [settings.get(key, name) for key, name in zip(keys, defaults, strict=True)]
    separator, encoding = settings.get("field_separator", "\t"), settings.get("encoding") or "utf-8"
    return plain_readings(content, encoding, separator, fields, as_time)


def _use(settings: dict, content: bytes, train: bool) -> None:
    found, said = warnings_of(lambda: _histories(settings))
    expected = _read(content, settings)
    if not expected:
        raise Wrong("was accepted, and a plain reading fails")
    # RecBole sorts by float32 times. That may stay so, if a user is told.
    rounded = _read(content, settings, lambda time: np.float32(float(time)))
    if found not in rounded or settings.get("TIME_FIELD", "timestamp") not in said:
        compare(expected, found)
    if train:
        run_experiment(MODEL, DATASET, config_dict=settings)


def _histories(settings: dict) -> Interactions:
    _, _, loaders = opened(MODEL, settings)
    data = loaders[0]._dataset
    users, items = (data.field2id_token[key] for key in (data.uid_field, data.iid_field))
    histories = training_histories(data)
    training = {
        str(users[user]): [str(items[item]) for item in history]
        for user, history in zip(histories.user_ids, histories, strict=True)
    }
    return Interactions(training, *(_held_out(one, users, items) for one in loaders[1:]))


def _held_out(loader, users, items) -> dict[str, str]:
    data = loader._dataset
    rows = data.inter_feat
    pairs = zip(rows[data.uid_field].tolist(), rows[data.iid_field].tolist(), strict=True)
    return {str(users[user]): str(items[item]) for user, item in pairs}
