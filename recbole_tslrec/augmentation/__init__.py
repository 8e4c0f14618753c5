"""Information augmentation: an enhanced embedding for every item (paper §4.2)."""
