"""DELRec: soft prompts that imitate a recommender, then a language model tuned to choose the next item.

Reference:
    Haoyi Zhang, Guohao Sun et al. "DELRec: Distilling Sequential Pattern to Enhance LLMs-based
    Sequential Recommendation." arXiv 2406.11156.
    Reference code: https://github.com/haoge6660101/DELRec_hao
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.config.key import result_values
from recbole_tslrec.data.item_catalogue import catalogue_of
from recbole_tslrec.data.keys import CANDIDATES, ITEM_TEXT
from recbole_tslrec.language_model.keys import ADAPTERS, EXAMPLES, MEMORY, OPTIMISATION, STOPPING
from recbole_tslrec.language_model.task import Task
from recbole_tslrec.paradigms.delrec.keys import OWN, PROMPTS
from recbole_tslrec.paradigms.delrec.language_model import PromptedModel, checked_source_for
from recbole_tslrec.paradigms.delrec.stages import SoftPromptsStage
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels
from recbole_tslrec.recbole_bridge.candidate_examples import (
    Example,
    examples_of,
    latest_examples,
    right_places,
    values_of,
    with_random_negatives,
)
from recbole_tslrec.recbole_bridge.passes import scores_in_passes
from recbole_tslrec.recbole_bridge.reranker import Reranker

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.paradigms.delrec.verbalizers import Verbalizer
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage

# The keys on which the trained weights depend, besides those that say where the language model is and
# those of the first stage, which count by its result.
_KEYS = (
    "llm_quantization",
    *(MEMORY.names + ADAPTERS.names + STOPPING.names + OPTIMISATION.names + EXAMPLES.names),
    *(ITEM_TEXT.names + CANDIDATES.names + PROMPTS.names + OWN.names),
)


class DELRec(Reranker):
    """A history and a backbone's candidates, behind vectors that have learned how the backbone ranks.

    Trained are adapters on a frozen language model; with slots the projection of e_v as well. The
    vectors are the first stage's, and fixed.

    Raises:
        ValueError, OSError, ModuleNotFoundError: the language model, the items' texts or the candidates
            cannot serve; before any training.
    """

    learning_rate_key = "delrec_learning_rate"
    kept = ("retriever.", "ranker.reader.item_embeddings", "ranker.reader.soft_vectors")

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.source = checked_source_for(config)
        unread = () if config["delrec_items"] == "text" else ITEM_TEXT.names
        keys = [key for key in _KEYS if key not in unread]
        self.settings = result_values(config, keys) | {"seed": config["seed"]}
        self.show_progress = config["show_progress"]
        self.has_stage = config["delrec_soft_prompts"] == "trained"
        tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
        texts = catalogue_of(config, tokens) if config["delrec_items"] == "text" else None
        self.texts_fingerprint = None if texts is None else texts.fingerprint
        prompted = PromptedModel.of(config, self.source, self.backbone.name, texts, tokens)
        empty = torch.ones(self.n_items, self.retriever_embeddings.shape[1])
        self.ranker, prompts = prompted.ranker(empty, with_adapters=True)
        self.template = prompts.choice

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        trained = config["delrec_soft_prompts"] == "trained"
        return (*Reranker.stages(config), *([SoftPromptsStage] if trained else []))

    def prepare(self, pipeline: Pipeline) -> None:
        """Take the trained backbone, its item embeddings for slots, and the learned vectors.

        Raises:
            ValueError: as ``Reranker.prepare``, or the vectors are not of this backbone.
        """
        self.prepare_to_measure(pipeline)
        if self.has_stage:
            pipeline.stage(SoftPromptsStage).give(self.ranker)

    def prepare_to_measure(self, pipeline: Pipeline) -> None:
        """As ``prepare``; the vectors stay as they start."""
        super().prepare(pipeline)
        if self.settings["delrec_items"] == "slots":
            self.ranker.reader.take_item_embeddings(self.retriever_embeddings)

    def said_beside_figures(self) -> str:
        """As of every reranker, with what became of the soft prompts."""
        control = "" if self.has_stage else "; control: soft prompts random"
        return super().said_beside_figures() + control

    def task(self, dataset) -> Task:
        """What to learn: the next item of every user's latest training rows, among random ones."""
        from recbole_tslrec.language_model.batches import instruction_positions

        generator = np.random.default_rng(self.settings["seed"])
        draw = partial(
            with_random_negatives, dataset, n_candidates=self.n_candidates, generator=generator
        )
        examples, verbalizer = latest_examples(self, dataset, draw), self.ranker.verbalizer
        own = [examples[number] for number in range(len(examples))]
        return Task(
            name=type(self).__name__,
            unit="interactions",
            learning_rate_key=self.learning_rate_key,
            examples=examples,
            lengths=verbalizer.lengths(self.template, values_of(own)),
            collate=partial(_collate, self.template, verbalizer),
            more_positions=instruction_positions(self.template),
        )

    def made_from(self, task: Task) -> dict[str, Any]:
        """What the trained weights depend on, for a fingerprint; after ``prepare``."""
        vectors = self.ranker.reader.soft_vectors.cpu().numpy()
        return super().made_from(task) | {
            "soft_vectors": hashlib.sha256(vectors.tobytes()).hexdigest(),
        }

    # ---- what a reranker does -------------------------------------------------------------------

    def rerank(self, interaction: Interaction, candidates: Tensor) -> Tensor:
        """The candidates' scores by the verbalizer, [B, k] float32; see ``Reranker.rerank``."""
        examples, verbalizer = examples_of(self, interaction, candidates), self.ranker.verbalizer
        positions = self.template.n_leading + verbalizer.lengths(self.template, values_of(examples))

        def scores(part: np.ndarray) -> Tensor:
            values = values_of([examples[place] for place in part])
            batch = verbalizer.batch(self.template, values)
            return self.ranker.scores(
                {name: tensor.to(candidates.device) for name, tensor in batch.items()}
            )

        return scores_in_passes(positions, scores, candidates, self.show_progress)


def _collate(
    template: Template, verbalizer: Verbalizer, examples: Sequence[Example]
) -> dict[str, Tensor]:
    """A batch for ``CandidateRanker``."""
    batch = verbalizer.batch(template, values_of(examples))
    return batch | right_places([own for _, *own in examples])


MODELS = BackboneModels(__name__, {"DELRec": DELRec})
