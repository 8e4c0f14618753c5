"""The two-stage language-model-enhanced paradigm TSLRec (P2Rec) as a plug-in for RecBole.

After ``import recbole_tslrec``, RecBole's own entry points know ``TSLRec_<backbone>``,
``CI_<backbone>``, ``Norm_<backbone>``, ``FMLPRec`` and ``E4SRec``, and RecBole 1.2.1 trains, saves and
loads on today's torch.
"""

import importlib
from typing import Any

from recbole_tslrec.recbole_bridge import first_imports  # noqa: F401

# isort: split
from recbole_tslrec.paradigms import BUILT_IN
from recbole_tslrec.recbole_bridge import patches
from recbole_tslrec.recbole_bridge.register import register_paradigm

__version__ = "0.1.0"

# The public names and where they are; each is imported when it is first asked for.
_PUBLIC = {
    "Recommender": "recommendation.recommender",
    "Experiment": "recbole_bridge.quick_start",
    "run_experiment": "recbole_bridge.quick_start",
    "Paradigm": "recbole_bridge.paradigm",
    "Variant": "recbole_bridge.paradigm",
    "Pipeline": "stages.pipeline",
    "Stage": "stages.stage",
    "ItemTensors": "store.item_tensors",
    "load_checkpoint": "store.checkpoints",
    "fold_checkpoint": "paradigms.tslrec.folding",
}
__all__ = ["register_paradigm", *_PUBLIC]

patches.apply()
for paradigm in BUILT_IN:
    register_paradigm(paradigm)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
