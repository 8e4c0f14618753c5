"""What LLM-TRSR hands over: its models, keys, and rows of a comparison."""

from collections.abc import Mapping
from typing import Any

from recbole_tslrec.config.key import defaults, names_of
from recbole_tslrec.data.item_catalogue import check_item_text
from recbole_tslrec.data.keys import CANDIDATES, CONTROL, ITEM_TEXT
from recbole_tslrec.language_model.keys import ADAPTERS, FROZEN, MEMORY, OPTIMISATION, STOPPING
from recbole_tslrec.paradigms.llmtrsr.keys import OWN, SUMMARIES, TRSR_CONTROL
from recbole_tslrec.paradigms.llmtrsr.model import LLMTRSR, MODELS
from recbole_tslrec.recbole_bridge.language_model_trainer import LanguageModelTrainer
from recbole_tslrec.recbole_bridge.paradigm import Paradigm, Variant
from recbole_tslrec.stages.keys import GIVEN_BACKBONE, PLACE

_HEADING = """\
LLM-TRSR (arXiv 2403.13325): a language model summarises each user's history; another, or the same one,
reads the summary, the latest items and one candidate of a backbone, and says yes or no.
LLMTRSR_<backbone>. It needs item_text, and a causal llm. RecBole's own keys for training (epochs,
learning_rate, train_batch_size, ...) and those of RecBole's <backbone>.yaml are the backbone's; sft_*
are the language model's. llmtrsr_paper.yaml has the authors' settings, llmtrsr_cpu.yaml small ones.
Written by `make keys` from the declarations in the code."""

_READ = (FROZEN, MEMORY, ADAPTERS, STOPPING, OPTIMISATION, ITEM_TEXT, CANDIDATES, SUMMARIES, OWN)
_TESTS = (CONTROL, TRSR_CONTROL)


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for values that contradict each other, and for texts that are not named."""
    check_item_text(config, f"[{config['model']}] summarises what a user had in words: it")
    if config["rerank_control"] == "shuffled":
        raise ValueError(
            "rerank_control: [shuffled] is of candidates that stand in one prompt, and here each has a "
            "prompt of its own. Set trsr_control: shuffled, for other users' summaries, or none."
        )
    if config["trsr_control"] == "shuffled" and config["trsr_summary"] == "none":
        raise ValueError(
            "trsr_control: [shuffled] gives each user another one's summary, and trsr_summary: [none] "
            "makes none. Set trsr_summary: hierarchical, or trsr_control: none."
        )


def _row(name: str, control: bool = True, **settings: str) -> Variant:
    whole = {"rerank_control": "none", "trsr_control": "none"} | settings
    read = (*_READ, *_TESTS)
    unread = set() if settings.get("trsr_summary") == "none" else {"trsr_instruction_alone"}
    return Variant(
        name,
        "LLMTRSR_{backbone}",
        whole,
        LLMTRSR.stages(defaults(read) | whole),
        tuple(key for key in names_of(read) if key not in unread),
        control=control,
        tested_alone=not {"rerank_control", "trsr_control"}.isdisjoint(settings),
        requires=("item_text",),
    )


LLM_TRSR = Paradigm(
    name="LLMTRSR",
    heading=_HEADING,
    models=MODELS,
    trainer=LanguageModelTrainer,
    keys=(GIVEN_BACKBONE, *_READ, *_TESTS, PLACE),
    variants=(
        _row("LLMTRSR", control=False),
        _row("llmtrsr_retriever_order", rerank_control="retriever"),
        _row("llmtrsr_no_summary", trsr_summary="none"),
        _row("llmtrsr_shuffled_summaries", trsr_control="shuffled"),
    ),
    check=_check,
)
