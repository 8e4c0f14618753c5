"""The keys of LlamaRec's own."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import ABOVE_0, integer, one_of, text

OWN = declare(
    "LlamaRec's own (arXiv 2311.02089)",
    Key(
        "llamarec_instruction",
        "Given what a user had, oldest first, choose from the candidates what comes next. Answer with "
        "its letter.",
        "The words before the history.",
        text(),
    ),
    Key(
        "llamarec_items",
        "text",
        "What stands for an item in the prompt, in [text, slots]. text: its words, from item_text. "
        "slots: its projected embedding, for data without text (not in the paper).",
        one_of("text", "slots"),
    ),
    Key(
        "llamarec_max_history",
        20,
        "The most recent items of a history that enter the prompt.",
        integer(1),
    ),
    Key(
        "llamarec_head",
        "letters",
        "What scores the candidates, in [letters, linear]. letters: the language model's own head, at "
        "the letters under which they stand; at most 26. linear: a trained layer, for encoders.",
        one_of("letters", "linear"),
    ),
    Key(
        "llamarec_loss",
        "letters",
        "Cross-entropy over what, in [letters, vocabulary]. letters: those of the candidates alone. "
        "vocabulary: all tokens, of the letter and of the end behind it, as the authors.",
        one_of("letters", "vocabulary"),
    ),
    Key(
        "llamarec_negatives",
        "random",
        "A training example's other candidates, in [random, retrieved]. random: drawn from what the "
        "user did not have. retrieved: the trained backbone's first, as in a test.",
        one_of("random", "retrieved"),
    ),
    Key(
        "llamarec_learning_rate",
        1e-4,
        "The learning rate of the language model (AdamW, constant).",
        ABOVE_0,
    ),
)
