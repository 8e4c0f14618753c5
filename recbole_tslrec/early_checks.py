"""What is checked before the first stage runs: what would else stop a later one hours on."""

from __future__ import annotations

from recbole_tslrec.recbole_keys import check_valid_metric


def check_validation(config, valid_data) -> None:
    """Raise ValueError if the epoch is to be chosen by a metric not computed, or on no user at all.

    RecBole would look for the metric after the first epoch. Without a user it would train for all
    epochs, and may end without a test, too.

    Args:
        valid_data: RecBole's loader; None if there is to be none.
    """
    if valid_data is None or config["eval_step"] <= 0:
        return
    if len(valid_data._dataset) > 0:
        check_valid_metric(config)
    elif config["eval_args"]["split"] == {"LS": "valid_and_test"}:
        raise ValueError(
            f"dataset: [{config['dataset']}], or what its filters leave of it, has no user with the "
            f"four interactions that training, validation and test take. eval_step: 0 trains without "
            f"validation."
        )


def check_categories(config, n_items: int) -> None:
    """Raise ValueError for more categories than items."""
    if config["n_categories"] > n_items:
        raise ValueError(
            f"n_categories: [{config['n_categories']}] is more than the {n_items} items of the data "
            f"set [{config['dataset']}]. Give fewer."
        )
