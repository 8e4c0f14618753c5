"""LLM-TRSR (arXiv 2403.13325): histories summarised in words, then a yes or no for each candidate."""
