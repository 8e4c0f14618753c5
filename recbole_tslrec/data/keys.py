"""The keys of what several paradigms read of the data: the items' texts, a retriever's candidates."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import Values, integer, one_of, text, texts

_COLUMNS = texts("a column of the .item file, or a list of them, or ~")

ITEM_TEXT = declare(
    "The items' texts, from RecBole's .item file",
    Key(
        "item_text",
        None,
        "The columns whose words tell what an item is, joined with ', ' in this order. Without a "
        "choice an error lists those that there are.",
        Values(lambda value: value is None or _COLUMNS.accepts(value), _COLUMNS.expected),
        type="str or list",
        unchanged_at=None,
    ),
    Key(
        "item_text_tokens",
        32,
        "The most tokens of an item's text; what is longer loses its end.",
        integer(1),
        unchanged_at=32,
    ),
    Key(
        "item_text_missing",
        "error",
        "What becomes of items without a text: 'error' names some and stops; any other value is the "
        "text of all of them.",
        text(),
        unchanged_at="error",
    ),
)

_CANDIDATES_TITLE = "The candidates, which the trained backbone puts first"

CANDIDATES = declare(
    _CANDIDATES_TITLE,
    Key("n_candidates", 20, "How many items of each user the language model ranks.", integer(1)),
    Key(
        "candidates",
        "all",
        "In [all, unseen]. unseen: items of the user's history are no candidates; for figures with seen "
        "items masked. all: they are, as RecBole ranks them.",
        one_of("all", "unseen"),
    ),
)

CONTROL = declare(
    _CANDIDATES_TITLE,
    Key(
        "rerank_control",
        "none",
        "In [none, retriever, shuffled]: controls, in tests alone; what is trained is the same. "
        "retriever: the candidates keep the backbone's order. shuffled: they stand in the prompt in "
        "random order; otherwise the backbone's first stands first.",
        one_of("none", "retriever", "shuffled"),
    ),
)
