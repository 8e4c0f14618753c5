"""What is checked before the first stage runs: what would else stop a later one hours on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_tslrec.files import warn_of_little_space
from recbole_tslrec.language_model.reader import check_language_model, open_source_for
from recbole_tslrec.recbole_keys import check_valid_metric


def check_before_training(config, stages: Sequence[str], n_items: int) -> None:
    """Raise what would stop a stage hours later: called before the first one runs.

    Args:
        config: RecBole's config with our keys.
        stages: the stages that have to be made.
        n_items: the number of items of the data set, without padding.

    Raises:
        ValueError, OSError, ModuleNotFoundError: says which key, its value, and what to do.
    """
    if "categories" in stages:
        check_categories(config, n_items)
    if "augmentation" in stages:
        check_language_model(config)
        needed = _bytes_of_stages(config, n_items, open_source_for(config))
        warn_of_little_space("tslrec_dir", Path(config["tslrec_dir"]), needed)


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


def _bytes_of_stages(config, n_items: int, source) -> int:
    """About how much the stages of one experiment take on disk at their largest."""
    d, width = config["hidden_size"] or config["embedding_size"] or 64, source.hidden_size
    layers = getattr(source.config.get_text_config(), "num_hidden_layers", 12)
    # About seven matrices a layer get adapters, which are [in, r] and [r, out].
    adapters = layers * 7 * 2 * config["lora_r"] * width
    trained = adapters + width * (d + config["n_categories"])
    # fp32. Adam keeps two numbers beside each one; three checkpoints lie there before the oldest goes.
    fine_tuning = 4 * trained * (3 * 3 + 1)
    backbone = 4 * n_items * d * (3 + 1)  # its checkpoint, and e_v
    return backbone + fine_tuning + 4 * n_items * (width + config["n_categories"])
