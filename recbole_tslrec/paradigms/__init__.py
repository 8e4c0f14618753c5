"""One folder a paradigm: what a paper adds to a recommender, on the parts that all of them share.

A new one is a folder here, and a line below.
"""

from recbole_tslrec.paradigms.delrec.paradigm import DELREC
from recbole_tslrec.paradigms.e4srec.paradigm import E4SREC
from recbole_tslrec.paradigms.llamarec.paradigm import LLAMAREC
from recbole_tslrec.paradigms.llmtrsr.paradigm import LLM_TRSR
from recbole_tslrec.paradigms.p5.paradigm import P5
from recbole_tslrec.paradigms.pod.paradigm import POD
from recbole_tslrec.paradigms.rules.paradigm import RULES
from recbole_tslrec.paradigms.tslrec.paradigm import TSLREC

BUILT_IN = (TSLREC, E4SREC, LLAMAREC, LLM_TRSR, DELREC, P5, POD, RULES)
