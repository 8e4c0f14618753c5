"""A stage that keeps the items' texts as vectors of the frozen language model."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.item_states import read_items
from recbole_tslrec.language_model.keys import FROZEN
from recbole_tslrec.language_model.preflight import check_source
from recbole_tslrec.language_model.reader import (
    first_of_a_text,
    make_text_encoder,
    open_source_for,
    text_prompts,
    tokenised_texts,
)
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store.store import WORK

if TYPE_CHECKING:
    from recbole_tslrec.language_model.prompts.segments import TokenTable
    from recbole_tslrec.language_model.prompts.template import Template
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.text_encoder import TextEncoder

TEXT_VECTOR = "text_vector"  # [n_items, hidden] float32
_FILE = "items.safetensors"


class TextVectorsStage(Stage):
    """Each item's words alone through the frozen language model: the mean of their last hidden states.

    The language model reads every item once, whatever the number of interactions; none of them enters.
    """

    name = "text_vectors"
    keys = (*ITEM_TEXT.names, *FROZEN.names)
    together = True
    product = "text_vectors"

    @cached_property
    def source(self) -> LanguageModelSource:
        """The experiment's language model, its weights not loaded."""
        return open_source_for(self.config)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        # The texts stand for the columns that they are from.
        settings = {key: self.config[key] for key in ("item_text_tokens", "llm_quantization")}
        first = first_of_a_text(self.source)
        return ({"first": list(first)} if first else {}) | {
            "settings": settings,
            "language_model": self.source.identity,
            "texts": self.pipeline.catalogue.fingerprint,
            **self.source.drawn_with(self.config["seed"]),
        }

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        check_source(config, open_source_for(config))

    @cached_property
    def tokenised(self) -> TokenTable:
        """The texts' tokens by internal id."""
        texts = self.pipeline.catalogue.of(self.pipeline.tokens)
        return tokenised_texts(self.config, self.source, texts)

    def check_inputs(self) -> None:
        text_prompts(self.source, self.tokenised)

    def make(self, folder: Path) -> dict[str, Any] | None:
        from recbole_tslrec.language_model.meter import metered

        pipeline, shards = self.pipeline, folder / WORK / "shards"
        provenance.keep_only_own(shards, self.read_with())
        encoder, prompt = self.encoder()
        progress = pipeline.show_progress
        with metered(encoder) as meter:
            vectors = read_items(encoder, prompt, pipeline.tokens, shards, "Texts", progress)
        if vectors is None:  # this process has done its share; the first one writes
            return None
        self.save_items(folder, _FILE, {TEXT_VECTOR: vectors})
        return {"cost": meter.cost()}

    def read_with(self) -> dict[str, Any]:
        """What the vectors depend on that ``made_from`` does not tell: nothing."""
        return {}

    def encoder(self) -> tuple[TextEncoder, Template]:
        """What reads the texts, on the experiment's device, and the prompts for it."""
        return self.own_encoder(with_adapters=False)

    def own_encoder(self, with_adapters: bool) -> tuple[TextEncoder, Template]:
        """The language model as it is before any tuning, and the prompts of the texts."""
        return make_text_encoder(self.config, self.source, self.tokenised, with_adapters)

    def bytes_on_disk(self) -> int:
        return 4 * len(self.pipeline.tokens) * self.source.hidden_size

    def text_vectors(self) -> Tensor:
        """The vectors in the order of internal ids, [n_items - 1, hidden] float32, without padding."""
        return self.read_items(_FILE, TEXT_VECTOR)

    def content(self) -> dict[str, Tensor]:
        return {TEXT_VECTOR: self.text_vectors()}
