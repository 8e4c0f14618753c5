"""The keys of POD's own."""

from recbole_tslrec.config.key import Key, declare
from recbole_tslrec.config.values import ABOVE_0, Values, integer

SEQUENTIAL, TOP_N = "sequential", "top_n"


_TASKS = ([SEQUENTIAL], [SEQUENTIAL, TOP_N])


OWN = declare(
    "POD's own",
    Key(
        "pod_tasks",
        [SEQUENTIAL],
        "The tasks trained on: sequential, which is the one that recommends, and top_n, the positive "
        "among candidates. There is none of explanations, for which the data have no reviews.",
        Values(lambda value: value in _TASKS, "[sequential] or [sequential, top_n]"),
    ),
    Key("pod_vectors", 10, "m, the learned vectors of a task's prompt; 0: none.", integer(0)),
    Key(
        "pod_candidates",
        100,
        "The items of a top_n prompt, the positive among them; fewer where no more fit the context.",
        integer(2),
    ),
    Key(
        "pod_learning_rate",
        5e-4,
        "The learning rate (AdamW, constant, weight decay .01); the authors' for Beauty and Toys.",
        ABOVE_0,
    ),
)
