"""A user's history, its blocks and their summaries, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_tslrec.paradigms.llmtrsr.histories import TARGETS, UserHistories, blocks_of
from recbole_tslrec.paradigms.llmtrsr.stages import SummariesStage


def summaries_of(stage: SummariesStage, users: Sequence[str]) -> list[str]:
    """What was summarised of some users, and how, a text each.

    The stored stage is read. If it is not there yet, these users' summaries are written now, and not
    kept.

    Args:
        users: their tokens.

    Raises:
        ValueError: a user has no training row, and so no summary.
    """
    known = {one.token: one for one in stage.histories}
    unknown = [user for user in users if user not in known]
    if unknown:
        raise ValueError(
            f"users: {', '.join(map(repr, unknown[:5]))} have no summary: they are not in the training "
            f"rows of [{stage.config['dataset']}]. Give tokens of users who are."
        )
    chosen = [known[user] for user in users]
    lines = stage.lines() if _is_stored(stage) else stage.written_now(chosen)
    by_place = {(line["user"], line["target"]): line for line in lines}
    return [_described(stage, one, by_place) for one in chosen]


def _is_stored(stage: SummariesStage) -> bool:
    if not stage.pipeline.store.has(stage.name, stage.made_from):
        return False
    _ = stage.stored  # found, checked
    return True


def _described(
    stage: SummariesStage, one: UserHistories, lines: dict[tuple[str, str], dict[str, Any]]
) -> str:
    """One user's."""
    texts = stage.pipeline.catalogue.rows(stage.pipeline.tokens)
    size, most = stage.config["trsr_block_items"], stage.config["trsr_blocks"]
    found = [f"User {one.token}"]
    for target in (target for target in TARGETS if target in one.before):
        history, line = one.before[target], lines[one.token, target]
        found.append(f"\nBefore the {target} target: {len(history)} items")
        blocks = blocks_of(history, size, most)
        for number, (block, part) in enumerate(zip(blocks, line["parts"], strict=True), 1):
            found.append(f"  Block {number}:")
            found += [f"    {texts[item]}" for item in block]
            found.append(f"  -> {part}")
        found.append(f"  Summary: {line['summary']}")
    return "\n".join(found)
