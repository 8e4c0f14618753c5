"""E4SRec: the language model itself recommends, one pass a user; the peer that TSLRec is held against.

Reference:
    Xinhang Li et al. "E4SRec: An Elegant Effective Efficient Extensible Solution of Large Language
    Models for Sequential Recommendation." arXiv 2312.02443.
    Reference code: https://github.com/HestiaSky/E4SRec
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.config.devices import bf16_is_fast
from recbole_tslrec.config.key import result_values
from recbole_tslrec.data.item_catalogue import catalogue_of
from recbole_tslrec.evaluation.candidates import score_each_user_once
from recbole_tslrec.language_model.item_inputs import (
    has_words,
    slot_inputs,
    slots_hold_text,
    within_a_sentence,
)
from recbole_tslrec.language_model.keys import ITEM_INPUTS
from recbole_tslrec.language_model.learner import TrainedParts
from recbole_tslrec.language_model.preflight import check_fine_tuning, check_language_model
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.language_model.reader import (
    make_prompt_for,
    make_reader,
    open_source_for,
    shared_if_possible,
)
from recbole_tslrec.language_model.task import Task
from recbole_tslrec.recbole_bridge.language_model_recommender import (
    LanguageModelRecommender,
    without_wrapper,
)
from recbole_tslrec.recbole_bridge.passes import POSITIONS_A_PASS
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.text_vectors import TextVectorsStage
from recbole_tslrec.store.arrays import arrays_hash

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage

_INSTRUCTION = "e4srec_instruction"
# The keys on which the trained weights depend, besides those that say where the language model is.
_KEYS = (
    *("llm_quantization", "llm_response", "llm_max_history", "llm_pooling"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("sft_epochs", "sft_batch_positions", "sft_optimizer", "sft_stopping_step"),
    *("max_examples_per_user", _INSTRUCTION, "e4srec_learning_rate"),
)


class E4SRec(LanguageModelRecommender):
    """The history's items in a prompt; the hidden state after them scores all items.

    The slots hold a linear projection of a trained SASRec's item embeddings, which stay frozen. A
    linear layer without bias turns the last hidden state into one score an item; the loss is the
    cross entropy with the next item. Trained are the adapters, the projection and the scoring layer.

    The item embeddings are in its state dict.

    Raises:
        ValueError, OSError, ModuleNotFoundError: the language model cannot serve; before any training.
    """

    backbone = BACKBONES["SASRec"]
    learning_rate_key = "e4srec_learning_rate"
    kept = ("reader.item_embeddings",)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        words = config[_INSTRUCTION], _INSTRUCTION
        check_language_model(config, *words)
        check_fine_tuning(config)
        self.settings = {key: config[key] for key in (*_KEYS, "seed")}
        # Of no use to a checkpoint. Where words are from does not count: they do.
        self._draws = result_values(config, ["llm_gradient_checkpointing", *ITEM_INPUTS.names])
        if has_words(config):
            self._draws |= result_values(config, ["item_text_tokens"])
        self.source = open_source_for(config)
        table = getattr(self.backbone.model_class(config, dataset), self.backbone.item_table)
        self._width = table.embedding_dim
        width = self._slot_width(config)
        untrained = torch.ones(self.n_items, width)  # until prepare, or a checkpoint
        self.reader = make_reader(config, self.source, untrained, with_adapters=True)
        texts = None
        if has_words(config):
            tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
            catalogue = catalogue_of(config, tokens)
            self.texts_fingerprint, texts = catalogue.fingerprint, catalogue.of(tokens)
        prompt = make_prompt_for(config, self.source, *words, texts)
        self.prompt = shared_if_possible(prompt, self.reader, config, _INSTRUCTION, training=True)
        self.reader.language_model = without_wrapper(self.reader.language_model)
        self.reader.keep_item_embeddings()
        # One score for each internal id, padding's among them, as RecBole's models have it.
        self.item_scores = nn.Linear(self.source.hidden_size, self.n_items, bias=False)

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        return (BackboneStage, *((TextVectorsStage,) if slots_hold_text(config) else ()))

    def _slot_width(self, config) -> int:
        """How many columns the table has that the slots project."""
        if not slots_hold_text(config):
            return self._width
        of_text = self.source.hidden_size
        return of_text if config["item_slots"] == "text" else self._width + of_text

    def prepare(self, pipeline: Pipeline) -> None:
        """Take what the slots project, to unit size as ``ItemPromptModel`` has it.

        Raises:
            ValueError: a given ``backbone_checkpoint`` has embeddings of another width.
        """
        embeddings = pipeline.stage(BackboneStage).item_embeddings()
        if embeddings.shape[1] != self._width:
            raise ValueError(
                f"backbone_checkpoint: its item embeddings have {embeddings.shape[1]} columns, and "
                f"{self.backbone.name} under this experiment's settings has {self._width}. Give "
                f"the settings it was trained with."
            )
        config, texts = pipeline.config, None
        if slots_hold_text(config):
            texts = pipeline.stage(TextVectorsStage).text_vectors()
        # As they are: unit size is a sum over all, and its last digits hang on the number of threads.
        given = (embeddings,) if texts is None else (embeddings, texts)
        self._items_hash = arrays_hash(*(vectors.numpy() for vectors in given))
        self.reader.take_item_embeddings(slot_inputs(config, embeddings, texts))

    def task(self, dataset) -> Task:
        """What to learn: the next item of every user's latest ``max_examples_per_user`` training rows.

        Args:
            dataset: RecBole's augmented training data set, a row an interaction.
        """
        from recbole_tslrec.language_model.batches import instruction_positions, own_lengths

        chosen = self.learned_rows(dataset, self.settings["max_examples_per_user"])
        rows = dataset.inter_feat[chosen]
        fields = (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID)
        examples = NextItems(*(rows[field].numpy() for field in fields))
        return Task(
            name=type(self).__name__,
            unit="interactions",
            learning_rate_key=self.learning_rate_key,
            examples=examples,
            lengths=own_lengths(self.prompt, of_histories([history for history, _ in examples])),
            collate=partial(_collate, self.prompt),
            more_positions=instruction_positions(self.prompt),
        )

    def learner(self) -> NextItemModel:
        """What the training loop trains; it shares this model's weights."""
        return NextItemModel(self.reader, self.item_scores)

    def made_from(self, task: Task) -> dict[str, Any]:
        """What the trained weights depend on, for a fingerprint; after ``prepare``."""
        texts = {}
        if self.texts_fingerprint is not None:
            texts = {"texts": self.texts_fingerprint, **within_a_sentence(self.source.tokenizer)}
        return texts | {
            "settings": self.settings | self._draws,
            "language_model": self.source.identity,
            "item_embeddings": self._items_hash,
            "examples": task.examples.content_hash(),
        }

    # ---- RecBole's interface --------------------------------------------------------------------

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The users' last hidden states.

        Args:
            item_seq: int64 [B, MAX_ITEM_LIST_LENGTH], padded with 0 on the right.
            item_seq_len: int64 [B], 1 or more.

        Returns:
            [B, hidden] float32.
        """
        lengths = item_seq_len.cpu().numpy()
        rows = zip(item_seq.cpu().numpy(), lengths, strict=True)
        histories = [row[:length] for row, length in rows]
        if torch.is_grad_enabled():
            return self._read(histories)
        # Evaluation has thousands of users in a batch: by length, so that little is padding.
        positions = replace(self.prompt, shared_prefix=False).lengths(of_histories(histories))
        order = np.lexsort((lengths, positions))
        size = max(1, POSITIONS_A_PASS // int(positions.max()))
        hidden = torch.cat(
            [
                self._read([histories[user] for user in order[start : start + size]])
                for start in range(0, len(order), size)
            ]
        )
        return hidden[torch.from_numpy(np.argsort(order)).to(hidden.device)]

    def _read(self, histories: list[np.ndarray]) -> Tensor:
        """One pass of the language model. [B, hidden] float32"""
        device = self.item_scores.weight.device
        batch = self.prompt.batch(of_histories(histories))
        batch = {name: part.to(device) for name, part in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
            return self.reader(**batch)

    def calculate_loss(self, interaction) -> Tensor:
        """The cross entropy with the next item over all items, mean over the batch."""
        scores = self._scores(interaction)
        return F.cross_entropy(scores, interaction[self.POS_ITEM_ID])

    def predict(self, interaction) -> Tensor:
        """The score of each row's own item. [B]"""
        return score_each_user_once(self, interaction)

    def full_sort_predict(self, interaction) -> Tensor:
        """The scores of all items. [B, n_items]"""
        return self._scores(interaction)

    def _scores(self, interaction) -> Tensor:
        hidden = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.item_scores(hidden)


