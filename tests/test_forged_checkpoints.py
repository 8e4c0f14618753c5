"""Whatever stands in a checkpoint, a reader takes it or refuses it by the file's name."""

import copy
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.user_inputs import given_backbone
from recbole_tslrec.store.checkpoints import load_checkpoint

FORGED = "forged.pth"

# What makes, takes and changes objects in a pickle.
INSTRUCTIONS = [
    *(pickle.REDUCE, pickle.BUILD, pickle.NEWOBJ, pickle.SETITEM, pickle.SETITEMS, pickle.APPEND),
    *(pickle.MARK, pickle.TUPLE, pickle.TUPLE2, pickle.EMPTY_DICT, pickle.BINPERSID, pickle.STOP),
    *(pickle.BINGET + bytes([number]) for number in (0, 1, 5, 20)),
    *(b"crecbole.config.configurator\nConfig\n", b"ctorch\ndevice\n", b"cnumpy\ndtype\n"),
]


def examples(repeatable: int) -> int:
    """How many are tried; under another profile (``--hypothesis-profile=search``) as many as it says."""
    profile = hypothesis_settings()
    return repeatable if profile.derandomize else profile.max_examples


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def holding_itself() -> list:
    value: list = []
    value.append(value)
    return value


# In the place of any value of a checkpoint.
OTHERS = [
    *(None, True, 0, -1, 3, 2.5, float("nan"), "x", "", b"x", 1j),
    *([], {}, (), [1], {"a": 1}, {1: "a"}, {"x"}, [[]], nested(40), nested(300), holding_itself()),
    *(torch.zeros(0), torch.zeros(3, 2), torch.zeros(()), torch.ones(2, dtype=torch.int8)),
    *(
        torch.zeros(1).expand(1 << 40, 4),
        torch.eye(2).to_sparse(),
        torch.device("cpu"),
        torch.float32,
        torch.ones(2, dtype=torch.cfloat),
    ),
]
DROPPED, HALVED, INTEGERS, ANOTHER_KEY = object(), object(), object(), object()
CHANGES = [*OTHERS, DROPPED, HALVED, INTEGERS, ANOTHER_KEY]


def places(value, path=()):
    """The paths of everything in a checkpoint."""
    inner = value.final_config_dict if isinstance(value, Config) else value
    if path and path[-1] != "final_config_dict":
        yield path
    if isinstance(value, Config):
        yield from places(inner, (*path, "final_config_dict"))
    elif isinstance(inner, dict):
        for key in inner:
            yield from places(inner[key], (*path, key))
    elif isinstance(inner, list):
        for number in range(len(inner)):
            yield from places(inner[number], (*path, number))


