"""Files, locks, finished stages, tensors tied to items, checkpoints; knows nothing of any paradigm."""
