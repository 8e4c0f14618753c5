"""What TSLRec hands over: its models, keys, and rows of a comparison."""

from collections.abc import Callable, Mapping
from typing import Any

from recbole_tslrec.config.key import counts
from recbole_tslrec.data.item_catalogue import check_item_text
from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.evaluation.scoring_term import check_choice
from recbole_tslrec.language_model.item_inputs import check_item_inputs
from recbole_tslrec.language_model.keys import (
    ADAPTERS,
    HISTORY,
    ITEM_INPUTS,
    MEMORY,
    OPTIMISATION,
    READING,
    RESPONSE,
    STOPPING,
    TRAINING,
)
from recbole_tslrec.paradigms.tslrec.augmentation.controls import CONTROLS, VECTORS
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import EnhancedEmbedding
from recbole_tslrec.paradigms.tslrec.augmentation.keys import (
    FUSION,
    GIVEN_VECTORS,
    NORM,
    SCORE_TERM,
)
from recbole_tslrec.paradigms.tslrec.augmentation.late_fusion import HistorySimilarity
from recbole_tslrec.paradigms.tslrec.keys import INSTRUCTION, SECOND_TASK
from recbole_tslrec.paradigms.tslrec.models import MODELS
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable
from recbole_tslrec.recbole_bridge.paradigm import SINCE_THE_FIRST, Paradigm, Variant, chain
from recbole_tslrec.recbole_bridge.trainers import TwoStageTrainer
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.categories import CategoriesStage
from recbole_tslrec.stages.keys import CATEGORIES, GIVEN_BACKBONE, PLACE
from recbole_tslrec.store.files import fingerprint

_HEADING = """\
The two-stage paradigm TSLRec (arXiv 2406.00333; P2Rec in its later version): every key that the
variants TSLRec_<backbone>, CI_<backbone> and Norm_<backbone> add to RecBole's own. The backbone's keys
(hidden_size, loss_type, ...) are those of RecBole's <backbone>.yaml. "§" is a section of the paper.
Written by `make keys` from the declarations in the code."""

_FUSED = (*FUSION.names, *SCORE_TERM.names, *NORM.names)


def _item_record(pipeline, model) -> dict:
    from recbole_tslrec.paradigms.tslrec.item_record import (
        item_record,  # scikit-learn takes a second
    )

    return item_record(pipeline, model)


def _fused(kind: type) -> Variant:
    """The row of what stands beside the id embeddings: h^v, or a control in its place."""
    tslrec = kind is EnhancedEmbedding
    return Variant(
        "TSLRec" if tslrec else kind.name,
        "TSLRec_{backbone}",
        {"enhancement": kind.name},
        kind.stages,
        (*_FUSED, *kind.keys, *(GIVEN_VECTORS.names if tslrec else ())),
        control=not tslrec,
        record_items=_item_record if tslrec else None,
        requires=("item_text",) if kind.reads_text else (),
        # With fusion: none, score_term: after the model is a trained backbone, whatever the vectors.
        if_given=() if BackboneStage in chain(kind.stages) else GIVEN_BACKBONE.names,
        unread=kind.unread,
        results_of=_results_of(kind),
    )


# Cold items take the ids of others since, and a causal model reads no word first.
_OF_WORDS = "cold items like others"
_OF_WORDS_BESIDE_IDS = "cold items with words like others"
# Of these fusions: columns without a direction are the ids', items without a text keep their start.
_OF_COMPONENTS = "components of known items"


def _results_of(kind: type) -> Callable[[Mapping[str, Any]], str]:
    """``Variant.results_of`` of a row of these vectors."""

    def since(values: Mapping[str, Any]) -> str:
        said = [SINCE_THE_FIRST]
        if kind.tells_cold_items(values):
            said.append(_OF_WORDS if kind.words_alone(values) else _OF_WORDS_BESIDE_IDS)
        said += [_OF_COMPONENTS] if values["fusion"] in ("start", "null_space") else []
        if values["score_term"] == "after":  # of another grid validation may choose otherwise
            said.append(f"chosen of {fingerprint(HistorySimilarity.grid)[:8]}")
        return ", ".join(said)

    return since


