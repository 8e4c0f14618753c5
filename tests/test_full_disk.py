"""A disk that is full or read-only, as small disks in memory; skipped where none can be mounted."""

import subprocess

import pytest
import torch

from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.stages.inventory import stored_stages
from recbole_tslrec.store.checkpoints import write_checkpoint
from recbole_tslrec.store.files import DiskError, write_json
from recbole_tslrec.store.item_tensors import ItemTensors


@pytest.fixture
def disk(tmp_path):
    """A disk of its own; ``disk.resize("64m")`` and ``disk.read_only()`` change it."""

    class Disk:
        folder = tmp_path / "disk"

        def resize(self, size):
            self._mount("remount,rw,size=" + size)

        def read_only(self):
            self._mount("remount,ro")

        def _mount(self, options):
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
            subprocess.run(command, check=True, capture_output=True)

    disk = Disk()
    disk.folder.mkdir()
    try:
        disk._mount("size=1m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk.folder)], check=True)


def test_every_writer_leaves_the_old_file_on_a_full_disk(disk):
    big = torch.zeros(1_000_000)
    items = ItemTensors(["a"], {"x": torch.ones(1, 2)})
    items.save(disk.folder / "a.safetensors")
    write_checkpoint({"config": {}, "x": torch.ones(2)}, disk.folder / "b.pth")
    write_json(disk.folder / "c.json", {"x": 1})
    before = {path.name: path.read_bytes() for path in disk.folder.iterdir()}
    for write, name in (
        (lambda path: ItemTensors(["a"], {"x": big[None]}).save(path), "a.safetensors"),
        (lambda path: write_checkpoint({"x": big}, path), "b.pth"),
        (lambda path: write_json(path, {"x": "x" * 4_000_000}), "c.json"),
    ):
        with pytest.raises(DiskError, match=rf"{name}\] could not.*No space.* are free.*Free"):
            write(disk.folder / name)
    assert {path.name: path.read_bytes() for path in disk.folder.iterdir()} == before
    disk.read_only()
    with pytest.raises(DiskError, match=r"b\.pth\] could not.*Read-only.*another folder"):
        write_checkpoint({"x": big}, disk.folder / "b.pth")
    assert torch.load(disk.folder / "b.pth", weights_only=True)["x"].tolist() == [1, 1]


# The backbone's checkpoint does not fit; the backbone does, and the language model's do not.
@pytest.mark.parametrize(
    ("size", "finished"), [("256k", []), ("1400k", ["backbone", "categories"])]
)
def test_a_run_that_filled_the_disk_goes_on_when_there_is_space(
    size, finished, disk, small_data, settings
):
    settings = settings | {"tslrec_dir": str(disk.folder / "stages")}
    disk.resize(size)
    with pytest.raises(DiskError, match=r"could not be written: No space.*run the same command"):
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    stages = stored_stages(disk.folder / "stages", verify=True)
    assert sorted(stage.name for stage in stages if not stage.unfinished) == finished
    assert not any(stage.problem for stage in stages)
    disk.resize("64m")
    goes_on = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    elsewhere = settings | {"tslrec_dir": "elsewhere"}
    unbroken = run_experiment("TSLRec_SASRec", small_data, config_dict=elsewhere)
    assert goes_on.test_result == unbroken.test_result


@pytest.mark.parametrize("key", ["tslrec_dir", "checkpoint_dir"])
def test_a_read_only_folder_is_named_before_anything_is_trained(
    key, disk, small_data, settings, tmp_path
):
    disk.read_only()
    with pytest.raises(DiskError, match=f"{key}: nothing can be written.*Read-only.*Nothing was"):
        changes = {key: str(disk.folder / "below")}
        run_experiment("TSLRec_SASRec", small_data, config_dict=settings | changes)
    assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("*.partial"))


def test_stages_on_a_read_only_disk_are_reused(disk, small_data, settings):
    disk.resize("64m")
    settings = settings | {"tslrec_dir": str(disk.folder / "stages")}
    run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    disk.read_only()
    again = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    assert [stage.reused for stage in again.stages] == [True]
