"""The keys of DELRec's own."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import ABOVE_0, integer, one_of, text

_PROMPTS = "DELRec's prompts (arXiv 2406.11156)"

PROMPTS = declare(
    _PROMPTS,
    Key(
        "delrec_instruction",
        "Given what a user had, oldest first, choose from the candidates what belongs there.",
        "The first words of all prompts.",
        text(),
    ),
    Key(
        "delrec_items",
        "text",
        "What stands for an item in the prompt, in [text, slots]. text: its words, from item_text. "
        "slots: its projected embedding, for data without text (not in the paper).",
        one_of("text", "slots"),
    ),
    Key(
        "delrec_max_history",
        20,
        "The most recent items of a history that enter the prompt.",
        integer(1),
    ),
    Key(
        "delrec_verbalizer",
        "letters",
        "What scores a candidate, in [letters, title]. letters: the logit of the letter under which it "
        "stands; at most 26. title: the log-likelihood of its whole text, the mean over its tokens.",
        one_of("letters", "title"),
    ),
    Key("delrec_soft_vectors", 100, "How many learned vectors the prompts have.", integer(1)),
)

SOFT_PROMPTS = declare(
    "DELRec's first stage: the learned vectors imitate the backbone",
    Key(
        "delrec_predictions",
        10,
        "How many of the backbone's best items a prompt has; its first is to be told. They are "
        "predictions of what follows the whole training history, which the backbone has not seen.",
        integer(2),
    ),
    Key(
        "delrec_soft_epochs",
        5,
        "Epochs of the first stage; each reads every user twice, once a task.",
        integer(1),
    ),
    Key(
        "delrec_soft_learning_rate",
        5e-3,
        "The learning rate of the learned vectors (AdamW, linear decay after a warm-up).",
        ABOVE_0,
    ),
)

OWN = declare(
    "DELRec's second stage: the language model is tuned, the learned vectors are fixed",
    Key(
        "delrec_learning_rate",
        1e-4,
        "The learning rate of the language model (AdamW, constant).",
        ABOVE_0,
    ),
    Key(
        "delrec_soft_prompts",
        "trained",
        "In [trained, random]. random: the control without the first stage; the vectors stay what they "
        "start as, embeddings of tokens drawn at random.",
        one_of("trained", "random"),
    ),
)