def _term(name: str, kind: type, of: str = "", rivals: tuple[str, ...] = ()) -> Variant:
    """The row of a trained backbone with a term of these vectors at scoring."""
    return Variant(
        name,
        "TSLRec_{backbone}",
        {
            "enhancement": kind.name,
            "fusion": "none",
            "score_term": "after",
            "item_norm": "none",
        },
        (*kind.stages, BackboneStage),
        ("enhanced_dim", "score_map", *kind.keys),
        control=bool(of),
        of=of,
        rivals=rivals,
        requires=("item_text",),
        label=f"{{backbone}}, {name}",
        unread=kind.unread,
        results_of=_results_of(kind),
    )


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for keys that contradict each other, and for texts that are not named."""
    if not _fuses(config["model"]):  # CI and Norm read none of these
        return
    if config["enhanced_items"] is not None and config["enhancement"] != EnhancedEmbedding.name:
        raise ValueError(
            f"enhanced_items: [{config['enhanced_items']}] would take the place of the control "
            f"enhancement: [{config['enhancement']}]. Give one of the two."
        )
    check_item_inputs(config)
    if VECTORS[config["enhancement"]].reads_text:
        check_item_text(config, f"enhancement={config['enhancement']}:")
    if (config["fusion"], config["score_term"]) == ("none", "none"):
        raise ValueError(
            f"fusion: [none] with score_term: [none] uses nothing of enhancement: "
            f"[{config['enhancement']}]. Set score_term: after, or another fusion."
        )
    if config["score_term"] == "after":
        _check_nothing_is_fixed(config)
        check_choice(config)
    if config["score_term"] == "during":
        _check_softmax(config)


def _check_nothing_is_fixed(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a weight or decay of the term, which validation chooses."""
    for key in ("score_weight", "score_decay"):
        if counts(key, config[key]):
            raise ValueError(
                f"{key}: [{config[key]}] is for score_term: during; with score_term: [after] validation "
                f"chooses it. Set score_term: during, or leave {key} out."
            )


def _check_softmax(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless the loss is the softmax over all items, in full precision."""
    backbone = MODELS[config["model"]].backbone
    if not backbone.by_product:
        raise ValueError(
            f"score_term: [during] is a term of the logits by which items are ranked, and "
            f"[{backbone.name}] is not trained on these. Set score_term: after."
        )
    wanted = {
        "loss_type": "CE",
        "sampled_loss": "none",
        "train_precision": "float32",
        "enable_amp": False,
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"score_term: [during] is a term of all items' logits, and {key}: [{config[key]}] has "
                f"no place for it. Set {key}: {value}, or score_term: after."
            )


def _fuses(model: str) -> bool:
    return issubclass(MODELS[model], EnhancedItemTable)


TSLREC = Paradigm(
    name="TSLRec",
    heading=_HEADING,
    models=MODELS,
    trainer=TwoStageTrainer,
    keys=(
        GIVEN_BACKBONE,
        CATEGORIES,
        ITEM_TEXT,
        READING,
        ITEM_INPUTS,
        RESPONSE,
        INSTRUCTION,
        HISTORY,
        MEMORY,
        ADAPTERS,
        STOPPING,
        OPTIMISATION,
        TRAINING,
        SECOND_TASK,
        FUSION,
        SCORE_TERM,
        GIVEN_VECTORS,
        NORM,
        PLACE,
    ),
    variants=(
        Variant("Norm", "Norm_{backbone}"),
        Variant(
            "CI",
            "CI_{backbone}",
            stages=(CategoriesStage,),
            keys=NORM.names,
            record_items=_item_record,
        ),
        *(_fused(kind) for kind in (EnhancedEmbedding, *CONTROLS)),
        _term("TextTerm", VECTORS["text"]),
        _term("tfidf_term", VECTORS["tfidf"], of="TextTerm"),
        _term("shuffled_text_term", VECTORS["shuffled_text"], of="TextTerm"),
        _term("shuffled_tfidf_term", VECTORS["shuffled_tfidf"], of="TextTerm"),
        # What tuning adds, and what a language model adds at all.
        _term("TunedTextTerm", VECTORS["tuned_text"], rivals=("TextTerm", "tfidf_term")),
        _term("shuffled_tuned_text_term", VECTORS["shuffled_tuned_text"], of="TunedTextTerm"),
        # What a language model adds to TF-IDF.
        _term("TextTfidfTerm", VECTORS["text_tfidf"], rivals=("TextTerm", "tfidf_term")),
        _term("shuffled_text_tfidf_term", VECTORS["shuffled_text_tfidf"], of="TextTfidfTerm"),
        _term(
            "TunedTextTfidfTerm",
            VECTORS["tuned_text_tfidf"],
            rivals=("TunedTextTerm", "TextTfidfTerm", "tfidf_term", "shuffled_text_tfidf_term"),
        ),
    ),
    check=_check,
)
