"""What the rules hand over: their models and rows of a comparison."""

from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.key import names_of
from recbole_tslrec.config.keys import LOSS, PRECISION, ROWS
from recbole_tslrec.evaluation.scoring_term import check_choice
from recbole_tslrec.paradigms.rules.models import MODELS
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.recbole_bridge.trainers import FrozenTrainer
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.keys import GIVEN_BACKBONE, PLACE

_HEADING = """\
Rules beside which a gain must stand: Repeat lists the user's own history, the latest item first;
SeenPenalty_<backbone> is the trained backbone with a penalty on seen items, chosen on validation. What
they gain as well with seen items ranked is no better knowledge of what a user will like.
Written by `make keys` from the declarations in the code."""


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a validation on which no penalty is chosen."""
    if config["model"] != "Repeat":
        check_choice(config)


RULES = Paradigm(
    name="Rules",
    heading=_HEADING,
    models=MODELS,
    trainer=FrozenTrainer,
    keys=(GIVEN_BACKBONE, PLACE),
    variants=(
        Variant(
            "repeat",
            "Repeat",
            control=True,
            not_given=names_of((ROWS, LOSS, PRECISION)),
            ranked_alone=True,
        ),
        Variant("seen_penalty", "SeenPenalty_{backbone}", stages=(BackboneStage,), control=True),
    ),
    check=_check,
)
