from recbole_tslrec.language_model.keys import READING
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.recbole_bridge.trainers import StagedTrainer
from recbole_tslrec.stages.keys import PLACE
from toy.model import TOY, CountsStage, Toy

PARADIGM = Paradigm(
    "Toy",
    "A paradigm of a few lines.",
    {"Toy": Toy},
    StagedTrainer,
    (READING, TOY, PLACE),
    (Variant("Toy", "Toy", None, (CountsStage,), READING.names, backbone="SASRec"),),
)
