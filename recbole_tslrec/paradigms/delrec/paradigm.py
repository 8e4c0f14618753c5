"""What DELRec hands over: its models, keys, and rows of a comparison."""

from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.key import defaults, names_of
from recbole_tslrec.data.item_catalogue import check_item_text
from recbole_tslrec.data.keys import CANDIDATES, CONTROL, ITEM_TEXT
from recbole_tslrec.language_model.alphabet import check_letters
from recbole_tslrec.language_model.keys import (
    ADAPTERS,
    EXAMPLES,
    FROZEN,
    MEMORY,
    OPTIMISATION,
    STOPPING,
)
from recbole_tslrec.paradigms.delrec.keys import OWN, PROMPTS, SOFT_PROMPTS
from recbole_tslrec.paradigms.delrec.model import MODELS, DELRec
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.stages.keys import GIVEN_BACKBONE, PLACE

_HEADING = """\
DELRec (arXiv 2406.11156): learned vectors imitate a backbone; then a language model behind them re-ranks
its candidates. DELRec_<backbone>.
RecBole's own keys for training (epochs, learning_rate, train_batch_size, ...) and those of RecBole's
<backbone>.yaml are the backbone's, which all paradigms share; sft_* are the language model's.
delrec_paper.yaml has the authors' settings, delrec_cpu.yaml small ones.
Written by `make keys` from the declarations in the code."""

_READ = (
    *(FROZEN, MEMORY, ADAPTERS, STOPPING, OPTIMISATION),
    *(EXAMPLES, ITEM_TEXT, CANDIDATES, PROMPTS, SOFT_PROMPTS, OWN),
)


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for values that contradict each other, and for texts that are not named."""
    k, h = config["n_candidates"], config["delrec_predictions"]
    by_title = config["delrec_verbalizer"] == "title"
    if by_title and config["delrec_items"] == "slots":
        raise ValueError(
            "delrec_verbalizer: [title] scores the items' words, and delrec_items: [slots] has none. "
            "Set delrec_verbalizer: letters, or delrec_items: text."
        )
    if not by_title:
        check_letters(k, otherwise="delrec_verbalizer: title")
    if h > k and config["delrec_soft_prompts"] == "trained":
        raise ValueError(
            f"delrec_predictions: [{h}] are to be among the n_candidates: [{k}] of a prompt. Set "
            f"delrec_predictions: {k}, or more candidates."
        )
    if config["delrec_items"] == "text":
        check_item_text(config, "delrec_items=text:")


def _unread(values: Mapping[str, Any]) -> tuple[str, ...]:
    return () if values["delrec_items"] == "text" else ITEM_TEXT.names


def _row(name: str, **settings: str) -> Variant:
    own = {"rerank_control": "none", "delrec_soft_prompts": "trained"} | settings
    read = (*_READ, CONTROL)
    return Variant(
        name,
        "DELRec_{backbone}",
        own,
        DELRec.stages(defaults(read) | own),
        names_of(read),
        control=bool(settings),
        tested_alone="rerank_control" in settings,
        unread=_unread,
    )


DELREC = Paradigm(
    name="DELRec",
    heading=_HEADING,
    models=MODELS,
    trainer=LanguageModelTrainer,
    keys=(GIVEN_BACKBONE, *_READ, CONTROL, PLACE),
    variants=(
        _row("DELRec"),
        _row("delrec_random_prompts", delrec_soft_prompts="random"),
        _row("delrec_retriever_order", rerank_control="retriever"),
        _row("delrec_shuffled", rerank_control="shuffled"),
    ),
    check=_check,
)
