"""The keys of TSLRec's own, by section of the paper."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import integer, one_of, text

CATEGORIES = declare(
    "Preliminary latent categories (§4.1)",
    Key(
        "n_categories",
        50,
        "K, the number of latent categories; the paper does not give it. From 2 to the number of items.",
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
