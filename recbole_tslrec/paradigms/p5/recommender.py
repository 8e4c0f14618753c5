"""What P5 and POD share: a T5 writes item codes, and all items are ranked by their codes' likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.backbones.registry import BACKBONES, Backbone
from recbole_tslrec.config.key import result_values
from recbole_tslrec.evaluation.candidates import score_each_user_once
from recbole_tslrec.language_model.task import Task
from recbole_tslrec.paradigms.p5.examples import user_numbers
from recbole_tslrec.paradigms.p5.item_codes import number_codes
from recbole_tslrec.paradigms.p5.keys import EMBEDDING
from recbole_tslrec.paradigms.p5.language_model import CodeLanguageModel
from recbole_tslrec.paradigms.p5.prompts import Prompts, words_of
from recbole_tslrec.paradigms.p5.stages import codes_stage
from recbole_tslrec.paradigms.p5.vocabulary import Vocabulary
from recbole_tslrec.recbole_bridge.language_model_recommender import LanguageModelRecommender
from recbole_tslrec.recbole_bridge.passes import POSITIONS_A_PASS
from recbole_tslrec.store.arrays import arrays_hash

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Segment
    from recbole_tslrec.language_model.trie import Trie
    from recbole_tslrec.paradigms.p5.writer import CodeReader, CodeWriter
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage

# The most numbers of the prompts' states that an evaluation copies at once for the nodes of a trie. It
# changes speed and memory.
_COPIED_AT_ONCE = 2**23
# The keys on which the trained weights depend, and what is made of them.
_KEYS = (
    *("sft_epochs", "sft_batch_positions", "sft_optimizer", "sft_stopping_step"),
    *("item_code", "code_max_history", "code_score"),
)


class CodeRecommender(LanguageModelRecommender):
    """A prompt names the user and the codes of the history; the answer is the next item's code.

    All weights of a T5 are trained. An item's score is the log-likelihood of its code, exact for every
    item: the codes form a trie, each of whose inner nodes is decoded once a user.

    A state dict holds all weights and the codes; the codes decide how large the vocabulary is.

    Attributes:
        backbone: none; see ``backbone_for``.
        knows_users: a prompt says a user's number, which is another's where there are other users.
        keys: its own keys, on which the trained weights depend.
        separator: the words between two items.
        words_are_whole: whether the words of a prompt are whole words as users and items are.

    Raises:
        ValueError, OSError, ModuleNotFoundError: the language model cannot serve; before any training.
    """

    backbone = None
    knows_users = True
    weight_decay = 0.01
    kept = ("codes",)
    keys: ClassVar[tuple[str, ...]]
    separator: ClassVar[str]
    words_are_whole: ClassVar[bool]

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.settings = result_values(config, (*_KEYS, *self.keys)) | {"seed": config["seed"]}
        tokens = dataset.field2id_token[dataset.uid_field].tolist()
        numbers = torch.from_numpy(user_numbers(tokens))
        self.register_buffer("user_numbers", numbers, persistent=False)
        self.sentences = self.sentences_for(config)
        texts = [*map(words_of, self.sentences), self.separator]
        self.source = CodeLanguageModel.of(config, texts)
        untrained = np.arange(self.n_items - 1)  # until prepare, or a checkpoint
        self.take_codes(torch.from_numpy(number_codes(untrained)))
        self.register_load_state_dict_pre_hook(_take_stored_codes)

    @staticmethod
    def sentences_for(config) -> Sequence[str]:
        """What the prompts say; the first is the tests'."""
        raise NotImplementedError

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def backbone_for(config: Mapping[str, Any]) -> Backbone | None:
        """The backbone whose item embeddings make the codes; most codes are made without."""
        return BACKBONES["SASRec"] if config["item_code"] == EMBEDDING else None

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        return (codes_stage(config),)

    def prepare(self, pipeline: Pipeline) -> None:
        """Take the items' codes; the model starts anew, with a vocabulary of their tokens."""
        self.take_codes(pipeline.stage(codes_stage(pipeline.config)).item_codes())

    def take_codes(self, codes: Tensor) -> None:
        """Make vocabulary, language model and prompts for codes, [n_items - 1, L] int64."""
        padding = torch.full_like(codes[:1], -1)
        self.register_buffer("codes", torch.cat([padding, codes]).to(self.device))
        for made_of_the_last_codes in ("prompts", "trie"):
            self.__dict__.pop(made_of_the_last_codes, None)
        self.reader = self.make_reader().to(self.device)

    def make_reader(self) -> CodeReader:
        """The language model before training, with rows for all that the vocabulary has."""
        return self.source.reader(self.vocabulary, self.words_are_whole, self.settings["seed"])

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.source.words, self.source.starts_word, self.codes.cpu().numpy())

    @property
    def most_items(self) -> int:
        """The most items of a history that enter a prompt."""
        return min(self.settings["code_max_history"], self.max_seq_length)

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(
            self.vocabulary,
            self.sentences,
            self.separator,
            self.most_items,
            self.source.context_length,
            self.leading(),
        )

    def leading(self) -> dict[int, Segment]:
        """What stands before the sentences, by their numbers."""
        return {}

    @cached_property
    def trie(self) -> Trie:
        """Of the codes of all items but padding, as token ids."""
        from recbole_tslrec.language_model.trie import Trie

        return Trie(self.vocabulary.answers()[1:])

    def users_written(self, users: np.ndarray) -> np.ndarray:
        """The token ids of users, by internal ids. [n] -> [n, L]"""
        numbers = self.user_numbers.cpu().numpy()
        return self.vocabulary.users(numbers[users], len(numbers) - 1)

    def most_positions(
        self, sentences: Sequence[int], users: np.ndarray, items: Sequence[np.ndarray]
    ) -> np.ndarray:
        """The positions of prompts in the longest of some sentences, [n] int64."""
        longest = self.prompts.longest_of(sentences)
        return self.prompts.lengths(np.full(len(users), longest), users, items)

    def task_of(self, examples, lengths: np.ndarray, unit: str) -> Task:
        """Examples as the training loop takes them."""
        return Task(
            name=type(self).__name__,
            unit=unit,
            learning_rate_key=self.learning_rate_key,
            examples=examples,
            lengths=lengths,
            collate=self.prompts.collate,
        )

    def learner(self) -> CodeWriter:
        """What the training loop trains; it shares this model's weights."""
        from recbole_tslrec.paradigms.p5.writer import CodeWriter

        return CodeWriter(self.reader)

    def made_from(self, task: Task) -> dict[str, Any]:
        """What the trained weights depend on, for a fingerprint; after ``prepare``."""
        return {
            "settings": self.settings,
            "language_model": self.source.identity,
            "codes": arrays_hash(self.codes.cpu().numpy()),
            "examples": task.examples.content_hash(),
        }

    # ---- RecBole's interface --------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """The mean over a batch of each answer's mean loss a token."""
        users, items = self._read(interaction)
        sentences = np.zeros(len(items), dtype=np.int64)
        targets = interaction[self.POS_ITEM_ID].cpu().numpy()
        batch = self.prompts.collate(list(zip(sentences, users, items, targets, strict=True)))
        return self.learner()(**self._here(batch))["error"].mean()

    def predict(self, interaction) -> Tensor:
        """The score of each row's own item; a prompt is read once, whatever the number of items. [B]"""
        return score_each_user_once(self, interaction)

    def full_sort_predict(self, interaction) -> Tensor:
        """The scores of all items. [B, n_items]"""
        from recbole_tslrec.language_model.trie import log_likelihoods

        users, items = self._read(interaction)
        positions = self.prompts.lengths(np.zeros(len(items), dtype=np.int64), users, items)
        order = np.argsort(positions, kind="stable")  # little padding
        a_pass = max(1, POSITIONS_A_PASS // int(positions.max()))
        scores = torch.empty(len(items), self.n_items, device=self.device)
        lengths = torch.from_numpy(self.trie.lengths).to(self.device)
        for some in np.split(order, range(a_pass, len(order), a_pass)):
            sentences = np.zeros(len(some), dtype=np.int64)
            batch = self.prompts.batch(sentences, users[some], [items[row] for row in some])
            with torch.no_grad(), self.source.autocast():
                states = self.reader(**self._here(batch))
                rows_at_once = max(1, _COPIED_AT_ONCE // states.hidden[0].numel())
                found = log_likelihoods(self.reader.language_model, states, self.trie, rows_at_once)
            scores[torch.from_numpy(some), 1:] = self._scored(found, lengths)
        scores[:, 0] = scores[:, 1:].amin(dim=1)  # padding is never ranked
        return scores

    def _scored(self, log_likelihood: Tensor, lengths: Tensor) -> Tensor:
        return log_likelihood / lengths if self.settings["code_score"] == "mean" else log_likelihood

    def _read(self, interaction) -> tuple[np.ndarray, list[np.ndarray]]:
        """The users as token ids and the histories, internal ids, of RecBole's rows."""
        lengths = interaction[self.ITEM_SEQ_LEN].tolist()
        rows = zip(interaction[self.ITEM_SEQ].cpu().numpy(), lengths, strict=True)
        users = self.users_written(interaction[self.USER_ID].cpu().numpy())
        return users, [row[:length] for row, length in rows]

    def _here(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: part.to(self.device) for name, part in batch.items()}


def _take_stored_codes(model: CodeRecommender, state: dict[str, Any], prefix: str, *_) -> None:
    """Make a model the vocabulary of the state dict that it is about to load."""
    codes = state.get(f"{prefix}codes")
    if codes is not None and not torch.equal(codes.cpu(), model.codes.cpu()):
        model.take_codes(codes[1:])
