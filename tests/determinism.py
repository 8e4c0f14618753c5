"""One experiment in a process of its own, and the hashes of all that it made.

    python tests/determinism.py <model> <dataset> <folder> <settings as json>

writes ``<folder>/made.json``; the stages and the model lie in the folder too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.store.checkpoints import load_checkpoint
from recbole_tslrec.store.files import file_hash


def made(model: str, dataset: str, folder: str, settings: dict) -> dict:
    """Run the experiment in a folder: the hashes of all that it makes, and its metrics."""
    places = {"tslrec_dir": folder, "checkpoint_dir": f"{folder}/models"}
    experiment = run_experiment(model, dataset, config_dict=settings | places)
    found = {
        f"{stage.name}/{path.relative_to(stage.folder)}": file_hash(path)
        for stage in experiment.stages
        for path in sorted(stage.folder.rglob("*.safetensors"))
    }
    for name, tensor in load_checkpoint(experiment.checkpoint)["state_dict"].items():
        found[f"model/{name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    found["validation"] = dict(experiment.best_valid_result)
    found["test"] = dict(experiment.test_result)
    return found


def main() -> None:
    model, dataset, folder, settings = sys.argv[1:]
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    found = made(model, dataset, folder, json.loads(settings))
    Path(folder, "made.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
