"""The keys of the fused item table (paper §4.2)."""

from recbole_tslrec.config.key import Effect, Key, declare
from recbole_tslrec.config.values import ABOVE_0, integer, number, one_of, text
from recbole_tslrec.paradigms.tslrec.augmentation.controls import VECTORS
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS

_TITLE = "The fused item table (§4.2)"

FUSION = declare(
    _TITLE,
    Key(
        "enhancement",
        "tslrec",
        f"What is fused with the id embedding, in [{', '.join(VECTORS)}]. All between the first and "
        "tuned_text are controls: the mean target of fine-tuning over the item's users, the backbone's "
        "own item embedding, fixed Gaussian vectors, the language model before fine-tuning; and of the "
        "items' texts (item_text) the frozen language model's vectors, TF-IDF with SVD, the text "
        "vectors dealt out among the items, Gaussian rows of their mean and covariance. tuned_text: "
        "the texts' vectors after the language model was tuned so that items that follow each other are "
        "alike; its control: the same with the texts dealt out among the items. shuffled_tfidf: TF-IDF, "
        "dealt out. Those with two names: the first one's vectors beside TF-IDF.",
        one_of(*VECTORS),
    ),
    Key(
        "fusion",
        "gate",
        f"How the id embedding e and the projected enhanced embedding h' become one, in "
        f"[{', '.join(FUSIONS)}]. gate: a*e + (1-a)*h' with a learned elementwise gate a. sum: e + h'. "
        "alone: h', without the ids. start: e alone, which starts from the enhanced embedding's "
        "principal components. null_space: the first of these components, each with variance 1, fixed "
        "but for one learned length, with e added in the last half of the columns (AlphaFuse). none: e "
        "alone, for score_term.",
        one_of(*FUSIONS),
    ),
    Key(
        "enhanced_dim",
        128,
        "The most columns of h^v that are kept: wider ones are reduced once by PCA, and the log says "
        "how much of the variance stays. Of two kinds of vectors beside each other: of each.",
        integer(1),
    ),
    Key(
        "enhanced_scale",
        1.0,
        "The size of h' at the start of training, in units of the initial id embedding's.",
        ABOVE_0,
        only_with=("fusion", tuple(name for name in FUSIONS if name != "none")),
    ),
)

SCORE_TERM = declare(
    "Late fusion: a term at scoring",
    Key(
        "score_term",
        "none",
        "In [none, after, during]: whether items like those of the history (by the cosine of the "
        "vectors of enhancement) get a higher score. after: once the model is trained; weight and "
        "decay are chosen on validation. during: in training as well, with the weight and decay below. "
        "With fusion: none and after, the model is the trained backbone itself.",
        one_of("none", "after", "during"),
        unchanged_at="none",
    ),
    Key(
        "score_weight",
        1.0,
        "With score_term: during, the weight of the term among the logits.",
        ABOVE_0,
        only_with=("score_term", ("during",)),
        unchanged_at=1.0,
    ),
    Key(
        "score_decay",
        0.7,
        "With score_term: during, by how much an item of the history counts less than the one after it, "
        "in (0, 1].",
        number(lambda value: 0 < value <= 1, "a number above 0, up to 1"),
        only_with=("score_term", ("during",)),
        unchanged_at=0.7,
    ),
    Key(
        "score_map",
        "none",
        "In [none, contrastive]. contrastive: the term's vectors go through a linear map first, learned "
        "on the training histories so that items that follow each other are alike. It learns from "
        "vectors that say nothing, too: compare with shuffled_text under the same map.",
        one_of("none", "contrastive"),
        only_with=("score_term", ("after", "during")),
        unchanged_at="none",
    ),
)

GIVEN_VECTORS = declare(
    _TITLE,
    Key(
        "enhanced_items",
        None,
        "A file of enhanced embeddings from any earlier run (enhanced_items.safetensors, its .json "
        "beside it), in place of stages 1 and 2.",
        text(optional=True),
        Effect.FILE,
    ),
)

NORM = declare(
    _TITLE,
    Key(
        "item_norm",
        "none",
        "In [none, l2]. l2: the rows of the (fused) item table, TSLRec's or CI's, have one length, "
        "which is learned. Norm_<backbone> is the backbone with that alone.",
        one_of("none", "l2"),
        unchanged_at="none",
    ),
)
