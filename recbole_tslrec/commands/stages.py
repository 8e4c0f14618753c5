"""``stages`` and ``clean``: what is stored, and what nothing uses."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import add_command
from recbole_tslrec.stages.inventory import StoredStage, explain, size, stored_stages, table
from recbole_tslrec.stages.prune import leftovers, remove
from recbole_tslrec.store.files import fingerprint


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the commands."""
    command = add_command(
        commands,
        "stages",
        "list the stored stages; with --model, why they would be reused or not",
        "Makes no stage. With --model, any key of the yaml files can be given as --key=value.",
    )
    _add_experiment(command)
    command.add_argument(
        "--verify", action="store_true", help="compare every file's hash, not only its size"
    )
    command.set_defaults(run=_stages)

    command = add_command(
        commands,
        "clean",
        "show what nothing uses of the stored stages, and with --yes remove it",
        "Takes nothing that a living process makes, or from which it makes a stage. With --unused_days, "
        "what a training read as it began may go: give it more days than a training takes.",
    )
    _add_experiment(command)
    command.add_argument("--yes", action="store_true", help="remove it; without, only show it")
    command.add_argument(
        "--older_than_days",
        type=float,
        default=7,
        help="unfinished stages go if untouched for so long and no process is at them",
    )
    command.add_argument(
        "--unused_days",
        type=float,
        default=None,
        help="finished stages go too if no run used them for so long and nothing that stays was "
        "made from them; those of the experiment given by --model stay (default: all stay)",
    )
    command.add_argument(
        "--checkpoint_dir", type=Path, default=Path("saved"), help="RecBole's checkpoint_dir"
    )
    command.set_defaults(run=_clean)


def _add_experiment(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tslrec_dir", type=Path, default=None, help="default: saved/tslrec")
    command.add_argument("--model", default=None, help="an experiment's model")
    command.add_argument(
        "--dataset", default=None, help="an experiment's data set; alone, no other is looked at"
    )
    command.add_argument("--config_files", default="", help="yaml files, separated by spaces")


def _wanted(args: argparse.Namespace) -> tuple[Path, dict]:
    """The folder of stages, and the stages of the experiment if one is given."""
    if args.model is None:
        return _folder(args), {}
    if args.dataset is None:
        raise ValueError("--model needs --dataset.")
    plug_in()
    from recbole_tslrec.recbole_bridge.config_files import given_config_files

    given = {"tslrec_dir": str(args.tslrec_dir)} if args.tslrec_dir else {}
    return wanted_by(args.model, args.dataset, given_config_files(args.config_files), given)


def _folder(args: argparse.Namespace) -> Path:
    """The folder of stages where no experiment is given."""
    named = {}
    if args.tslrec_dir is None and args.config_files:
        plug_in()
        from recbole_tslrec.recbole_bridge.config_files import given_config_files, read_config_file

        for file in given_config_files(args.config_files):
            named |= read_config_file(file)
    return args.tslrec_dir or Path(named.get("tslrec_dir") or "saved/tslrec")


def wanted_by(
    model: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Where an experiment keeps its stages, and what each of them would be made from, in order.

    Reads the data set, and the language model's config if it needs one; runs no stage.

    Args:
        model, dataset, config_file_list, config_dict: as RecBole's ``run_recbole`` takes them.
    """
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    from recbole_tslrec.recbole_bridge.paradigm import backbone_for, staged_models
    from recbole_tslrec.stages.pipeline import Pipeline

    config = Config(model, dataset, config_file_list, dict(config_dict or {}))
    root = Path(config["tslrec_dir"] or "saved/tslrec")
    if model not in staged_models():
        return root, {}
    kind = staged_models()[model]
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    pipeline = Pipeline(config, train_data, valid_data, backbone_for(kind, config))
    return root, pipeline.made_from(kind.stages(config))


def _own_training(
    args: argparse.Namespace, wanted: Mapping[str, dict], stages: Sequence[StoredStage]
) -> list[StoredStage]:
    """What is stored of the experiment's own training, if its model is a trained language model.

    What that is made from is known once the stages before it are there: it may be of other settings.
    """
    before = {name: fingerprint(made_from) for name, made_from in wanted.items()}
    return [
        stage
        for stage in stages
        if stage.name == args.model.lower()
        and stage.folder.parent.name == args.dataset
        and all((stage.made_from or {}).get(name, one) == one for name, one in before.items())
    ]


def _nothing_yet(root: Path, args: argparse.Namespace) -> bool:
    """Whether the folder is not there, and nobody named it: no run has stored anything here."""
    return args.tslrec_dir is None and not root.is_dir()


def _stages(args: argparse.Namespace) -> None:
    root, wanted = _wanted(args)
    stages = [] if _nothing_yet(root, args) else stored_stages(root, args.verify)
    of = "" if args.dataset is None else f" of the data set [{args.dataset}]"
    if args.dataset is not None:
        stages = [stage for stage in stages if stage.folder.parent.name == args.dataset]
    print(table(stages, time.time()) if stages else f"Nothing{of} is stored in [{root}].")
    if args.model is not None:
        print(f"\n{args.model} on {args.dataset} under these settings:")
        trained = [
            f"{stage.name}: may be taken up from [{stage.folder}]; the run looks"
            for stage in _own_training(args, wanted, stages)
        ]
        print("\n".join([*explain(wanted, stages), *trained]) or "needs no stages")


def _clean(args: argparse.Namespace) -> None:
    root, wanted = _wanted(args)
    found = []
    if not _nothing_yet(root, args):
        stages = () if args.model is None else stored_stages(root)
        own = [stage.made_from for stage in _own_training(args, wanted, stages)]
        found = leftovers(
            root,
            time.time(),
            args.older_than_days,
            args.unused_days,
            {fingerprint(made_from) for made_from in (*wanted.values(), *own)},
            args.checkpoint_dir,
        )
    if args.dataset is not None and args.model is None:
        found = [leftover for leftover in found if leftover.path.parent == root / args.dataset]
    n_bytes = 0
    for leftover in found:
        kept = args.yes and not remove(leftover)
        note = "; kept, since a process has taken it up" if kept else ""
        n_bytes += 0 if kept else leftover.bytes
        print(f"{size(leftover.bytes):>10}  {leftover.path}  ({leftover.why}{note})")
    total = size(n_bytes)
    if not found:
        print(f"Nothing in [{root}] needs to go.")
    else:
        print(f"{total} removed." if args.yes else f"{total} would go; add --yes to remove it.")
