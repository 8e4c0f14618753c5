"""LLM-TRSR: of each candidate a language model says yes or no, from a summary of the history.

Reference:
    Zhi Zheng et al. "Harnessing Large Language Models for Text-Rich Sequential Recommendation."
    WWW 2024, arXiv 2403.13325.
    Reference code: https://github.com/zhengzhi-1997/LLM-TRSR
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_tslrec.config.key import result_values
from recbole_tslrec.data.item_catalogue import catalogue_of
from recbole_tslrec.data.keys import CANDIDATES, ITEM_TEXT
from recbole_tslrec.evaluation.candidates import negatives_of
from recbole_tslrec.language_model.keys import ADAPTERS, MEMORY, OPTIMISATION, STOPPING
from recbole_tslrec.language_model.preflight import check_fine_tuning, check_source
from recbole_tslrec.language_model.reader import (
    open_source_for,
    shared_if_possible,
    tokenised_texts,
)
from recbole_tslrec.language_model.task import Task
from recbole_tslrec.paradigms.llmtrsr.examples import Example, YesNoExamples, collate, values_of
from recbole_tslrec.paradigms.llmtrsr.kept_summaries import KeptSummaries, as_tokens, stand_ins
from recbole_tslrec.paradigms.llmtrsr.keys import OWN
from recbole_tslrec.paradigms.llmtrsr.ranker import make_ranker
from recbole_tslrec.paradigms.llmtrsr.stages import SummariesStage
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels
from recbole_tslrec.recbole_bridge.passes import scores_in_passes
from recbole_tslrec.recbole_bridge.reranker import Reranker

if TYPE_CHECKING:
    from recbole.data.interaction import Interaction

    from recbole_tslrec.language_model.prompts.segments import TokenTable
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage

# The keys on which the trained weights depend, besides those that say where the language model is and
# those of the summaries, which count by the stage.
_KEYS = (
    "llm_quantization",
    *(MEMORY.names + ADAPTERS.names + STOPPING.names + OPTIMISATION.names),
    *(ITEM_TEXT.names + CANDIDATES.names + OWN.names),
    *("trsr_summary", "trsr_summary_tokens"),
)


class LLMTRSR(Reranker):
    """Summary, latest items and one candidate in a prompt; the logits of yes and no rank candidates.

    Trained are adapters on a frozen language model.

    Attributes:
        summaries: of the users' histories; none before ``prepare``.

    Raises:
        ValueError, OSError, ModuleNotFoundError: the language model, the items' texts or the candidates
            cannot serve; before any training.
    """

    learning_rate_key = "trsr_learning_rate"
    weight_decay = 5e-4
    kept = ("retriever.", "summaries.")

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        from recbole_tslrec.language_model.encoder import trunk_of
        from recbole_tslrec.language_model.shared_prefix import can_continue_prefixes
        from recbole_tslrec.paradigms.llmtrsr.prompt import (
            answers_of,
            check_template,
            check_writes,
            make_template,
        )

        self.source = open_source_for(config)
        check_writes(self.source, "llm")
        check_source(config, self.source)
        check_fine_tuning(config)
        self.has_summary = config["trsr_summary"] != "none"
        self.knows_users = self.has_summary  # kept by their numbers
        self.instruction_key, unread = "trsr_instruction", {"trsr_instruction_alone"}
        if not self.has_summary:
            self.instruction_key = "trsr_instruction_alone"
            unread = {"trsr_instruction", "trsr_summary_tokens"}
        keys = [key for key in _KEYS if key not in unread]
        self.settings = result_values(config, keys) | {"seed": config["seed"]}
        self.show_progress = config["show_progress"]
        self.shuffles = config["trsr_control"] == "shuffled"
        texts = self._read_texts(config, dataset)
        self.answers = answers_of(self.source)
        most = self.settings["trsr_summary_tokens"] if self.has_summary else None
        instruction, recent = config[self.instruction_key], config["trsr_recent_items"]
        self.template = make_template(self.source, instruction, texts, recent, most)
        check_template(self.source, self.template, texts)
        self.texts = texts
        self.ranker = make_ranker(config, self.source, self.answers)
        # The prompt up to the candidate is read once a user, if the model allows it.
        trunk = trunk_of(self.ranker.reader.language_model)
        self.continues = can_continue_prefixes(trunk)
        self.trains_continuing = (
            self.settings["trsr_loss"] == "answer" and self.continues and self.ranker.reader.packs
        )
        self._of_training = self._template_of_training(config)
        self.summaries = KeptSummaries(config["MAX_ITEM_LIST_LENGTH"], config["seed"])

    def _template_of_training(self, config) -> Template:
        """The prompt as the loss reads it."""
        if self.trains_continuing:
            return self.template
        if self.settings["trsr_loss"] == "text":  # the answer stands behind, and so does the loss
            return replace(self.template, context_length=self.template.context_length - 1)
        reader = self.ranker.reader
        return shared_if_possible(
            self.template, reader, config, self.instruction_key, training=True
        )

    def _read_texts(self, config, dataset) -> TokenTable:
        """The items' texts by internal id."""
        tokens = dataset.field2id_token[dataset.iid_field][1:].tolist()
        catalogue = catalogue_of(config, tokens)
        self.texts_fingerprint = catalogue.fingerprint
        return tokenised_texts(config, self.source, catalogue.of(tokens))

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        summarised = config["trsr_summary"] != "none"
        return (*Reranker.stages(config), *([SummariesStage] if summarised else []))

    def prepare(self, pipeline: Pipeline) -> None:
        """Take the trained backbone and the summaries.

        Raises:
            ValueError: as ``Reranker.prepare``.
        """
        super().prepare(pipeline)
        if self.has_summary:
            stage = pipeline.stage(SummariesStage)
            most = self.settings["trsr_summary_tokens"]
            self.summaries.take(
                as_tokens(stage.histories, stage.texts(), self.source.tokenizer, most)
            )
            self.summaries.to(pipeline.config["device"])

    def prepare_to_measure(self, pipeline: Pipeline) -> None:
        """As ``prepare``; every summary is as long as it may be, of one word."""
        super().prepare(pipeline)
        if self.has_summary:
            words = np.full(self.settings["trsr_summary_tokens"], self.answers[0])
            rows = pipeline.stage(SummariesStage).histories
            self.summaries.take(stand_ins(rows, words))
            self.summaries.to(pipeline.config["device"])

    def said_beside_figures(self) -> str:
        """As of every reranker, with what became of the summaries."""
        control = "; control in tests: another user's summary" if self.shuffles else ""
        return (
            f"{super().said_beside_figures()}; summaries: {self.settings['trsr_summary']}{control}"
        )

    def task(self, dataset) -> Task:
        """What to learn: yes for each user's latest training item, no for a random one."""
        from recbole_tslrec.language_model.batches import lengths_in_blocks
        from recbole_tslrec.paradigms.llmtrsr.prompt import positions_of

        examples, template = self._examples(dataset), self._of_training

        def lengths(some: list[Example]) -> np.ndarray:
            return positions_of(template, values_of(some), self.texts, self.trains_continuing)

        shared = template.n_leading if template.shared_prefix else 0
        return Task(
            name=type(self).__name__,
            unit="users",
            learning_rate_key=self.learning_rate_key,
            examples=examples,
            lengths=lengths_in_blocks(examples, lengths),
            collate=partial(collate, template, self.trains_continuing),
            more_positions=(shared, 0),
        )

    def _examples(self, dataset) -> YesNoExamples:
        chosen = self.learned_rows(dataset, 1)
        rows = dataset.inter_feat[chosen]
        users, histories = self._read(rows)
        generator = np.random.default_rng(self.settings["seed"])
        negatives = negatives_of(dataset, chosen, 1, generator)[:, 0]
        summaries = self.summaries.of(users, histories, "training")
        return YesNoExamples(summaries, histories, rows[self.POS_ITEM_ID].numpy(), negatives)

    def _read(self, interaction: Interaction) -> tuple[list[int], list[np.ndarray]]:
        """The users and histories of some rows."""
        lengths = interaction[self.ITEM_SEQ_LEN].tolist()
        lists = interaction[self.ITEM_SEQ].cpu().numpy()
        histories = [items[:length] for items, length in zip(lists, lengths, strict=True)]
        if self.USER_ID not in interaction.columns:  # of someone new, who has no summary
            return [0] * len(histories), histories
        return interaction[self.USER_ID].tolist(), histories

    def made_from(self, task: Task) -> dict[str, Any]:
        """What the trained weights depend on, for a fingerprint; after ``prepare``."""
        return super().made_from(task) | {
            "read_summaries": self.summaries.content_hash(),
        }

    # ---- what a reranker does -------------------------------------------------------------------

    def rerank(self, interaction: Interaction, candidates: Tensor) -> Tensor:
        """logit(yes) - logit(no) of each candidate, [B, k] float32; see ``Reranker.rerank``."""
        from recbole_tslrec.paradigms.llmtrsr.prompt import positions_of

        values = self._values(interaction, candidates)

        def scores(part: np.ndarray) -> Tensor:
            own = {name: [rows[place] for place in part] for name, rows in values.items()}
            there = candidates[part] > 0
            found = torch.zeros(there.shape, device=there.device)
            found[there] = self._scores(own)
            return found

        positions = positions_of(self.template, values, self.texts, self.continues)
        return scores_in_passes(positions, scores, candidates, self.show_progress)

    def _values(self, interaction: Interaction, candidates: Tensor) -> dict[str, list[np.ndarray]]:
        """What the prompts of some users hold, all candidates of a user together."""
        from recbole_tslrec.paradigms.llmtrsr.prompt import CANDIDATE, HISTORY, SUMMARY

        users, histories = self._read(interaction)
        latest = "test" if self.is_tested else "validation"
        summaries = self.summaries.of(users, histories, latest, self.shuffles and self.is_tested)
        own = [row[row > 0] for row in candidates.cpu().numpy()]
        return {SUMMARY: summaries, HISTORY: histories, CANDIDATE: own}

    def _scores(self, values: dict[str, list[np.ndarray]]) -> Tensor:
        """The scores of all candidates of some users, one after the other; of equal texts equal. [N]"""
        from recbole_tslrec.paradigms.llmtrsr.prompt import CANDIDATE, prompts_of

        batch = prompts_of(self.template, values, self.continues)
        device = next(self.ranker.parameters()).device
        found = self.ranker.scores(**{name: tensor.to(device) for name, tensor in batch.items()})
        return found[torch.from_numpy(self.texts.first_alike(values[CANDIDATE])).to(device)]


MODELS = BackboneModels(__name__, {"LLMTRSR": LLMTRSR})
