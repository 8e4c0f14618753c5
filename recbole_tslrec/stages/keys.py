"""The keys of the stages that paradigms share: the backbone, the categories, where all are kept."""

from recbole_tslrec.config.key import Effect, Key, declare
from recbole_tslrec.config.values import integer, one_of, text

GIVEN_BACKBONE = declare(
    "The trained backbone (TSLRec §4.1)",
    Key(
        "backbone_checkpoint",
        None,
        "A RecBole checkpoint of the backbone, trained on the same data set and split. ~: trained by "
        "RecBole under the settings of this experiment, or reused from an earlier run.",
        text(optional=True),
        Effect.FILE,
    ),
)

CATEGORIES = declare(
    "Preliminary latent categories (TSLRec §4.1)",
    Key(
        "n_categories",
        50,
        "K, the number of latent categories; TSLRec's paper gives none. From 2 to the number of items.",
        integer(2),
    ),
    Key(
        "category_backend",
        "auto",
        "The k-means library, in [auto, sklearn, faiss]. auto: scikit-learn, and faiss for more than "
        "100,000 items in more than 100 categories, where it is faster.",
        one_of("auto", "sklearn", "faiss"),
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
