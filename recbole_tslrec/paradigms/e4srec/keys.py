"""The keys of E4SRec's own."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import ABOVE_0, text

OWN = declare(
    "E4SRec's own",
    Key(
        "e4srec_instruction",
        "Given the user's purchase history, predict next possible item to be purchased.",
        "The words before the history.",
        text(),
    ),
    Key(
        "e4srec_learning_rate",
        3e-4,
        "The learning rate of the language model (AdamW, constant); that of the authors' script.",
        ABOVE_0,
    ),
)
