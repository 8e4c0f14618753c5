"""The models: a variant of a backbone each, ``TSLRec_SASRec`` for one."""

from recbole_tslrec.paradigms.tslrec.models.ci import CategoryItemTable
from recbole_tslrec.paradigms.tslrec.models.norm import NormalisedItemTable
from recbole_tslrec.paradigms.tslrec.models.tslrec import EnhancedItemTable
from recbole_tslrec.recbole_bridge.backbone_models import BackboneModels

MODELS = BackboneModels(
    __name__,
    {"TSLRec": EnhancedItemTable, "CI": CategoryItemTable, "Norm": NormalisedItemTable},
)
