"""``summaries``: what a language model wrote of users' histories (LLM-TRSR)."""

from __future__ import annotations

import argparse

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import add_command, listed

_PREFIX = "LLMTRSR_"


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    command = add_command(
        commands,
        "summaries",
        "print users' histories, their blocks, and the summaries that LLM-TRSR reads",
        "Reads the stored stage; if there is none, writes these users' summaries, and keeps none. Any "
        "key of the yaml files can be given as --key=value.",
    )
    command.add_argument("--dataset", required=True, help="name of the data set")
    command.add_argument("--model", default=f"{_PREFIX}SASRec", help=f"{_PREFIX}<backbone>")
    command.add_argument("--users", required=True, help="users' tokens, separated by commas")
    command.add_argument("--config_files", default="", help="yaml files, separated by spaces")
    command.set_defaults(run=_summaries)


def _summaries(args: argparse.Namespace) -> None:
    plug_in()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    from recbole_tslrec.paradigms.llmtrsr.model import MODELS
    from recbole_tslrec.paradigms.llmtrsr.show import summaries_of
    from recbole_tslrec.paradigms.llmtrsr.stages import SummariesStage
    from recbole_tslrec.recbole_bridge.config_files import given_config_files
    from recbole_tslrec.stages.pipeline import Pipeline

    if args.model not in MODELS:
        raise ValueError(f"--model: [{args.model}] makes no summaries. Give {_PREFIX}<backbone>.")
    config = Config(args.model, args.dataset, given_config_files(args.config_files))
    if config["trsr_summary"] == "none":
        raise ValueError(
            "trsr_summary: [none] makes no summaries. Set trsr_summary=hierarchical or recurrent."
        )
    SummariesStage.check(config, None)
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    pipeline = Pipeline(config, train_data, valid_data, MODELS[args.model].backbone)
    stage = pipeline.stage(SummariesStage)
    users = listed(args.users, {one.token for one in stage.histories})
    print("\n\n".join(summaries_of(stage, users)))
