"""The key of TSLRec's prompt."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import text

INSTRUCTION = declare(
    "The prompt (§4.1)",
    Key(
        "llm_instruction",
        None,
        "d_inst, the words before the history. ~: the paper's sentence for a causal model, which reads "
        "it once a batch; 'Purchase history:' for another, which reads it in every prompt.",
        text(optional=True),
    ),
)
