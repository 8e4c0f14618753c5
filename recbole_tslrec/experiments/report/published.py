"""Figures that the paper has published, to stand beside ours (arXiv 2406.00333, Table 2)."""

from __future__ import annotations

# By (data set, backbone, variant). Only figures that we know to stand there; the others are left out.
# The paper's data sets after its own filtering, d = 256, full ranking.
PUBLISHED: dict[tuple[str, str, str], dict[str, float]] = {
    ("beauty", "SASRec", "Base"): {"HR@10": 0.0846, "NDCG@10": 0.0424},
    ("ml-1m", "SASRec", "Base"): {"HR@10": 0.3217, "NDCG@10": 0.1907},
    ("yelp", "SASRec", "Base"): {"HR@10": 0.0637, "NDCG@10": 0.0394},
}


def published(dataset: str, backbone: str, variant: str, metric: str) -> float | None:
    """The paper's figure, if it is known; the data set's case does not count."""
    return PUBLISHED.get((dataset.lower(), backbone, variant), {}).get(metric)
