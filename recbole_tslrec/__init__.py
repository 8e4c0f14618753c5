"""The two-stage language-model-enhanced paradigm TSLRec (P2Rec) as a plug-in for RecBole.

After ``import recbole_tslrec``, RecBole's own entry points know the models of every paradigm
(``TSLRec_<backbone>``, ``CI_<backbone>``, ``LlamaRec_<backbone>``, ``P5``, …) and the backbones that
RecBole lacks, and RecBole 1.2.1 trains, saves and loads on today's torch.
"""

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# The public names and where they are; each is imported when it is first asked for.
_PUBLIC = {
    "register_paradigm": "recbole_bridge.register",
    "Recommender": "recommendation.recommender",
    "write_page": "recommendation.explore.page",
    "Experiment": "recbole_bridge.quick_start",
    "run_experiment": "recbole_bridge.quick_start",
    "register_backbone": "recbole_bridge.register",
    "Paradigm": "recbole_bridge.paradigm",
    "Variant": "recbole_bridge.paradigm",
    "Pipeline": "stages.pipeline",
    "Stage": "stages.stage",
    "ItemTensors": "store.item_tensors",
    "load_checkpoint": "store.checkpoints",
    "fold_checkpoint": "paradigms.tslrec.folding",
}
__all__ = [*_PUBLIC]


@functools.cache
def plug_in() -> None:
    """Make RecBole know everything of ours; ``import recbole_tslrec`` does it.

    Only the program ``python -m recbole_tslrec`` does it later, in the commands that need RecBole.
    """
    from recbole_tslrec.recbole_bridge import first_imports  # noqa: F401

    # isort: split
    from recbole_tslrec.paradigms import BUILT_IN
    from recbole_tslrec.recbole_bridge import patches
    from recbole_tslrec.recbole_bridge.paradigm import PARADIGMS
    from recbole_tslrec.recbole_bridge.register import register_paradigm

    patches.apply()
    for paradigm in BUILT_IN:
        if PARADIGMS.get(paradigm.name) is not paradigm:  # this module may have been loaded again
            register_paradigm(paradigm)


def _runs_as_program() -> bool:
    """Whether Python was started as ``python -m recbole_tslrec``, or as the installed script.

    Then ``--help`` and ``stages`` need not wait for torch. Processes that such a program starts begin
    with other words, and plug in at once.
    """
    if sys.argv[:1] == ["-m"]:  # while Python looks for what it is to run
        return ("-m", "recbole_tslrec") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    script, called = Path(sys.executable).with_name("recbole_tslrec"), sys.argv[:1]
    return called == sys.orig_argv[1:2] and script in (Path(name).absolute() for name in called)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    plug_in()
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not _runs_as_program():
    plug_in()
