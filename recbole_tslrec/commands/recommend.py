"""``recommend``, ``similar`` and ``explore``: what a trained model has to say."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from recbole_tslrec import plug_in
from recbole_tslrec.commands.console import add_command, add_data_path, check_is_file, listed
from recbole_tslrec.recommendation import HELD_OUT, INDEXES, ITEM_TABLE, UNDER, UNKNOWN_ITEMS

if TYPE_CHECKING:
    import pandas as pd

    from recbole_tslrec.recommendation.recommender import Recommender

_READ_ONCE = ("users_file", "histories_file")


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the commands."""
    _add_recommend(commands)
    command = add_command(
        commands,
        "similar",
        "the items that are nearest to an item",
        "By the cosine, under the vectors of a trained model.",
    )
    _add_model(command)
    command.add_argument(
        "--items", required=True, help="one item's token, or several, separated by commas"
    )
    command.add_argument(
        "--under",
        default=ITEM_TABLE,
        choices=UNDER,
        help="which vectors: item_table, what the model recommends with; e_v, the backbone's before "
        "the language model; h_v, the language model's; text, the words of the titles",
    )
    command.set_defaults(run=_similar)
    _add_explore(commands)


def _add_recommend(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "recommend",
        "the best items for users, by a trained model's checkpoint",
        "Reads the data set that the model was trained on.",
    )
    _add_model(command)
    whom = command.add_mutually_exclusive_group(required=True)
    whom.add_argument("--users", help="users' tokens, separated by commas")
    whom.add_argument("--users_file", type=Path, help="a file with a user's token a line")
    whom.add_argument("--all_users", action="store_true", help="all users of the data set")
    whom.add_argument(
        "--history",
        help="items' tokens of a user who may be new, separated by commas, oldest first",
    )
    whom.add_argument(
        "--histories_file",
        type=Path,
        help='lines "name item item ...", or a .jsonl file of {"user": name, "history": [item, ...]}',
    )
    command.add_argument("--seen", action="store_true", help="recommend items of the history, too")
    command.add_argument(
        "--before",
        choices=HELD_OUT,
        help="let users' histories end before what was held out for the test, or for validation and "
        "test (default: they are whole)",
    )
    command.add_argument(
        "--unknown_items",
        default="refuse",
        choices=UNKNOWN_ITEMS,
        help="what becomes of items in given histories that the data set does not have",
    )
    command.add_argument(
        "--index",
        default="auto",
        choices=INDEXES,
        help="how the best items are looked for: none, from all scores; exact or approximate, by an "
        "index of faiss; auto: exact for large catalogues if the model's score is a product",
    )
    command.set_defaults(run=_recommend)


def _add_explore(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "explore",
        "write a page of HTML to look at a trained model, or two side by side",
        "Shows users, items and a map in a browser, without network.",
    )
    _add_opening(command)
    command.add_argument(
        "--beside", type=Path, help="another one of the same data, to stand beside it"
    )
    command.add_argument(
        "--output", default=Path("explore.html"), type=Path, help="the page's file"
    )
    command.add_argument(
        "--n_users", default=25_000, type=int, help="the most test users; of more, a sample"
    )
    command.add_argument(
        "--allow_new_data",
        action="store_true",
        help="show it on other interactions than it was trained with: its metrics may then be of what "
        "it was trained on",
    )
    command.set_defaults(run=_explore)


