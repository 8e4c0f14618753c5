"""Stage 1, information reconstruction (paper §4.1): from item embeddings to a tuned language model."""
