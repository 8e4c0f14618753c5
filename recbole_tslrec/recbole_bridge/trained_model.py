"""A trained model with its data, from a checkpoint: for whoever uses it after training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import AbstractDataLoader
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model

from recbole_tslrec.recbole_bridge.pickles import trust_code
from recbole_tslrec.stages.trained_on import check_numbering, check_users
from recbole_tslrec.store.checkpoints import load_checkpoint, saying_which


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A sequential model in evaluation mode, and RecBole's data of its experiment.

    Attributes:
        checkpoint: where it was read from.
        config: RecBole's, with the device that it is on now.
        model: RecBole's model or ours.
        dataset: the rows of all interactions, held out or not.
        lone_items: internal item ids by user: of those with one interaction, of which RecBole makes
            no row. Of ready-made sequences (``benchmark_filename``) nobody's: their rows are no
            interactions.
        train_data, valid_data, test_data: RecBole's loaders.
    """

    checkpoint: Path
    config: Config
    model: SequentialRecommender
    dataset: SequentialDataset
    lone_items: Mapping[int, int]
    train_data: AbstractDataLoader
    valid_data: AbstractDataLoader
    test_data: AbstractDataLoader


def load_trained_model(
    checkpoint: str | os.PathLike,
    device: str = "cpu",
    *,
    data_path: str | os.PathLike | None = None,
    llm_trust_remote_code: bool = False,
) -> TrainedModel:
    """Read a checkpoint and the data set that it names; trains nothing and writes nothing.

    Args:
        checkpoint: RecBole's file of a sequential model.
        device: where the model is to work, as torch calls it, wherever it was trained.
        data_path: as ``read_data`` takes it.
        llm_trust_remote_code: whether Python code that comes with its language model may run.

    Raises:
        FileNotFoundError: there is no such file, or no such data set.
        ValueError: the file is damaged or forged, its items are not those of the data set, or its
            model is not known or no sequential one.
    """
    content = load_checkpoint(checkpoint)
    config = content["config"]
    model_class = known_model(config["model"], checkpoint)
    use_on(config, _device(device))
    config["single_spec"] = True
    if llm_trust_remote_code:
        trust_code(config)
    with saying_which(checkpoint):
        dataset = read_data(config, checkpoint, data_path)
        if not isinstance(dataset, SequentialDataset):
            raise ValueError(
                f"[{checkpoint}] is of the model [{config['model']}], which reads no histories. Give "
                f"one of a sequential model."
            )
        check_numbering(config["trained_on"], dataset, checkpoint)
        lone_items = {} if config["benchmark_filename"] else _lone_items(dataset)
        loaders = data_preparation(config, dataset)
        model = model_class(config, loaders[0]._dataset)
        check_users(config["trained_on"], dataset, model, checkpoint)
        model.load_state_dict(content["state_dict"])
        model.load_other_parameter(content.get("other_parameter"))
    model = model.to(config["device"]).eval()
    return TrainedModel(Path(checkpoint), config, model, dataset, lone_items, *loaders)


def read_data(
    config: Config, checkpoint: str | os.PathLike, data_path: str | os.PathLike | None = None
) -> Dataset:
    """The data set of a checkpoint's experiment; nothing is downloaded, and nothing saved again.

    Args:
        config: the checkpoint's, which is told where the data are.
        checkpoint: its file.
        data_path: RecBole's key, the folder in which the data set's own folder lies; None: as in
            training. ml-100k is RecBole's own wherever that is installed, as in RecBole.

    Raises:
        FileNotFoundError: a file of interactions is not there.
    """
    config["save_dataset"] = config["save_dataloaders"] = False
    name = config["dataset"]
    if name == "ml-100k":
        config["data_path"] = str(Path(recbole.__file__).parent / "dataset_example" / name)
    elif data_path is not None:
        config["data_path"] = str(Path(data_path) / name)
    parts = [f".{part}" for part in config["benchmark_filename"] or ()] or [""]
    for part in parts:
        file = Path(config["data_path"]) / f"{name}{part}.inter"
        if not file.is_file():
            raise FileNotFoundError(
                f"data_path: there is no [{file}], the data that [{checkpoint}] was trained on. Set "
                f"data_path=<the folder in which the folder {name} lies>."
            )
    return create_dataset(config)


def known_model(name: str, checkpoint: str | os.PathLike) -> type:
    """The class of a checkpoint's model; ValueError for one that neither RecBole nor the plug-in has."""
    try:
        return get_model(name)
    # RecBole looks for an unknown model last among those of LightGBM and XGBoost.
    except (ValueError, AttributeError, ModuleNotFoundError):
        raise ValueError(
            f"[{checkpoint}] is of the model [{name}], which is not known here. If its backbone is your "
            f"own, call register_backbone(<its class>) in a Python program before it reads the file, as "
            f"Recommender does; a command cannot."
        ) from None


def use_on(config: Config, device: torch.device) -> None:
    """Tell a checkpoint's config where its model works now, wherever it was trained."""
    config["device"] = device
    if device.type != "cuda" and config["llm_attention"] == "flash_attention_2":
        config["llm_attention"] = "sdpa"  # the same attention, without the GPU that the other needs


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise ValueError(
            f"device: [{name}] cannot be used here: {str(error).splitlines()[0]}"
        ) from None


def _lone_items(dataset: SequentialDataset) -> dict[int, int]:
    """The items of users with one interaction, before RecBole turns interactions into rows."""
    pairs = dataset.inter_feat[[dataset.uid_field, dataset.iid_field]]
    alone = pairs[~pairs[dataset.uid_field].duplicated(keep=False)]
    return dict(alone.itertuples(index=False, name=None))
