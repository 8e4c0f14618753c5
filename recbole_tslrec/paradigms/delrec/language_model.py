"""DELRec's language model and prompts, which both stages share: found, checked, loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from recbole_tslrec.language_model.preflight import check_fine_tuning, check_source
from recbole_tslrec.language_model.reader import shared_if_possible, tokenised_texts
from recbole_tslrec.paradigms.delrec.ranker import CandidateRanker, make_ranker

if TYPE_CHECKING:
    from recbole_tslrec.data.item_catalogue import Catalogue
    from recbole_tslrec.language_model.prompts.segments import TokenTable
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.paradigms.delrec.prompts import Prompts

# transformers is slow to import, and the models that use this file are imported with the package.


def open_source_for(config) -> LanguageModelSource:
    """The experiment's language model, not loaded; causal or an encoder-decoder.

    Raises:
        ValueError, OSError, ModuleNotFoundError: says which key, its value, and what to do.
    """
    from recbole_tslrec.language_model.kinds import CAUSAL, ENCODER_DECODER
    from recbole_tslrec.language_model.source import open_source

    kinds = (CAUSAL, ENCODER_DECODER)
    return open_source(config["llm"], config["llm_trust_remote_code"], kinds)


def checked_source_for(config) -> LanguageModelSource:
    """The same, unless it could not be loaded and trained with what is free now; raises as there."""
    source = open_source_for(config)
    check_source(config, source)
    check_fine_tuning(config, source)
    return source


@dataclass(frozen=True, eq=False)
class PromptedModel:
    """A language model of an experiment, with DELRec's prompts; its weights are not loaded.

    Attributes:
        config: RecBole's config with our keys.
        source: the opened language model.
        prompts: the templates.
        titles: the items' texts as they are answered; None where letters are.
    """

    config: object
    source: LanguageModelSource
    prompts: Prompts
    titles: TokenTable | None

    @classmethod
    def of(
        cls,
        config,
        source: LanguageModelSource,
        recommender: str,
        catalogue: Catalogue | None,
        tokens: list[str],
    ) -> PromptedModel:
        """The prompts of an experiment, checked.

        Args:
            recommender: the name of the imitated one.
            catalogue: the items' texts; None for slots.
            tokens: of the items by internal id, without padding.

        Raises:
            ValueError: prompts do not fit the context, or the texts are nothing to the tokenizer.
        """
        from recbole_tslrec.language_model.kinds import ENCODER_DECODER
        from recbole_tslrec.language_model.verbalizer import LAST_WORDS, item_texts
        from recbole_tslrec.paradigms.delrec.prompts import check_prompts, make_prompts

        texts = titles = None
        if catalogue is not None:
            texts = item_texts(config, source, catalogue, tokens)
            if config["delrec_verbalizer"] == "title":
                # An encoder-decoder answers behind nothing.
                before = "" if source.kind == ENCODER_DECODER else LAST_WORDS
                titles = tokenised_texts(config, source, catalogue.of(tokens), before)
        prompts = make_prompts(
            source,
            config["delrec_instruction"],
            recommender,
            texts,
            config["n_candidates"],
            min(config["delrec_max_history"], config["MAX_ITEM_LIST_LENGTH"]),
            config["delrec_soft_vectors"],
        )
        check_prompts(source, prompts, config["n_candidates"], titles)
        return cls(config, source, prompts, titles)

    def ranker(
        self, item_embeddings: Tensor, with_adapters: bool
    ) -> tuple[CandidateRanker, Prompts]:
        """The loaded model as ``make_ranker`` has it, and the prompts as it reads the fewest positions.

        Raises:
            ValueError: as there; or whole titles are to be scored by a causal model that cannot go on
                from a prompt that it has read.
        """
        ranker = make_ranker(self.config, self.source, self.titles, item_embeddings, with_adapters)
        if ranker.verbalizer.writes:
            return ranker, self.prompts
        if self.titles is not None:
            self._check_continues(ranker)
            return ranker, self.prompts
        shared = shared_if_possible(
            self.prompts.choice, ranker.reader, self.config, "delrec_instruction", training=True
        ).shared_prefix
        templates = {
            name: replace(template, shared_prefix=shared)
            for name, template in vars(self.prompts).items()
        }
        return ranker, replace(self.prompts, **templates)

    def _check_continues(self, ranker: CandidateRanker) -> None:
        from recbole_tslrec.language_model.encoder import trunk_of
        from recbole_tslrec.language_model.shared_prefix import can_continue_prefixes

        trunk = trunk_of(ranker.reader.language_model)
        if self.config["llm_gradient_checkpointing"] and not ranker.reader.packs:
            raise ValueError(
                f"delrec_verbalizer: [title] goes on from a prompt with each title, and "
                f"[{self.source.name}] does so from a cache alone, of which llm_gradient_checkpointing: "
                f"[True] leaves none. Set llm_gradient_checkpointing: False, or delrec_verbalizer: "
                f"letters."
            )
        if not can_continue_prefixes(trunk):
            raise ValueError(
                f"delrec_verbalizer: [title] goes on from a prompt with each title, and "
                f"[{self.source.name}] cannot. Set delrec_verbalizer: letters."
            )
