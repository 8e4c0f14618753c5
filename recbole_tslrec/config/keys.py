"""The keys of ours that every sequential model has, RecBole's own among them."""

from __future__ import annotations

from recbole_tslrec.config.key import Effect, Key, KeyGroup
from recbole_tslrec.config.values import UP_TO_1, YES_OR_NO, integer, one_of

# Not made known with `declare`: they enter fingerprints with RecBole's keys (`fingerprints.py`).
ROWS = KeyGroup(
    "How histories become training rows",
    (
        Key(
            "train_batching",
            "prefix",
            "In [prefix, sequence, trimmed, auto]. prefix: one row per prefix, as RecBole. sequence: "
            "one pass over the whole history, for causal backbones (SASRec, GRU4Rec, LRURec, SASRecF, "
            "GRU4RecF, FDSA, SASRecPreNorm) and SASRecPreNormLatest. trimmed: "
            "RecBole's rows without their padding, for Caser. auto: the quickest that the backbone "
            "takes.",
            one_of("prefix", "sequence", "trimmed", "auto"),
        ),
        Key(
            "train_window_context",
            0.5,
            "With sequence: the share of MAX_ITEM_LIST_LENGTH that a target of a longer history has "
            "before it at least, in [0, 1]. 1: all of it, as prefix.",
            UP_TO_1,
        ),
    ),
)
LOSS = KeyGroup(
    "The loss, with loss_type: CE, for backbones whose scores are products of states and items",
    (
        Key(
            "sampled_loss",
            "none",
            "What stands for the softmax over all items, in [none, softmax, gbce]; for large "
            "catalogues. softmax: over the target and a sample of the items, scaled to all of them. "
            "gbce: gSASRec's binary cross entropy.",
            one_of("none", "softmax", "gbce"),
        ),
        Key(
            "sampled_negatives",
            256,
            "With sampled_loss: the items that a step draws, each with the same chance.",
            integer(1),
        ),
        Key(
            "gbce_calibration",
            0.75,
            "With gbce: t of its paper, in [0, 1]. 0: plain binary cross entropy; 1: scores as the "
            "softmax's.",
            UP_TO_1,
        ),
    ),
)
PRECISION = KeyGroup(
    "The precision of a backbone's training",
    (
        Key(
            "train_precision",
            "float32",
            "In what a backbone's training computes its matrix products, in [float32, bfloat16, auto]; "
            "weights, sums, the softmax, evaluation and a GPU's recurrent layers are float32. bfloat16 "
            "takes 0.6 of the time where the processor has it; auto: bfloat16 there, float32 elsewhere, "
            "and for all but backbones that score by products of states and items.",
            one_of("float32", "bfloat16", "auto"),
        ),
    ),
)
EPOCH = KeyGroup(
    "The choice of the epoch",
    (
        Key(
            "valid_protocol",
            "ranked",
            "By which ranking of validation the epoch is chosen, in [ranked, masked, novel]. ranked: of "
            "all items, as RecBole. masked: without the items of the user's history (the target stays); "
            "for figures with seen items masked. novel: likewise, and by the targets that are new to "
            "the user alone. RecBole's test result stays ranked; compare gives both.",
            one_of("ranked", "masked", "novel"),
        ),
    ),
)
DATA = KeyGroup(
    "The data of a trained model",
    (
        Key(
            "allow_new_data",
            False,
            "Whether a checkpoint may go on training, or be evaluated, on other data than it was "
            "trained with, and enhanced_items be of other data. False: refused, since what is held "
            "out now may have been trained on. "
            "load_data_and_model takes it as an argument.",
            YES_OR_NO,
            Effect.NOTHING,
        ),
    ),
)
TRAINING_GROUPS = (ROWS, LOSS, PRECISION, EPOCH, DATA)
TRAINING_KEYS = {key.name: key for group in TRAINING_GROUPS for key in group.keys}
