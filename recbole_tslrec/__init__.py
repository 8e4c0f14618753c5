"""The two-stage language-model-enhanced paradigm TSLRec (P2Rec) as a plug-in for RecBole.

After ``import recbole_tslrec``, RecBole's own entry points know ``TSLRec_<backbone>``,
``CI_<backbone>``, ``Norm_<backbone>``, ``FMLPRec`` and ``E4SRec``, and RecBole 1.2.1 trains, saves and
loads on today's torch.
"""

from recbole_tslrec.recbole_bridge import first_imports  # noqa: F401

# isort: split
from recbole_tslrec.paradigms import BUILT_IN
from recbole_tslrec.recbole_bridge import patches
from recbole_tslrec.recbole_bridge.register import register_paradigm

__version__ = "0.1.0"

patches.apply()
for paradigm in BUILT_IN:
    register_paradigm(paradigm)
