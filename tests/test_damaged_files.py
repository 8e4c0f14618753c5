"""A file that is cut short, altered, another's or of another format is refused by its name.

Every file of every stored stage, a user's file of enhanced items, a user's checkpoint. What RecBole
reads itself is in test_compatibility.py, the checkpoints of fine-tuning in test_fine_tuning.py.
"""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer
from support.stages import STAGES, item_vectors, pipeline_of, stored

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.paradigms.tslrec.folding import fold_checkpoint
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.pipeline import Pipeline
from recbole_tslrec.store.files import with_checksum
from recbole_tslrec.store.item_tensors import ItemTensors
from recbole_tslrec.store.store import MANIFEST


def cut_short(content: bytes, other: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def one_bit_flipped(content: bytes, other: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def swapped(content: bytes, other: bytes) -> bytes:
    return other


def of_another_format(content: bytes, other: bytes) -> bytes:
    """Whole in itself, of a version that this program does not write."""
    header = json.loads(content)
    del header["checksum"]
    version = "version" if "version" in header else "format"
    return json.dumps(with_checksum(header | {version: 0})).encode()


DAMAGES = [cut_short, one_bit_flipped, swapped, of_another_format]


@pytest.fixture
def seeds(small_data, settings):
    """The pipelines of two seeds, whose stages are all stored."""
    pipelines = [pipeline_of(settings | {"seed": seed}, small_data) for seed in (1, 2)]
    for pipeline in pipelines:
        stored(pipeline, "augmentation")
    return pipelines


def folder(pipeline: Pipeline, stage: str) -> Path:
    """Of a stage, read anew."""
    again = Pipeline(
        pipeline.config, pipeline.train_data, pipeline.valid_data, pipeline.backbone, False
    )
    return stored(again, stage).folder


def names(of: Path) -> list[str]:
    return sorted(str(path.relative_to(of)) for path in of.rglob("*") if path.is_file())


def damaged_files(path: Path, other: Path):
    """The damages that can be done to a file, each with what it then holds."""
    whole, others = path.read_bytes(), other.read_bytes()
    for damage in DAMAGES:
        if damage is of_another_format and b'"checksum"' not in whole:
            continue
        content = damage(whole, others)
        if content != whole:  # two seeds' adapters have the same config
            yield damage.__name__, content


def test_every_file_of_every_stage(seeds):
    one, two = seeds
    tried = 0
    for stage in STAGES:
        here, there = folder(one, stage), folder(two, stage)
        assert names(here) == names(there) and MANIFEST in names(here)
        for name in names(here):
            path, whole = here / name, (here / name).read_bytes()
            for damage, content in damaged_files(path, there / name):
                path.write_bytes(content)
                with pytest.raises(ValueError) as refusal:
                    folder(one, stage)
                assert str(path) in str(refusal.value), (stage, name, damage)
                assert f"Remove the folder [{here}]" in str(refusal.value), (stage, name, damage)
                tried += 1
            path.write_bytes(whole)
            assert folder(one, stage) == here
    assert tried > 30


def test_another_stages_file_of_the_same_name(seeds):
    one, _ = seeds
    here, there = folder(one, "categories"), folder(one, "backbone")
    for name in set(names(here)) & set(names(there)):
        whole = (here / name).read_bytes()
        (here / name).write_bytes((there / name).read_bytes())
        with pytest.raises(ValueError, match=name):
            folder(one, "categories")
        (here / name).write_bytes(whole)


def test_a_users_file_of_enhanced_items(seeds, settings, small_data, tmp_path):
    files = []
    for seed, pipeline in enumerate(seeds):
        path = tmp_path / str(seed) / "mine.safetensors"
        path.parent.mkdir()
        stored = folder(pipeline, "augmentation") / "enhanced_items.safetensors"
        for suffix in (".safetensors", ".json"):
            content = stored.with_suffix(suffix).read_bytes()
            path.with_suffix(suffix).write_bytes(content)
        files.append(path)
    given = pipeline_of(settings | {"enhanced_items": str(files[0])}, small_data)
    expected = item_vectors(given)
    for suffix in (".safetensors", ".json"):
        path = files[0].with_suffix(suffix)
        whole = path.read_bytes()
        for damage, content in damaged_files(path, files[1].with_suffix(suffix)):
            path.write_bytes(content)
            with pytest.raises(ValueError) as refusal:
                item_vectors(given)
            # The numbers of another seed: the message names the file whose hash it is not.
            assert str(files[0].with_suffix("")) in str(refusal.value), damage
        path.write_bytes(whole)
    assert torch.equal(item_vectors(given), expected)


def test_enhanced_items_that_lack_an_item_are_named(seeds, settings, small_data, tmp_path):
    items = ItemTensors.load(folder(seeds[0], "augmentation") / "enhanced_items.safetensors")
    path = tmp_path / "fewer.safetensors"
    ItemTensors(
        items.tokens[1:],
        {name: tensor[1:] for name, tensor in items.tensors.items()},
        items.provenance,
    ).save(path)
    given = pipeline_of(settings | {"enhanced_items": str(path)}, small_data)
    message = rf"enhanced_items: \[{path}\] does not serve here: 1 of .* are not in the file"
    with pytest.raises(ValueError, match=message):
        item_vectors(given)


@pytest.mark.parametrize("damage", ["gone", "longer"])
def test_a_checkpoint_whose_numbers_are_gone_is_named_by_evaluate(damage, small_data, settings):
    """Its checksums are right; only who reads the numbers finds out."""
    config = Config("GRU4Rec", small_data, config_dict=settings | {"train_neg_sample_args": None})
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    model = get_model("GRU4Rec")(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "GRU4Rec")(config, model)
    trainer.fit(train_data, valid_data)
    with zipfile.ZipFile(trainer.saved_model_file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in records if name.endswith("/data/0"))
    content = records.pop(name)
    with zipfile.ZipFile("given.pth", "w") as archive:
        for record, held in (records | ({name: content * 2} if damage == "longer" else {})).items():
            archive.writestr(record, held)
    with pytest.raises(ValueError, match=r"\[given.pth\] "):
        trainer.evaluate(test_data, model_file="given.pth")


@pytest.mark.parametrize("use", ["backbone_checkpoint", "fold"])
def test_a_users_checkpoint(use, small_data, settings, tmp_path):
    def checkpoint(model, **changes):
        changes |= {"train_neg_sample_args": None} if model in BACKBONES else {}
        return Path(run_experiment(model, small_data, config_dict=settings | changes).checkpoint)

    def read(path):
        if use == "fold":
            fold_checkpoint(path, tmp_path / "folded.pth")
        else:
            stored(
                pipeline_of(settings | {"backbone_checkpoint": str(path)}, small_data), "backbone"
            )

    if use == "fold":
        path, other = checkpoint("TSLRec_SASRec", enhancement="random"), checkpoint("SASRec")
    else:
        path, other = checkpoint("SASRec"), checkpoint("GRU4Rec")
    whole = path.read_bytes()
    old = tmp_path / "old.pth"
    torch.save(torch.load(path, weights_only=True), old, pickle_protocol=4)
    for content in (
        cut_short(whole, b""),
        one_bit_flipped(whole, b""),
        other.read_bytes(),
        old.read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            read(path)
        assert not (tmp_path / "folded.pth").exists()
    path.write_bytes(whole)
    read(path)