class NextItems:
    """Examples for the training loop: a history and the item that came next.

    Args:
        histories: int64 [n, MAX_ITEM_LIST_LENGTH], padded on the right.
        lengths: the items of each history, int64 [n].
        targets: int64 [n].
    """

    def __init__(self, histories: np.ndarray, lengths: np.ndarray, targets: np.ndarray):
        self.histories, self.lengths, self.targets = histories, lengths, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return self.histories[number, : self.lengths[number]], self.targets[number]

    def content_hash(self) -> str:
        """A hash of all of them in their order."""
        return arrays_hash(self.histories, self.lengths, self.targets)


def _collate(prompt: Template, examples: Sequence[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
    histories, targets = zip(*examples, strict=True)
    return prompt.batch(of_histories(histories)) | {"target": torch.tensor(targets)}


class NextItemModel(TrainedParts):
    """What is trained of E4SRec, as the training loop takes it.

    Args:
        reader: the language model that reads items.
        item_scores: from its hidden states to a score for each item.
    """

    def __init__(self, reader: nn.Module, item_scores: nn.Linear):
        super().__init__(reader)
        self.item_scores = item_scores

    def forward(self, target: Tensor, **prompts: Tensor) -> dict[str, Tensor]:
        """The loss of a batch of interactions.

        Args:
            target: the next items, int64 [B].
            prompts: as ``Template.batch`` makes them.

        Returns:
            ``error`` [B], the cross entropy of each over all items.
        """
        hidden = self.reader(**prompts)
        with torch.autocast(hidden.device.type, enabled=False):  # as an evaluation scores
            scores = self.item_scores(hidden)
        return {"error": F.cross_entropy(scores, target, reduction="none")}
