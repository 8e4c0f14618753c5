"""The keys of the stages: where they are kept, and what a user gives in place of the first."""

from recbole_tslrec.config.key import Effect, Key, declare
from recbole_tslrec.config.values import text

GIVEN_BACKBONE = declare(
    "The trained backbone (§4.1)",
    Key(
        "backbone_checkpoint",
        None,
        "A RecBole checkpoint of the backbone, trained on the same data set and split. ~: trained by "
        "RecBole under the settings of this experiment, or reused from an earlier run.",
        text(optional=True),
        Effect.FILE,
    ),
)

PLACE = declare(
    "Where the stages are kept",
    Key(
        "tslrec_dir",
        "saved/tslrec",
        "The folder of the finished stages; a later run finds and reuses them here.",
        text(),
        Effect.NOTHING,
    ),
)
