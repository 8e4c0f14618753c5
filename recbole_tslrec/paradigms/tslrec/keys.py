"""The key of TSLRec's prompt."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import text

INSTRUCTION = declare(
    "The prompt (§4.1)",
    Key(
        "llm_instruction",
        "Given the user's purchase history, predict the user's distribution among {n_categories} "
        "purchase preferences.",
        "d_inst, the words before the history.",
        text(),
    ),
)
