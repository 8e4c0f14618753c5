"""What POD hands over: its model, keys, and row of a comparison."""

from recbole_tslrec.paradigms.p5.keys import COLLABORATIVE, LANGUAGE_MODEL, WRITING, training
from recbole_tslrec.paradigms.p5.paradigm import CODE_KEYS, row
from recbole_tslrec.paradigms.pod.keys import OWN
from recbole_tslrec.paradigms.pod.model import POD as Model
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.paradigm import Paradigm
from recbole_tslrec.stages.keys import PLACE

_HEADING = """\
POD (CIKM 2023): P5 whose words are distilled into learned vectors, one set a task. An epoch reads each
user once: one random segment of the training history. All else is P5's, see P5.yaml. There is no task of
explanations: RecBole's data have no reviews. Written by `make keys` from the declarations."""

# Interactions are no examples here, and epochs are short.
_TRAINING = training(epochs=100, patience=5)

POD = Paradigm(
    name="POD",
    heading=_HEADING,
    models={"POD": Model},
    trainer=LanguageModelTrainer,
    keys=(*CODE_KEYS, LANGUAGE_MODEL, _TRAINING, OWN, PLACE),
    variants=(row("POD", "POD", COLLABORATIVE, (LANGUAGE_MODEL, _TRAINING, WRITING, OWN)),),
)
