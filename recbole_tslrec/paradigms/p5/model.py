"""P5: a sentence with the user and the codes of the history; the next item's code is the answer.

References:
    Shijie Geng et al. "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized
    Prompt & Predict Paradigm (P5)." RecSys 2022, arXiv 2203.13366.
    Wenyue Hua et al. "How to Index Item IDs for Recommendation Foundation Models." SIGIR-AP 2023,
    arXiv 2305.06569. Reference code: https://github.com/Wenyueh/LLM-RecSys-ID
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recbole_tslrec.paradigms.p5.examples import Interactions
from recbole_tslrec.paradigms.p5.prompts import SENTENCES, SEPARATOR
from recbole_tslrec.paradigms.p5.recommender import CodeRecommender

if TYPE_CHECKING:
    from recbole_tslrec.language_model.task import Task


class P5(CodeRecommender):
    """Every training interaction is an example, in a sentence drawn anew each epoch.

    All words of a sentence are whole words, as users and items are.
    """

    learning_rate_key = "p5_learning_rate"
    schedule = "linear"
    keys = ("p5_learning_rate", "max_examples_per_user")
    separator = SEPARATOR
    words_are_whole = True

    @staticmethod
    def sentences_for(config) -> Sequence[str]:
        """Ten sentences of our own."""
        return SENTENCES

    def task(self, dataset) -> Task:
        """What to learn: the code of every training interaction's item.

        Args:
            dataset: RecBole's augmented training data set, a row an interaction.
        """
        chosen = self.learned_rows(dataset, self.settings["max_examples_per_user"])
        rows = dataset.inter_feat[chosen]
        fields = (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID)
        histories, lengths, targets = (rows[field].numpy() for field in fields)
        users = self.users_written(rows[self.USER_ID].numpy())
        settings = (len(self.sentences), self.settings["seed"])
        examples = Interactions(users, histories, lengths, targets, *settings)
        items = [row[:length] for row, length in zip(histories, lengths, strict=True)]
        positions = self.most_positions(range(len(self.sentences)), users, items)
        return self.task_of(examples, positions, "interactions")
