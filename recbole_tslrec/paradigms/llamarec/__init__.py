"""LlamaRec (arXiv 2311.02089): a language model re-ranks what a small model retrieves, by letters."""
