"""What LlamaRec hands over: its models, keys, and rows of a comparison."""

from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.key import defaults, names_of
from recbole_tslrec.data.item_catalogue import check_item_text
from recbole_tslrec.data.keys import CANDIDATES, CONTROL, ITEM_TEXT
from recbole_tslrec.language_model.alphabet import check_letters
from recbole_tslrec.language_model.keys import (
    ADAPTERS,
    EXAMPLES,
    MEMORY,
    OPTIMISATION,
    READING,
    STOPPING,
)
from recbole_tslrec.paradigms.llamarec.keys import OWN
from recbole_tslrec.paradigms.llamarec.model import MODELS, LlamaRec
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.stages.keys import GIVEN_BACKBONE, PLACE

_HEADING = """\
LlamaRec (arXiv 2311.02089): a language model re-ranks the candidates of a backbone. LlamaRec_<backbone>.
RecBole's own keys for training (epochs, learning_rate, train_batch_size, ...) and those of RecBole's
<backbone>.yaml are the backbone's, which TSLRec and E4SRec share; sft_* are the language model's.
llamarec_paper.yaml has the authors' settings, llamarec_cpu.yaml small ones.
Written by `make keys` from the declarations in the code."""

_READ = (
    *(READING, MEMORY, ADAPTERS, STOPPING, OPTIMISATION),
    *(EXAMPLES, ITEM_TEXT, CANDIDATES, OWN),
)


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for values that contradict each other, and for texts that are not named."""
    by_letters = config["llamarec_head"] == "letters"
    if config["llamarec_loss"] == "vocabulary" and not by_letters:
        raise ValueError(
            f"llamarec_loss: [vocabulary] is of the language model's own head, and llamarec_head: "
            f"[{config['llamarec_head']}] is none. Set llamarec_head: letters."
        )
    if by_letters:
        check_letters(config["n_candidates"], otherwise="llamarec_head: linear")
    if config["llamarec_items"] == "text":
        check_item_text(config, "llamarec_items=text:")


def _unread(values: Mapping[str, Any]) -> tuple[str, ...]:
    return () if values["llamarec_items"] == "text" else ITEM_TEXT.names


def _row(name: str, rerank_control: str) -> Variant:
    return Variant(
        name,
        "LlamaRec_{backbone}",
        {"rerank_control": rerank_control},
        LlamaRec.stages(defaults(_READ)),
        names_of((*_READ, CONTROL)),
        control=rerank_control != "none",
        tested_alone=rerank_control != "none",
        unread=_unread,
    )


LLAMAREC = Paradigm(
    name="LlamaRec",
    heading=_HEADING,
    models=MODELS,
    trainer=LanguageModelTrainer,
    keys=(GIVEN_BACKBONE, *_READ, CONTROL, PLACE),
    variants=(
        _row("LlamaRec", "none"),
        _row("llamarec_retriever_order", "retriever"),
        _row("llamarec_shuffled", "shuffled"),
    ),
    check=_check,
)
