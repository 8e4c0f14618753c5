"""Stage 2, information augmentation (paper §4.2): from a tuned language model to the item table."""
