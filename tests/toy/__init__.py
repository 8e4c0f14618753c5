"""A paradigm of a few lines in one folder; docs/add-a-paradigm.md walks through it."""
