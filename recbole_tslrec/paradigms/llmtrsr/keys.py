"""The keys of LLM-TRSR's own."""

from recbole_tslrec.config.key import Effect, Key, declare
from recbole_tslrec.config.values import ABOVE_0, integer, one_of, text

SUMMARIES = declare(
    "LLM-TRSR's summaries of histories (arXiv 2403.13325)",
    Key(
        "trsr_summary",
        "hierarchical",
        "How a history is summarised, in [hierarchical, recurrent, none]. hierarchical: each block by "
        "itself, then their summaries. recurrent: the first block, then each next one with the summary "
        "so far. none: not at all.",
        one_of("hierarchical", "recurrent", "none"),
    ),
    Key("trsr_block_items", 5, "The items of a block; the last one may have fewer.", integer(1)),
    Key(
        "trsr_blocks",
        5,
        "The most blocks, counted from the history's first item; of more, the latest are read.",
        integer(1),
    ),
    Key(
        "trsr_summary_tokens",
        150,
        "The most tokens of a summary; it ends there if the language model does not end it before.",
        integer(1),
    ),
    Key(
        "trsr_summarizer",
        None,
        "The language model that writes the summaries, as llm names one; ~: llm itself.",
        text(optional=True),
        Effect.MODEL,
        type="str",
    ),
    Key(
        "trsr_summary_instruction",
        "Here are items that a user had, oldest first. Describe the user's preferences, personality and "
        "habits in a few sentences.",
        "The words before a block.",
        text(),
    ),
    Key(
        "trsr_merge_instruction",
        "Here are descriptions of one user's preferences, oldest first. Describe the user's "
        "preferences, personality and habits in a few sentences.",
        "hierarchical: the words before the summaries of the blocks.",
        text(),
    ),
    Key(
        "trsr_update_instruction",
        "Here are a description of a user's preferences, and items that the user had since. Write the "
        "description anew, complete and in the same form.",
        "recurrent: the words before the summary so far and the next block.",
        text(),
    ),
)

OWN = declare(
    "LLM-TRSR's own (arXiv 2403.13325)",
    Key(
        "trsr_instruction",
        "The summary tells what a user likes in the long term, the items what the user had last. Will "
        "the user choose the next item? Answer yes or no.",
        "The words before summary, recent items and candidate.",
        text(),
    ),
    Key(
        "trsr_instruction_alone",
        "The items are what a user had last. Will the user choose the next item? Answer yes or no.",
        "trsr_summary=none: these words in their place.",
        text(),
    ),
    Key("trsr_recent_items", 5, "The latest items that stand beside the summary.", integer(1)),
    Key(
        "trsr_loss",
        "answer",
        "Cross-entropy over what, in [answer, text]. answer: yes or no alone. text: all tokens of the "
        "prompt as well, as the authors; it takes the logits of the vocabulary at each of them.",
        one_of("answer", "text"),
    ),
    Key(
        "trsr_learning_rate",
        1e-4,
        "The learning rate of the language model (AdamW, constant).",
        ABOVE_0,
    ),
)

TRSR_CONTROL = declare(
    "LLM-TRSR's own (arXiv 2403.13325)",
    Key(
        "trsr_control",
        "none",
        "In [none, shuffled]: a control, in tests alone; what is trained is the same. shuffled: each "
        "user has another user's summary.",
        one_of("none", "shuffled"),
    ),
)
