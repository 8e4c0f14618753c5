"""The stage of LLM-TRSR: a summary of each user's history before each target."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from recbole_tslrec.data.keys import ITEM_TEXT
from recbole_tslrec.language_model.keys import FROZEN
from recbole_tslrec.language_model.preflight import check_source
from recbole_tslrec.language_model.reader import open_source_for, tokenised_texts
from recbole_tslrec.paradigms.llmtrsr.histories import (
    TARGETS,
    UserHistories,
    histories_before_targets,
)
from recbole_tslrec.paradigms.llmtrsr.keys import SUMMARIES
from recbole_tslrec.stages.stage import Stage
from recbole_tslrec.store import processes
from recbole_tslrec.store.duration import Pace
from recbole_tslrec.store.files import (
    read_checked_json,
    with_checksum,
    write_atomically,
    write_json,
)
from recbole_tslrec.store.store import WORK

if TYPE_CHECKING:
    from recbole_tslrec.language_model.meter import Meter
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.workload import Workload
    from recbole_tslrec.paradigms.llmtrsr.summariser import Summariser

_FILE = "summaries.jsonl"
# Users in a file of partial results: what a kill can cost at the most, and what processes share out.
USERS_A_SHARD = 64
_USERS_A_GROUP = 4  # for a measurement: writing takes seconds a user
_BYTES_A_TOKEN = 5


def open_summarizer(config) -> LanguageModelSource:
    """The language model that writes the summaries, its weights not loaded.

    Raises:
        ValueError: it cannot write.
    """
    from recbole_tslrec.language_model.source import open_source
    from recbole_tslrec.paradigms.llmtrsr.prompt import check_writes

    name, key = config["trsr_summarizer"], "trsr_summarizer"
    if name is None:
        source, key = open_source_for(config), "llm"
    else:
        source = open_source(name, config["llm_trust_remote_code"])
    check_writes(source, key)
    return source


class SummariesStage(Stage):
    """A language model's summaries of what each user had before each target (LLM-TRSR).

    A JSON line each, by the users' tokens: ``user``; ``target``, one of ``TARGETS``; ``read``, how many
    items were before it; ``parts``, the summaries on the way; ``summary``. No summary reads its own
    target or what comes later, and what is written for one kind of target does not hang on the kinds
    after it, not even by what shares a batch.
    """

    name = "summaries"
    keys = (*ITEM_TEXT.names, *FROZEN.names, *SUMMARIES.names)
    together = True
    product = "summaries"

    @cached_property
    def source(self) -> LanguageModelSource:
        """The language model that writes, its weights not loaded."""
        return open_summarizer(self.config)

    @cached_property
    def histories(self) -> list[UserHistories]:
        """What is summarised."""
        return histories_before_targets(self.pipeline)

    @cached_property
    def made_from(self) -> dict[str, Any]:
        from recbole_tslrec.paradigms.llmtrsr.summariser import made_otherwise

        data = self.pipeline.data_fingerprint
        # The texts stand for the columns that they are from, and each way of summarising has its words.
        of_the_other = {
            "hierarchical": "trsr_update_instruction",
            "recurrent": "trsr_merge_instruction",
        }[self.config["trsr_summary"]]
        unread = ("item_text", "item_text_missing", of_the_other)
        settings = {key: value for key, value in self.settings().items() if key not in unread}
        return {
            "settings": settings,
            "language_model": self.source.identity,
            "texts": self.pipeline.catalogue.fingerprint,
            "training": data["training"],
            "validation": data["validation"],  # before what is tested
            **self.source.drawn_with(self.config["seed"]),
        } | made_otherwise(self.source)

    @classmethod
    def check(cls, config, n_items: int | None) -> None:
        check_source(config, open_summarizer(config))

    def bytes_on_disk(self) -> int:
        self.summariser()  # checks its prompts, before the backbone is trained
        a_summary = _BYTES_A_TOKEN * self.config["trsr_summary_tokens"]
        parts = self.config["trsr_blocks"] + 1
        return 2 * len(TARGETS) * parts * a_summary * len(self.pipeline.histories)

    def summariser(self) -> Summariser:
        """What writes, not loaded; checked.

        Raises:
            ValueError: instruction, an item and a summary do not fit the language model's context.
        """
        from recbole_tslrec.paradigms.llmtrsr.summariser import Summariser

        pipeline = self.pipeline
        texts = tokenised_texts(self.config, self.source, pipeline.catalogue.of(pipeline.tokens))
        summariser = Summariser(self.config, self.source, texts, ["", *pipeline.tokens])
        summariser.check(1 + int(texts.lengths[1:].argmax()))
        return summariser

    def make(self, folder: Path) -> dict[str, Any] | None:
        from recbole_tslrec.language_model.meter import metered

        shards = folder / WORK / "shards"
        shards.mkdir(parents=True, exist_ok=True)
        summariser = self.summariser()
        summariser.load()
        starts = range(0, len(self.histories), USERS_A_SHARD)
        parts = [self.histories[start : start + USERS_A_SHARD] for start in starts]
        files = [shards / f"shard-{number:06d}.json" for number in range(len(parts))]
        mine = range(processes.number(), len(parts), processes.count())
        with metered(summariser.encoder) as meter:
            self._write(summariser, [(files[number], parts[number]) for number in mine], meter)
        processes.wait_for_all()
        if not processes.is_first():
            return None
        lines = [line for file in files for line in read_checked_json(file, _SHARD_KEYS)["lines"]]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(folder / _FILE, lambda file: file.write_text(text, encoding="utf-8"))
        return {"summaries": len(lines), "cost": meter.cost()}

    def _write(
        self, summariser: Summariser, shards: list[tuple[Path, list[UserHistories]]], meter: Meter
    ) -> None:
        """Write the shards that are not there yet."""
        pace = Pace("Summaries", unit="users")
        done, total = 0, sum(len(users) for _, users in shards)
        hidden = not self.pipeline.show_progress
        with tqdm(total=total, desc="Summaries", unit=" users", disable=hidden) as bar:
            for file, users in shards:
                tokens = [one.token for one in users]
                if _is_whole(file, tokens):
                    total -= len(users)
                else:
                    lines = _lines(summariser, users, meter)
                    write_json(file, with_checksum({"users": tokens, "lines": lines}))
                    done += len(users)
                    pace.tell(done, total)
                bar.update(len(users))

    def workloads(self, ablation: bool) -> Iterable[Workload]:
        """The summaries of all users; what users of one group share is written once."""
        from recbole_tslrec.language_model.workload import When, Workload, batch_sizes, in_groups

        summariser = self.summariser()
        summariser.load()
        lengths = [max(map(len, one.before.values())) for one in self.histories]
        groups = in_groups(np.array(lengths), _USERS_A_GROUP)

        def run(places: np.ndarray, meter: Meter) -> None:
            _lines(summariser, [self.histories[place] for place in places], meter)

        reader, sizes = summariser.encoder, batch_sizes(groups)
        return [Workload("summaries", When.ONCE, "users", reader, groups, sizes, run)]

    def written_now(self, users: list[UserHistories]) -> list[dict[str, Any]]:
        """The summaries of some users as ``lines`` has them, written and not kept."""
        from recbole_tslrec.language_model.meter import Meter

        summariser = self.summariser()
        summariser.load()
        return _lines(summariser, users, Meter())

    def lines(self) -> list[dict[str, Any]]:
        """The summaries as they lie on disk, see the class."""
        text = (self.stored.folder / _FILE).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]

    def texts(self) -> dict[tuple[str, str], str]:
        """The summaries by user token and target."""
        return {(line["user"], line["target"]): line["summary"] for line in self.lines()}


_SHARD_KEYS = {"users", "lines"}


def _lines(
    summariser: Summariser, users: list[UserHistories], meter: Meter
) -> list[dict[str, Any]]:
    """The summaries of some users, those of one kind of target after those of another."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for target in TARGETS:
        own = [one for one in users if target in one.before]
        summaries = summariser.summaries([one.before[target] for one in own], meter)
        for one, summary in zip(own, summaries, strict=True):
            found[one.token, target] = {
                "user": one.token,
                "target": target,
                "read": len(one.before[target]),
                "parts": list(summary.parts),
                "summary": summary.text,
            }
    summariser.forget()
    return [found[one.token, target] for one in users for target in TARGETS if target in one.before]


def _is_whole(shard: Path, users: list[str]) -> bool:
    """Whether a shard was finished by an earlier run; one that was altered since is made again."""
    if not shard.is_file():
        return False
    try:
        return read_checked_json(shard, _SHARD_KEYS)["users"] == users
    except ValueError as error:
        getLogger(__name__).warning(f"Summaries: a partial result is made again: {error}")
        return False