def _add_opening(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint", required=True, type=Path, help="the trained model")
    add_data_path(command)
    command.add_argument("--device", default="cpu", help="where a model works: cpu, cuda, cuda:1")
    command.add_argument(
        "--llm_trust_remote_code",
        action="store_true",
        help="run the Python code that comes with the model's language model",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    _add_opening(command)
    command.add_argument("--k", type=int, default=10, help="how many items")
    command.add_argument(
        "--titles", help="columns of the .item file, separated by commas (default: found by name)"
    )
    command.add_argument(
        "--new_items",
        type=Path,
        help="lines token, tab, text (or token, original id, text), or RecBole's .item: items that came "
        "after training, for a model that knows items by their words",
    )
    command.add_argument(
        "--output", type=Path, help="a .csv or .jsonl file to write (default: to the screen)"
    )


def _recommend(args: argparse.Namespace) -> None:
    _check_files(args, "checkpoint", "new_items", "users_file", "histories_file")
    plug_in()
    from recbole_tslrec.recommendation.output import check_output
    from recbole_tslrec.recommendation.recommender import Recommender
    from recbole_tslrec.recommendation.requests import read_histories, read_users

    given = (args.checkpoint, args.new_items, args.users_file, args.histories_file)
    check_output(args.output, given)
    # The files before anything is loaded, tokens between commas once it is known which there are.
    users = read_users(args.users_file) if args.users_file else None
    histories = read_histories(args.histories_file) if args.histories_file else None
    recommender = Recommender(**_opening(args), titles=_titles(args), index=args.index)
    _take_new_items(recommender, args)
    if args.users is not None:
        users = listed(args.users, recommender.users)
    if args.history is not None:
        histories = {"history": listed(args.history, recommender.items)}
    files = "--users_file, one a line" if histories is None else "a .jsonl --histories_file"
    known = recommender.users if args.users else recommender.items
    with _told_of_commas(args.users or args.history, known, f"or several in {files}"):
        requests = recommender.requests(users, histories, args.before, args.unknown_items)
    tables = recommender.tables(requests, args.k, args.seen, args.output is not None)
    if recommender.recall is not None:
        print(f"Of the best items the approximate index finds {recommender.recall:.1%}.")
    _give(tables, args.output, "they have had every item. --seen recommends those, too.")


def _similar(args: argparse.Namespace) -> None:
    _check_files(args, "checkpoint", "new_items")
    plug_in()
    from recbole_tslrec.recommendation.output import check_output
    from recbole_tslrec.recommendation.recommender import Recommender

    check_output(args.output, (args.checkpoint, args.new_items))
    recommender = Recommender(**_opening(args), titles=_titles(args))
    _take_new_items(recommender, args)
    with _told_of_commas(args.items, recommender.items):
        found = recommender.similar(listed(args.items, recommender.items), args.k, args.under)
    _give([found], args.output, "no other item shares a word with these.")


def _opening(args: argparse.Namespace) -> dict[str, Any]:
    return {
        name: getattr(args, name)
        for name in ("checkpoint", "device", "data_path", "llm_trust_remote_code")
    }


def _check_files(args: argparse.Namespace, *options: str) -> None:
    """Raise, as ``check_is_file`` does, for the first option's file that is given and not there."""
    for option in options:
        if (path := getattr(args, option)) is not None:
            check_is_file(option, path, read_once=option in _READ_ONCE)


def _take_new_items(recommender: Recommender, args: argparse.Namespace) -> None:
    if args.new_items is not None:
        from recbole_tslrec.recommendation.new_items import read_new_items

        texts = read_new_items(args.new_items, *recommender.file_columns)
        recommender.add_items(texts, args.output is not None)


def _titles(args: argparse.Namespace) -> list[str] | None:
    return None if args.titles is None else listed(args.titles)


@contextmanager
def _told_of_commas(
    text: str | None, known: Collection[str], otherwise: str = ""
) -> Iterator[None]:
    """Where tokens of a text are not known, say how those that have commas in them are given."""
    from recbole_tslrec.recommendation.requests import UnknownTokens

    try:
        yield
    except UnknownTokens as error:
        if "," not in (text or "") or not any("," in token for token in known):
            raise
        more = f", {otherwise}" if otherwise else ""
        raise ValueError(f"{error} Give a token with a comma in it alone{more}.") from None


def _give(tables: Iterable[pd.DataFrame], output: Path | None, why_none: str) -> None:
    """Write the tables or show them; ``why_none`` ends the line that stands for no row at all."""
    from recbole_tslrec.recommendation.output import write_tables

    if output is not None:
        print(f"{write_tables(tables, output):,} rows in {output}")
        return
    n_rows = 0
    for table in tables:
        n_rows += len(table)
        if table.empty:  # of which tabulate makes nothing
            continue
        rows = table.to_dict("list")
        texts = [at for at, name in enumerate(rows) if name not in ("rank", "score")]
        print(tabulate(rows, headers="keys", floatfmt=".4f", disable_numparse=texts))
    if not n_rows:
        print(f"There is nothing to show: {why_none}")


def _explore(args: argparse.Namespace) -> None:
    _check_files(args, "checkpoint", "beside")
    plug_in()
    from recbole_tslrec.recommendation.explore.page import write_page

    write_page(
        **_opening(args),
        output=args.output,
        beside=args.beside,
        n_users=args.n_users,
        allow_new_data=args.allow_new_data,
        show_progress=True,
    )
    print(f"Open [{args.output}] in a browser; it needs no network.")
