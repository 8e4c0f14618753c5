"""P5 (arXiv 2203.13366) with item codes (arXiv 2305.06569): a T5 writes the next item's code."""
