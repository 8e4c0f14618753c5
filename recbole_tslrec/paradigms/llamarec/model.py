"""LlamaRec: a language model re-ranks a retriever's candidates by the letters they stand under.

Reference:
    Zhenrui Yue et al. "LlamaRec: Two-Stage Recommendation using Large Language Models for Ranking."
    PGAI@CIKM 2023, arXiv 2311.02089.
    Reference code: https://github.com/Yueeeeeeee/LlamaRec
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from recbole_tslrec.config.key import result_values
from recbole_tslrec.data.item_catalogue import catalogue_of
from recbole_tslrec.data.keys import CANDIDATES, ITEM_TEXT
from recbole_tslrec.language_model.keys import ADAPTERS, EXAMPLES, MEMORY, OPTIMISATION, STOPPING
from recbole_tslrec.language_model.preflight import check_fine_tuning, check_source
from recbole_tslrec.language_model.reader import open_source_for, shared_if_possible
from recbole_tslrec.language_model.task import Task
from recbole_tslrec.paradigms.llamarec.examples import (
    collate,
    values_of,
    with_retrieved_negatives,
)
from recbole_tslrec.paradigms.llamarec.keys import OWN
from recbole_tslrec.paradigms.llamarec.ranker import make_ranker
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels
from recbole_tslrec.recbole_bridge.candidate_examples import (
    CandidateExamples,
    examples_of,
    latest_examples,
    with_random_negatives,
)
from recbole_tslrec.recbole_bridge.passes import scores_in_passes
from recbole_tslrec.recbole_bridge.reranker import Reranker
from recbole_tslrec.stages.candidates import CandidatesStage

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_tslrec.language_model.prompts.segments import TokenTable
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage

# The keys on which the trained weights depend, besides those that say where the language model is.
_KEYS = (
    *("llm_quantization", "llm_pooling"),
    *(MEMORY.names + ADAPTERS.names + STOPPING.names + OPTIMISATION.names + EXAMPLES.names),
    *(ITEM_TEXT.names + CANDIDATES.names + OWN.names),
)


class LlamaRec(Reranker):
    """A history and a retriever's candidates in one prompt; logits of the next letter rank them.

    Trained are adapters on a frozen language model; with slots the projection of e_v as well, and with
    ``llamarec_head: linear`` the layer that scores.

    Raises:
        ValueError, OSError, ModuleNotFoundError: the language model, the items' texts or the candidates
            cannot serve; before any training.
    """

    learning_rate_key = "llamarec_learning_rate"
    kept = ("retriever.", "ranker.reader.item_embeddings")

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        from recbole_tslrec.paradigms.llamarec.prompt import (
            answers_of,
            check_template,
            make_template,
        )

        self.source = open_source_for(config)
        check_source(config, self.source)
        check_fine_tuning(config)
        self.settings = result_values(config, _KEYS) | {"seed": config["seed"]}
        self.show_progress = config["show_progress"]
        texts = self._read_texts(config, dataset)
        self.answers = None
        if self.settings["llamarec_head"] == "letters":
            with_end = self.settings["llamarec_loss"] == "vocabulary"
            self.answers = answers_of(self.source, self.n_candidates, with_end)
        template = make_template(
            self.source,
            self.settings["llamarec_instruction"],
            texts,
            self.n_candidates,
            min(self.settings["llamarec_max_history"], config["MAX_ITEM_LIST_LENGTH"]),
            closed=self.answers is None,
        )
        check_template(self.source, template, self.n_candidates)
        width = self.retriever_embeddings.shape[1]
        self.ranker = make_ranker(config, self.source, self.answers, self.n_items, width)
        self.template = shared_if_possible(
            template, self.ranker.reader, config, "llamarec_instruction", training=True
        )
        self._retrieved: Tensor | None = None  # for the training rows

    def _read_texts(self, config, dataset) -> TokenTable | None:
        """The items' texts by internal id; None for slots."""
        if self.settings["llamarec_items"] == "slots":
            return None
        from recbole_tslrec.language_model.verbalizer import item_texts

        tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
        catalogue = catalogue_of(config, tokens)
        self.texts_fingerprint = catalogue.fingerprint
        return item_texts(config, self.source, catalogue, tokens)

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        retrieved = config["llamarec_negatives"] == "retrieved"
        return (*Reranker.stages(config), *([CandidatesStage] if retrieved else []))

    def prepare(self, pipeline: Pipeline) -> None:
        """Take the trained backbone, its item embeddings for slots, its candidates as negatives.

        Raises:
            ValueError: as ``Reranker.prepare``.
        """
        super().prepare(pipeline)
        if self.settings["llamarec_items"] == "slots":
            self.ranker.reader.take_item_embeddings(self.retriever_embeddings)
        if self.settings["llamarec_negatives"] == "retrieved":
            self._retrieved = pipeline.stage(CandidatesStage).row_candidates()

    def task(self, dataset) -> Task:
        """What to learn: the letter of the next item, of every user's latest training rows."""
        from recbole_tslrec.language_model.batches import (
            instruction_positions,
            lengths_in_blocks,
            own_lengths,
        )
        from recbole_tslrec.language_model.prompts.template import with_answer

        examples = self._examples(dataset)
        template, answers = self.template, None
        if self.settings["llamarec_loss"] == "vocabulary":
            template, answers = with_answer(template), self.answers
        return Task(
            name=type(self).__name__,
            unit="interactions",
            learning_rate_key=self.learning_rate_key,
            examples=examples,
            lengths=lengths_in_blocks(
                examples, lambda some: own_lengths(template, values_of(some, answers))
            ),
            collate=partial(collate, template, answers),
            more_positions=instruction_positions(template),
        )

    def _examples(self, dataset) -> CandidateExamples:
        generator = np.random.default_rng(self.settings["seed"])

        def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self._retrieved is None:
                return with_random_negatives(dataset, rows, self.n_candidates, generator)
            targets = dataset.inter_feat[self.POS_ITEM_ID][rows].numpy()
            return with_retrieved_negatives(self._retrieved[rows].numpy(), targets, generator)

        return latest_examples(self, dataset, draw)

    # ---- what a reranker does -------------------------------------------------------------------

    def rerank(self, interaction: Interaction, candidates: Tensor) -> Tensor:
        """The logits of the candidates' letters, [B, k] float32; see ``Reranker.rerank``."""
        examples = examples_of(self, interaction, candidates)
        positions = replace(self.template, shared_prefix=False).lengths(values_of(examples))

        def scores(part: np.ndarray) -> Tensor:
            batch = self.template.batch(values_of([examples[place] for place in part]))
            return self.ranker.logits(
                **{name: tensor.to(candidates.device) for name, tensor in batch.items()}
            )

        return scores_in_passes(positions, scores, candidates, self.show_progress)


MODELS = BackboneModels(__name__, {"LlamaRec": LlamaRec})
