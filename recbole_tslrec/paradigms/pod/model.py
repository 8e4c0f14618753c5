"""POD: P5 with learned vectors in front of the words; tests have the vectors alone.

Reference:
    Lei Li, Yongfeng Zhang, Li Chen. "Prompt Distillation for Efficient LLM-based Recommendation."
    CIKM 2023. Reference code: https://github.com/lileipisces/POD
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from recbole_tslrec.data.histories import training_histories
from recbole_tslrec.language_model.task import Task
from recbole_tslrec.paradigms.p5.recommender import CodeRecommender
from recbole_tslrec.paradigms.pod.examples import Segments, longest_segment
from recbole_tslrec.paradigms.pod.keys import OWN, SEQUENTIAL, TOP_N

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Segment
    from recbole_tslrec.paradigms.p5.writer import CodeReader

# The bare sentence is the tests': no word says what the task is. The first of each task is bare.
BARE = "{user} {items}"
SENTENCES = {
    SEQUENTIAL: (
        BARE,
        "{user} has bought {items} ; what is bought next ?",
        "predict the item that {user} takes after {items}",
        "the purchases of {user} are {items} ; continue them",
        "following {items} , {user} will turn to",
        "which item comes after {items} for {user} ?",
        "given the sequence {items} of {user} , name the next item",
        "{user} went through {items} and now needs",
    ),
    TOP_N: (
        "{user} {candidates}",
        "which of {candidates} suits {user} best ?",
        "pick for {user} one item out of {candidates}",
        "{user} can choose among {candidates} ; the choice is",
        "recommend one of {candidates} to {user}",
    ),
}


class POD(CodeRecommender):
    """Each task has m learned vectors in front of its prompts, and sentences drawn at random.

    Words of a sentence are no whole words here, items and users are. The data have no reviews, so the
    paper's third task, explanations, is not there. An epoch reads each user once in each task.
    """

    learning_rate_key = "pod_learning_rate"
    keys = OWN.names
    separator = ""
    words_are_whole = False

    @staticmethod
    def sentences_for(config) -> Sequence[str]:
        """Those of all tasks, one task after the other."""
        return [line for task in config["pod_tasks"] for line in SENTENCES[task]]

    @property
    def _of_tasks(self) -> list[range]:
        """The numbers of each task's sentences."""
        ends = np.cumsum([len(SENTENCES[task]) for task in self.settings["pod_tasks"]]).tolist()
        return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def make_reader(self) -> CodeReader:
        """As P5's, with the vectors of all tasks."""
        n_vectors = len(self.settings["pod_tasks"]) * self.settings["pod_vectors"]
        seed = self.settings["seed"]
        return self.source.reader(self.vocabulary, self.words_are_whole, seed, n_vectors)

    def leading(self) -> dict[int, Segment]:
        """Each task's vectors, before all of its sentences."""
        from recbole_tslrec.language_model.prompts.segments import Soft

        size = self.settings["pod_vectors"]
        if not size:
            return {}
        parts = enumerate(self._of_tasks)
        return {number: Soft(task * size, size) for task, part in parts for number in part}

    def task(self, dataset) -> Task:
        """What to learn: of every user a segment of the training history, and a choice of candidates.

        Args:
            dataset: RecBole's augmented training data set.
        """
        histories, settings = training_histories(dataset), self.settings
        histories = histories.of(self.learned_users(dataset, histories.user_ids))
        users = self.users_written(histories.user_ids)
        _, sizes = self.vocabulary.items()
        room = self._room(users, int(sizes.max()))
        candidates = (sizes, settings["pod_candidates"], room, settings["seed"])
        examples = Segments(histories, users, self._of_tasks, *candidates)
        # Candidates are about as long in every epoch.
        n_users, others = len(histories), range(1, len(self._of_tasks))
        items = [[longest_segment(history[:-1], sizes, self.most_items) for history in histories]]
        items += [[examples[task * n_users + row][2] for row in range(n_users)] for task in others]
        pairs = zip(self._of_tasks, items, strict=True)
        lengths = [self.most_positions(part, users, of_task) for part, of_task in pairs]
        return self.task_of(examples, np.concatenate(lengths), "users' segments")

    def _room(self, users: np.ndarray, largest: int) -> np.ndarray:
        """The positions that are left for candidates in the longest sentence that has them. [n_users]

        Args:
            users: their token ids, [n_users, L] int64.
            largest: the positions of the longest item.

        Raises:
            ValueError: two candidates do not fit, or nothing but the words does.
        """
        room = np.full(len(users), self.source.context_length)
        for part in self._of_tasks[1:]:
            room -= self.most_positions(part, users, [np.empty(0, dtype=np.int64)] * len(users))
            if room.min(initial=2 * largest) < 2 * largest:
                raise ValueError(
                    f"pod_candidates: two of them, of up to {largest} positions each, do not fit "
                    f"beside the words and the [{self.settings['pod_vectors']}] learned vectors. Set "
                    f"pod_vectors to fewer, or pod_tasks=['sequential']."
                )
        return room
