"""What P5 hands over: its model, keys, and rows of a comparison."""

from recbole_tslrec.config.key import names_of
from recbole_tslrec.config.keys import PRECISION
from recbole_tslrec.paradigms.p5 import keys
from recbole_tslrec.paradigms.p5.keys import CODES, LANGUAGE_MODEL, OWN, TRAINING, WRITING
from recbole_tslrec.paradigms.p5.model import P5 as Model
from recbole_tslrec.paradigms.p5.stages import EmbeddingCodesStage, ItemCodesStage
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.stages.keys import CATEGORIES, GIVEN_BACKBONE, PLACE

_HEADING = """\
P5 (arXiv 2203.13366) with item codes (arXiv 2305.06569): a T5 writes the code of the next item, and all
items are ranked by their codes' exact likelihood. RecBole's own keys for training (epochs, ...),
SASRec.yaml's, backbone_checkpoint and n_categories count for `item_code: embedding` alone: they are its
backbone's. Written by `make keys` from the declarations in the code."""

CODE_KEYS = (GIVEN_BACKBONE, CATEGORIES, CODES, WRITING)
_READ = (LANGUAGE_MODEL, *TRAINING, WRITING, OWN)


def row(name: str, model: str, code: str, read: tuple) -> Variant:
    """A row of a comparison: a model from scratch with codes of one kind."""
    embedding = code == keys.EMBEDDING
    return Variant(
        name,
        model,
        {"item_code": code, "llm": "scratch"},
        stages=(EmbeddingCodesStage if embedding else ItemCodesStage,),
        keys=names_of(read),
        not_given=() if embedding else names_of((PRECISION,)),
        backbone="SASRec",
        label=name,
    )


# Numbers by the order of the file have no row: beside others they would look like a result.
_OTHER_CODES = (keys.SEQUENTIAL, keys.RANDOM, keys.INDEPENDENT, keys.EMBEDDING)

P5 = Paradigm(
    name="P5",
    heading=_HEADING,
    models={"P5": Model},
    trainer=LanguageModelTrainer,
    keys=(*CODE_KEYS, LANGUAGE_MODEL, *TRAINING, OWN, PLACE),
    variants=(
        row("P5", "P5", keys.COLLABORATIVE, _READ),
        *(row(f"P5-{code}", "P5", code, _READ) for code in _OTHER_CODES),
    ),
)
