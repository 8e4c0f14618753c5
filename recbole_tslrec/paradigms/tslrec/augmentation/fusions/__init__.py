"""How the id embeddings and the items' vectors become one item table (paper §4.2).

A fusion is a torch parametrization of the backbone's item table: ``fuse`` takes the id embeddings
[n_items, d] and returns the fused table of the same shape. Row 0 is RecBole's padding. A new fusion
is one class in a file here, with its name in ``FUSIONS``.
"""

from recbole_tslrec.paradigms.tslrec.augmentation.fusions.alone import AloneFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.gate import GateFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.item_fusion import ItemFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.none import IdFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.null_space import NullSpaceFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.start import StartFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.sum import SumFusion

FUSIONS: dict[str, type[ItemFusion]] = {
    "gate": GateFusion,
    "sum": SumFusion,
    "alone": AloneFusion,
    "start": StartFusion,
    "null_space": NullSpaceFusion,
    "none": IdFusion,
}
