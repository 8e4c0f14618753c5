"""The keys of TSLRec's prompt, and of what is learned beside Eq. 3."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import number, text

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

SECOND_TASK = declare(
    "Fine-tuning",
    Key(
        "sft_next_title",
        0.0,
        "The weight of a second task beside Eq. 3: the cross-entropy of the words of each next item in "
        "the history. It needs a causal llm and item_prompt: text. 0: none.",
        number(lambda weight: weight >= 0, "a number, 0 or larger"),
        unchanged_at=0.0,
    ),
)
