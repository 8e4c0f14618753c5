"""DELRec (arXiv 2406.11156): soft prompts learn a recommender's patterns, then the model is tuned."""
