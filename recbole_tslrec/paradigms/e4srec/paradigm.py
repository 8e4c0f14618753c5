"""What E4SRec hands over: its model, keys, and row of a comparison."""

from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.key import defaults, names_of
from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.item_inputs import check_item_inputs, has_slots, unread_texts
from recbole_tslrec.language_model.keys import (
    ADAPTERS,
    EXAMPLES,
    HISTORY,
    ITEM_INPUTS,
    MEMORY,
    OPTIMISATION,
    READING,
    RESPONSE,
    STOPPING,
)
from recbole_tslrec.paradigms.e4srec.keys import OWN
from recbole_tslrec.paradigms.e4srec.model import E4SRec
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.stages.keys import GIVEN_BACKBONE, PLACE

_HEADING = """\
E4SRec (arXiv 2312.02443), a baseline of TSLRec: the language model itself scores the items.
RecBole's own keys for training (epochs, learning_rate, train_batch_size, ...) and those of SASRec.yaml
are the backbone's, as they are for TSLRec: so both share one trained backbone. RecBole's validation
stops the training. Written by `make keys` from the declarations in the code."""

_READ = (
    *(ITEM_TEXT, READING, ITEM_INPUTS, RESPONSE, HISTORY, MEMORY),
    *(ADAPTERS, STOPPING, OPTIMISATION),
    *(EXAMPLES, OWN),
)


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for items without slots, and for texts that are not named."""
    if not has_slots(config):
        raise ValueError(
            "item_prompt=text: E4SRec's items have slots. Set item_prompt=both, or slot."
        )
    check_item_inputs(config)


E4SREC = Paradigm(
    name="E4SRec",
    heading=_HEADING,
    models={"E4SRec": E4SRec},
    trainer=LanguageModelTrainer,
    keys=(GIVEN_BACKBONE, *_READ, PLACE),
    variants=(
        Variant(
            "E4SRec",
            "E4SRec",
            stages=E4SRec.stages(defaults(_READ)),
            keys=names_of(_READ),
            unread=unread_texts,
            backbone=E4SRec.backbone.name,
        ),
    ),
    check=_check,
)