def changed(content: dict, path: tuple, change) -> dict:
    content = copy.deepcopy(content)
    *above, last = path
    holder = content
    for key in above:
        holder = vars(holder)[key] if isinstance(holder, Config) else holder[key]
    value = holder[last]
    if change is DROPPED:
        del holder[last]
    elif change is ANOTHER_KEY and isinstance(holder, dict):
        holder[("a", 1)] = holder.pop(last)
    elif change is HALVED and isinstance(value, torch.Tensor):
        holder[last] = value[: len(value) // 2] if value.dim() else value
    elif change is INTEGERS and isinstance(value, torch.Tensor):
        holder[last] = value.long()
    elif change in (DROPPED, HALVED, INTEGERS, ANOTHER_KEY):
        holder[last] = None
    else:
        holder[last] = change
    return content


class Trained:
    """A trained model, what is needed to read its checkpoint, and the readers."""

    def __init__(self, model: str, data: str, settings: dict):
        settings = settings | {"train_neg_sample_args": None, "hidden_size": 4, "inner_size": 4}
        checkpoint = run_experiment(model, data, config_dict=settings).checkpoint
        self.content = torch.load(checkpoint, weights_only=True)
        self.places = list(places(self.content))
        config = Config(model, data, config_dict=settings)
        loaders = data_preparation(config, create_dataset(config))
        self.train_data, self.valid_data, self.test_data = loaders
        recommender = get_model(model)(config, self.train_data._dataset)
        self.trainer = get_trainer(config["MODEL_TYPE"], model)(config, recommender)
        self.config = config

    def load(self) -> None:
        load_data_and_model(FORGED)

    def resume(self) -> None:
        self.trainer.resume_checkpoint(FORGED)
        for weight in self.trainer.model.parameters():
            weight.grad = torch.zeros_like(weight)
        self.trainer.optimizer.step()

    def evaluate(self) -> None:
        self.trainer.evaluate(self.test_data, model_file=FORGED)

    def fold(self) -> None:
        fold_checkpoint(Path(FORGED), Path("folded.pth"))

    def take(self) -> None:
        self.config["backbone_checkpoint"] = FORGED
        dataset = self.train_data._dataset
        given_backbone(self.config, BACKBONES["SASRec"], dataset, self.valid_data)


def as_it_is(config: Config) -> dict:
    return {name: value for name, value in vars(config).items() if name != "yaml_loader"}


@pytest.mark.parametrize(
    ("model", "reader"),
    [
        *(("SASRec", reader) for reader in ("load", "resume", "evaluate", "take")),
        ("CI_SASRec", "fold"),
    ],
)
def test_what_a_reader_cannot_use_it_refuses_by_name(
    model, reader, small_data, settings, monkeypatch
):
    trained = Trained(model, small_data, settings | {"state": "CRITICAL"})
    monkeypatch.setattr(Config, "__getstate__", as_it_is)  # else it would make plain values of them
    refused = []

    @hypothesis_settings(
        max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.sampled_from(trained.places), st.sampled_from(range(len(CHANGES))))
    def read(path, change):
        torch.save(changed(trained.content, path, CHANGES[change]), FORGED, pickle_protocol=2)
        try:
            getattr(trained, reader)()
        except (ValueError, OSError) as error:
            assert FORGED in str(error) and "\n" not in str(error), (path, change)
            refused.append(path)

    read()
    assert len(refused) > 1
    torch.save(trained.content, FORGED, pickle_protocol=2)
    getattr(trained, reader)()


@pytest.mark.parametrize("change", [DROPPED, *OTHERS[:1]])
def test_a_checkpoint_without_weights_or_config_is_refused(change, small_data, settings):
    trained = Trained("SASRec", small_data, settings)
    for key in ("config", "state_dict"):
        torch.save(changed(trained.content, (key,), change), FORGED, pickle_protocol=2)
        with pytest.raises(ValueError, match=FORGED):
            load_checkpoint(FORGED)


@hypothesis_settings(
    max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    at=st.floats(0, 1, exclude_max=True),
    removed=st.integers(0, 20),
    put=st.binary(max_size=4) | st.sampled_from(INSTRUCTIONS),
)
def test_a_forged_pickle_with_right_checksums_is_taken_or_refused_by_name(
    at, removed, put, a_checkpoint
):
    records = dict(a_checkpoint)
    (name,) = [name for name in records if name.endswith("/data.pkl")]
    start = int(at * len(records[name]))
    records[name] = records[name][:start] + put + records[name][start + removed :]
    with zipfile.ZipFile(FORGED, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    try:
        load_checkpoint(FORGED)
    except (ValueError, OSError) as error:
        assert FORGED in str(error) and "\n" not in str(error)


@pytest.fixture
def a_checkpoint(tmp_path) -> dict[str, bytes]:
    """The records of a small checkpoint."""
    config = Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": None, "gpu_id": ""})
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"params": [0]}]}
    content = {"config": config, "state_dict": {"weight": torch.ones(2)}, "optimizer": optimizer}
    torch.save(content | {"epoch": 0, "best_valid_score": np.float64(0.1)}, FORGED)
    with zipfile.ZipFile(FORGED) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
