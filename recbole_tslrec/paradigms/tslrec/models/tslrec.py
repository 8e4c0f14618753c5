"""TSLRec: id embeddings fused with the language model's enhanced embeddings (paper §4.2)."""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from recbole_tslrec.evaluation.scoring_term import TermAtScoring
from recbole_tslrec.paradigms.tslrec.augmentation.columns import centre, reduce_columns
from recbole_tslrec.paradigms.tslrec.augmentation.contrastive_map import (
    consecutive,
    contrastive_map,
)
from recbole_tslrec.paradigms.tslrec.augmentation.controls import BackboneEmbedding, vectors_of
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS
from recbole_tslrec.paradigms.tslrec.augmentation.late_fusion import HistorySimilarity
from recbole_tslrec.paradigms.tslrec.models.fused_item_table import FusedItemTable
from recbole_tslrec.stages import provenance
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.trained_backbone import take_trained_backbone
from recbole_tslrec.store import processes

if TYPE_CHECKING:
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


class EnhancedItemTable(TermAtScoring, FusedItemTable):
    """id embedding fused with the language model's enhanced embedding (TSLRec, §4.2)."""

    reads_vectors = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        if config["score_term"] != "none":
            self.scoring_term = _term(config, len(self.id_embeddings))  # S3Rec counts its mask, too
            self.term_in_training = config["score_term"] == "during"
        elif config["score_map"] != "none":  # no refusal: a comparison gives its keys to every row
            getLogger(__name__).warning(
                f"score_map: [{config['score_map']}] is without effect: it maps the vectors of the term "
                f"at scoring, and score_term is [none]. Set score_term: after."
            )
        if not self.fusion.reads_ids and not self.backbone.rows_beyond:
            self.item_table.parametrizations.weight.original.requires_grad_(False)
        if self.backbone.item_bias is not None:
            getattr(self, self.backbone.item_bias).register_hook(self._but_of_cold_items)
        # Nothing but the ids is trained, and of them as ever: the trained backbone has them.
        self.frozen = trained_elsewhere(config)

    def _make_fusion(self, config, id_embeddings: Tensor) -> nn.Module:
        # Kept in the config, and so in the checkpoint: a trained model loads without the language
        # model or the file that it was made with. With its keys: a config may be changed and used again.
        keys = ("enhancement", "enhanced_items", "enhanced_dim", "n_categories", "llm")
        width_of = " ".join(f"{key}={config[key]}" for key in keys)
        if vectors_of(config) is BackboneEmbedding:
            width_of += f" d={id_embeddings.shape[1]}"
        if config["enhanced_width"] is None or config["enhanced_width_of"] not in (None, width_of):
            config["enhanced_width"] = vectors_of(config).kept_width(config, id_embeddings.shape[1])
            config["enhanced_width_of"] = width_of
        fusion = FUSIONS[config["fusion"]](
            id_embeddings, config["enhanced_width"], config["enhanced_scale"]
        )
        if vectors_of(config).tells_cold_items(config):
            fusion.tell_cold_items(len(id_embeddings))
        return fusion

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        own = (BackboneStage,) if trained_elsewhere(config) else ()
        return tuple(dict.fromkeys((*own, *vectors_of(config).stages)))

    def prepare(self, pipeline: Pipeline) -> None:
        config, kind = pipeline.config, vectors_of(pipeline.config)
        # What may be refused comes before the vectors, which may take hours.
        mapped = self.scoring_term is not None and config["score_map"] != "none"
        read = mapped or self.fusion.alike is not None
        histories = pipeline.histories if read else None
        given = config["backbone_checkpoint"] is not None
        ready = self.frozen and (given or not pipeline.missing([BackboneStage]))
        first = processes.agree(ready)
        if first:
            self._take_backbone(pipeline)
        vectors = kind.make(pipeline)  # what is wrong with texts, or a file, shows soon
        if kind.reads_text:  # kept in the checkpoint: ``similar`` makes the vectors anew
            config["enhanced_texts"] = pipeline.catalogue.fingerprint
        of_known = kind.for_similarity(vectors, pipeline)
        if self.frozen and not first:
            self._take_backbone(pipeline)
        if self.frozen:
            for stage in map(pipeline.stage, kind.stages):
                provenance.check_read(stage, pipeline.stage(BackboneStage))
        self.fusion.set_enhanced(vectors)
        self.fusion.start(of_known, self.id_embeddings)
        if self.scoring_term is not None:
            self._set_term(of_known, pipeline)
        if self.fusion.alike is not None:
            had = np.bincount(histories.items, minlength=len(pipeline.tokens) + 1)
            cold = torch.from_numpy(had[1:] == 0)
            self.fusion.set_cold(cold, kind.for_cold(of_known, cold, pipeline))
            if self.frozen and self.backbone.item_bias is not None:
                self._give_cold_items_biases()

    def _take_backbone(self, pipeline: Pipeline) -> None:
        table = self.backbone.item_table
        fused = {f"{table}.weight": f"{table}.parametrizations.weight.original"}
        take_trained_backbone(pipeline, self, fused)

    @torch.no_grad()
    def _give_cold_items_biases(self) -> None:
        """As their ids, cold items take others' biases: the backbone's training pushed theirs down."""
        bias, cold = getattr(self, self.backbone.item_bias), self.fusion.cold
        bias[cold] = bias[self.fusion.alike[cold]].mean(dim=1)

    def _set_term(self, vectors: Tensor, pipeline: Pipeline) -> None:
        """Give the term its vectors, after the map if there is one."""
        config, dataset = pipeline.config, pipeline.dataset
        if config["score_map"] == "none":
            self.scoring_term.set_vectors(vectors)
            return
        rows = reduce_columns(centre(vectors), self.scoring_term.vectors.shape[1])
        pairs, _ = consecutive(pipeline.histories, dataset.field2id_token[dataset.uid_field])
        how = (config["seed"], config["device"], pipeline.show_progress)
        self.scoring_term.set_rows(contrastive_map(rows, pairs, *how))

    def _but_of_cold_items(self, of_bias: Tensor) -> Tensor:
        """The gradient of the items' biases, but of those that are never a target: they would fall."""
        cold = self.fusion.cold
        return of_bias if cold is None else of_bias.masked_fill(cold, 0.0)

    @torch.no_grad()
    def mean_gate(self) -> Tensor:
        """Each item's share of the id embedding in the fused one, [n_items]; row 0 is padding.

        Raises:
            AttributeError: the fusion has no gate.
        """
        return self.fusion.mean_gate(self.id_embeddings)


def trained_elsewhere(config) -> bool:
    """Whether the model is a trained backbone, whose scores get a term afterwards."""
    return (config["fusion"], config["score_term"], config["item_norm"]) == (
        "none",
        "after",
        "none",
    )


def _term(config, n_items: int) -> HistorySimilarity:
    in_training = config["score_term"] == "during"
    term = HistorySimilarity(n_items, config["enhanced_width"], standardised=not in_training)
    if in_training:
        term.choose([config["score_weight"], config["score_decay"]])
    return term
