"""A grid of cells: what is compared, run and kept."""
