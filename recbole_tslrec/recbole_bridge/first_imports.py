"""What RecBole's own imports do to the whole process is taken back; the package imports this first."""

from __future__ import annotations

import warnings

import torch


def import_recbole() -> None:
    """Import RecBole's sequential models, and leave warnings and autograd as the user has them.

    Ray, which RecBole imports, warns its users of how it is itself made. RecBole's SINE switches
    autograd's anomaly detection on for every model, a tool for debugging that keeps a stack trace of
    every operation. A user who has it on keeps it; where SINE was imported before, it is unknown
    whose wish that is, and it stays as it is.
    """
    warnings.filterwarnings(
        "ignore", "pkg_resources is deprecated", UserWarning, r"ray\._private\.parameter"
    )
    detect, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(detect, check_nan)


import_recbole()
