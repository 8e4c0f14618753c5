"""The keys of item codes, of the models that write them, and of P5's own."""

from dataclasses import replace

from recbole_tslrec.config.key import KEYS, Key, KeyGroup, declare
from recbole_tslrec.config.values import ABOVE_0, integer, one_of
from recbole_tslrec.language_model.keys import EXAMPLES

COLLABORATIVE, SEQUENTIAL, RANDOM = "collaborative", "sequential", "random"
INDEPENDENT, EMBEDDING, FILE_ORDER = "independent", "embedding", "file_order"

CODES = declare(
    "The items' codes (arXiv 2305.06569)",
    Key(
        "item_code",
        COLLABORATIVE,
        "In [collaborative, sequential, random, independent, embedding, file_order]. collaborative: "
        "clusters of items that occur together in training. sequential, random: a number by first "
        "appearance in training, or by lot. independent: a token of its own. embedding: clusters of a "
        "trained SASRec's item embeddings. file_order: a number by the data file, which tells "
        "of held-out items: a control.",
        one_of(COLLABORATIVE, SEQUENTIAL, RANDOM, INDEPENDENT, EMBEDDING, FILE_ORDER),
    ),
    Key(
        "code_clusters",
        20,
        "Clusters into which one is divided (collaborative; embedding below the first level).",
        integer(2),
    ),
    Key(
        "code_leaf_items",
        500,
        "The most items of a cluster that is not divided further (collaborative, embedding).",
        integer(1),
    ),
)

WRITING = declare(
    "How codes are read and written",
    Key("code_max_history", 20, "The most recent items that enter the prompt.", integer(1)),
    Key(
        "code_score",
        "sum",
        "An item's score, in [sum, mean], over the log-probabilities of its code's tokens. sum: its "
        "likelihood. mean: near what transformers' beam search ranks by, which counts the end, too.",
        one_of("sum", "mean"),
    ),
)

OWN = declare(
    "P5's own",
    Key(
        "p5_learning_rate",
        1e-3,
        "The highest learning rate (AdamW, weight decay .01; linear decay after a warm-up over 5 %).",
        ABOVE_0,
    ),
)

# ---- keys that other paradigms have, too, as P5 and POD read them ---------------------------------

LANGUAGE_MODEL = KeyGroup(
    "The T5, all of whose weights are trained",
    (
        replace(
            KEYS["llm"],
            default="scratch",
            meaning="'scratch': a T5 of 2 + 2 layers and width 64 on the prompts' own words and codes. "
            "'scratch:t5-small': one of t5-small's shape. Else a T5 by its hub id or folder.",
        ),
        KEYS["llm_trust_remote_code"],
        KEYS["llm_attention"],
    ),
)


def training(epochs: int, patience: int) -> KeyGroup:
    """The keys of the training, with these defaults."""
    return KeyGroup(
        "Training; RecBole's validation chooses the epoch",
        (
            replace(KEYS["sft_epochs"], default=epochs, meaning="The most epochs."),
            replace(
                KEYS["sft_stopping_step"],
                default=patience,
                meaning="Epochs without a better validation before training stops.",
            ),
            replace(
                KEYS["sft_batch_positions"],
                default=8192,
                meaning="Positions of a batch's prompts, with padding; those of like length share one.",
            ),
            KEYS["sft_optimizer"],
            KEYS["sft_users"],
        ),
    )


TRAINING = (training(20, 3), EXAMPLES)
