"""A data set whose sequences come ready-made (RecBole's ``benchmark_filename``)."""

from pathlib import Path


def ready_made_sequences() -> dict:
    """Writes the data set ``sess``; what its keys are."""
    folder = Path("data/sess")
    folder.mkdir(parents=True)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    for at, part in enumerate(("train", "valid", "test")):
        rows = [f"s{at}{n}\ti{n} i{n + 1}\ti{n + 2}" for n in range(9)]
        (folder / f"sess.{part}.inter").write_text("\n".join([header, *rows]) + "\n")
    titles = [f"i{n}\tTitle {n}" for n in range(11)]
    (folder / "sess.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]))
    return {
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "epochs": 1,
    }
