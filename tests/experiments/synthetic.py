"""A results folder of made-up numbers, in the form that the grid writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

# How much better than Base a variant ranks, on the logarithm of the rank.
_GAIN = {
    "Base": 0,
    "CI": 0.03,
    "TSLRec": 0.15,
    "mean_preference": 0.06,
    "backbone_embedding": 0.12,
    "random": -0.1,
    "frozen_lm": 0.0,
}
VARIANTS = tuple(_GAIN)
_SECONDS = {
    "backbone": 300.0,
    "categories": 4.0,
    "fine_tuning": 540.0,
    "augmentation": 15.0,
}
METRICS = {"hit@5": 5, "hit@10": 10, "ndcg@5": 5, "ndcg@10": 10}


class SyntheticResults:
    """Writes cells; users, targets and items are the same for every cell of a data set.

    Args:
        repeated: by data set the share of the targets that the user had had before; the ranks of the
            others do not say it, as older ones do not.
    """

    def __init__(
        self,
        folder: Path,
        n_users: int = 200,
        n_items: int = 120,
        repeated: dict[str, float] | None = None,
    ):
        self.folder, self.n_users, self.n_items = Path(folder), n_users, n_items
        self.repeated = repeated or {}
        for part in ("ranks", "items"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def write(
        self, dataset, backbone, variant, seed, embeddings_from=None, status="done", **changes
    ) -> str:
        name = f"{dataset}{backbone}{variant}{seed}{embeddings_from}{changes.get('settings')}"
        cell = hashlib.sha256(name.encode()).hexdigest()[:16]
        line = {
            "format": 1,
            "cell": cell,
            "dataset": dataset,
            "backbone": backbone,
            "variant": variant,
            "embeddings_from": embeddings_from,
            "seed": seed,
            "data": dataset,
            "configuration": f"{dataset}{backbone}{variant}{embeddings_from}",
            "backbone_from": None,
            "settings": {"epochs": 300, "hidden_size": 64, "seed": seed},
            "effective": {"epochs": "300", "hidden_size": "64", "learning_rate": "0.001"},
            "status": status,
            "error": None if status == "done" else "RuntimeError: out of memory | <b>",
            "reused_stages": [],
            "versions": {"recbole_tslrec": "0.1.0", "recbole": "1.2.1", "torch": "2.13.0"},
            "machine": "made up",
            "command": "python -m recbole_tslrec compare --seeds=3",
            "finished_at": "2026-01-01T00:00:00+00:00",
        }
        if status == "done":
            line |= self._measure(cell, dataset, variant, seed, name)
            if variant in ("TSLRec", "CI") and embeddings_from is None:
                self._write_items(cell, dataset, variant, name)
        with open(self.folder / "cells.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line | changes) + "\n")
        return cell

    def _measure(self, cell, dataset, variant, seed, name) -> dict:
        fixed, noise = _generator(dataset), _generator(name)
        popularity = np.sort(fixed.zipf(1.3, self.n_items).clip(1, 3000))[::-1]
        target = (self.n_items * fixed.random(self.n_users) ** 2).astype(int)
        length = np.minimum(3 + fixed.geometric(0.15, self.n_users), 200)
        liking = fixed.normal(3.5, 1.6, self.n_users) + 0.4 * (target / self.n_items)
        logarithm = liking - _GAIN.get(variant, 0.0) + noise.normal(0, 0.5, self.n_users)
        rank = np.exp(logarithm.clip(0)).astype(np.int32).clip(1, self.n_items)
        masked = np.maximum(1, rank - fixed.integers(0, 3, self.n_users)).astype(np.int32)
        arrays = {
            "user": np.array([f"u{user}" for user in range(self.n_users)]),
            "item": np.array([f"i{item}" for item in target]),
            "rank": rank,
            "rank_masked": masked,
            "training_length": length.astype(np.int32),
            "item_count": popularity[target].astype(np.int32),
        }
        if dataset in self.repeated:
            arrays["repeated"] = fixed.random(self.n_users) < self.repeated[dataset]
        order = noise.permutation(self.n_users)
        np.savez(self.folder / "ranks" / cell, **{key: arrays[key][order] for key in arrays})
        stages = {} if variant in ("Base", "random") else dict(_SECONDS)
        if variant == "CI":
            stages = {key: stages[key] for key in ("backbone", "categories")}
        return {
            "valid": _metrics(rank),
            "test": {"ranked": _metrics(rank), "masked": _metrics(masked)},
            "epochs": 40,
            "seconds": {
                "training": 280.0 + noise.uniform(0, 40),
                "evaluation": 6.0,
                "stages": stages,
            },
        }

    def _write_items(self, cell, dataset, variant, name) -> None:
        noise = _generator(name)
        category = noise.integers(0, 20, self.n_items)
        count = np.sort(noise.zipf(1.3, self.n_items).clip(1, 3000))[::-1]
        arrays = {
            "item": np.array([f"i{item}" for item in range(self.n_items)]),
            "training_count": count.astype(np.int32),
            "category": category,
        }
        if variant == "TSLRec":
            place = noise.geometric(0.6, self.n_items).clip(1, 20).astype(np.int32)
            centres = noise.normal(0, 30, (20, 2))
            before = centres[category] + noise.normal(0, 6, (self.n_items, 2))
            after = centres[category] + noise.normal(0, 14, (self.n_items, 2))
            before[2000:], after[2000:] = np.nan, np.nan
            gate = 1 / (1 + np.exp(-(np.log(count) / 4 - 0.5 + noise.normal(0, 0.3, self.n_items))))
            arrays |= {
                "inferred": np.where(place == 1, category, (category + 1) % 20),
                "place": place,
                "mean_gate": gate.astype(np.float32),
                "map_before": before.astype(np.float32),
                "map_after": after.astype(np.float32),
            }
        np.savez(self.folder / "items" / cell, **arrays)


def _metrics(rank) -> dict[str, float]:
    gains = {"hit": np.ones(len(rank)), "ndcg": 1 / np.log2(1 + rank)}
    return {
        name: float(np.mean(np.where(rank <= k, gains[name.split("@")[0]], 0)))
        for name, k in METRICS.items()
    }


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))
